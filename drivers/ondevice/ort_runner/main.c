/* Runs an ONNX model through any libonnxruntime and times it where it runs.
 *
 * Results go to the working directory: `result.json`, and by mode `latency.npy` (int64 [2, n]:
 * start on the monotonic clock and duration, in ns), `output-<i>.npy` (items on the first axis) or
 * `profile.json`. A model that is at fault is a result with an `error`. The loop knows nothing of
 * labels, scores or verdicts. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

typedef void (*mode_function)(const struct options *, struct json *);

static const struct {
    const char *name;
    mode_function function;
} MODES[] = {
    {"facts", facts},
    {"measure", measure},
    {"infer", infer},
    {"profile", profile},
    {"compile", compile},
};

static mode_function find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof MODES / sizeof MODES[0]; i++)
        if (strcmp(MODES[i].name, name) == 0)
            return MODES[i].function;
    give_up(STATUS_USAGE, "there is no mode '%s'", name);
}

int main(int argc, char **argv)
{
    struct options options = read_options(argc, argv);
    mode_function run_mode = find_mode(options.mode);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of write, as on a full disk */
    if (options.cpus)
        pin_to(options.cpus); /* before the runtime starts a thread */
    open_library(options.library);

    struct json result = {0};
    json_begin(&result);
    run_mode(&options, &result);
    bool has_folder = options.model != NULL; /* facts are asked for from anywhere */
    if (has_folder) {
        json_key(&result, "accelerator");
        json_string(&result, options.accelerator);
        json_key(&result, "peak_rss_bytes");
        json_integer(&result, peak_rss_bytes());
    }
    json_end(&result);
    json_deliver(&result, has_folder);
    /* Tearing a session down takes time and, with some drivers, crashes: the kernel does it. */
    _Exit(0);
}
