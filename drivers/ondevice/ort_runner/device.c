/* This process and the machine that it runs on. */
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"

enum { PROBE_S = 60 };

/* `2-3,5`: this process and every thread that it will start run there and nowhere else. */
void pin_to(const char *cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const char *at = cpus; *at;) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        bool read = end != at;
        if (read && *end == '-') {
            at = end + 1;
            last = strtol(at, &end, 10);
            read = end != at;
        }
        if (!read || first < 0 || last < first || last >= CPU_SETSIZE || (*end && *end != ','))
            give_up(STATUS_USAGE, "'%s' is no list of processors", cpus);
        for (long cpu = first; cpu <= last; cpu++)
            CPU_SET((size_t)cpu, &set);
        at = *end ? end + 1 : end;
    }
    if (sched_setaffinity(0, sizeof set, &set))
        give_up(STATUS_UNFIT, "cannot run on processors %s: %s", cpus, strerror(errno));
}

/* Largest resident memory of this process. Not `ru_maxrss`: that one survives exec, so a small
 * process would report the size of its parent. */
int64_t peak_rss_bytes(void)
{
    char line[256];
    long long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lld", &kilobytes) == 1)
            break;
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

/* One multiplication of a 1x1 matrix by the constant 1: most accelerators can do that. */
static const unsigned char TINY_MODEL[] = {
    0x08, 0x07, 0x3a, 0x51, 0x0a, 0x11, 0x0a, 0x01, 0x78, 0x0a, 0x01, 0x77, 0x12, 0x01, 0x79,
    0x22, 0x06, 0x4d, 0x61, 0x74, 0x4d, 0x75, 0x6c, 0x12, 0x01, 0x67, 0x2a, 0x0f, 0x08, 0x01,
    0x08, 0x01, 0x10, 0x01, 0x42, 0x01, 0x77, 0x4a, 0x04, 0x00, 0x00, 0x80, 0x3f, 0x5a, 0x13,
    0x0a, 0x01, 0x78, 0x12, 0x0e, 0x0a, 0x0c, 0x08, 0x01, 0x12, 0x08, 0x0a, 0x02, 0x08, 0x01,
    0x0a, 0x02, 0x08, 0x01, 0x62, 0x13, 0x0a, 0x01, 0x79, 0x12, 0x0e, 0x0a, 0x0c, 0x08, 0x01,
    0x12, 0x08, 0x0a, 0x02, 0x08, 0x01, 0x0a, 0x02, 0x08, 0x01, 0x42, 0x04, 0x0a, 0x00, 0x10,
    0x0d,
};

static OrtStatus *run_tiny_model(OrtSession *session)
{
    static float one = 1;
    const int64_t shape[] = {1, 1};
    const char *const input[] = {"x"}, *const output[] = {"y"};
    OrtMemoryInfo *info;
    OrtValue *value, *result = NULL;
    must(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    must(ort->CreateTensorWithDataAsOrtValue(
        info, &one, sizeof one, shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
    const OrtValue *const values[] = {value};
    return ort->Run(session, NULL, input, values, 1, output, 1, &result);
}

/* Tries a provider; NULL if it works, else why not. */
static char *try_provider(const char *full, const struct pairs *provider_options)
{
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    must(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "runner", &environment));
    must(ort->CreateSessionOptions(&options));
    must(ort->SetIntraOpNumThreads(options, 1));
    OrtStatus *status = append_provider(options, full, provider_options);
    if (!status)
        status = ort->CreateSessionFromArray(
            environment, TINY_MODEL, sizeof TINY_MODEL, options, &session);
    if (!status)
        status = run_tiny_model(session);
    return complaint(status);
}

/* In a process of its own: a driver that crashes or hangs costs its own accelerator only. */
static char *why_unusable(const char *full, const struct pairs *provider_options)
{
    int ends[2];
    fflush(stdout);
    if (pipe(ends))
        give_up(STATUS_BROKEN, "cannot make a pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        give_up(STATUS_BROKEN, "cannot start a process: %s", strerror(errno));
    if (child == 0) {
        alarm(PROBE_S);
        char *reason = try_provider(full, provider_options);
        size_t length = reason ? strlen(reason) : 0;
        _exit(write(ends[1], reason ? reason : "", length) != (ssize_t)length || length);
    }
    close(ends[1]);
    char reason[1024] = "";
    ssize_t length = read(ends[0], reason, sizeof reason - 1);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (length > 0)
        return format_text("%s", reason);
    if (WIFSIGNALED(status))
        return format_text("trying it died by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) ? format_text("trying it failed") : NULL;
}

static void tell(struct json *result, const char *key, const char *value)
{
    json_key(result, key);
    json_string(result, value);
}

static void tell_accelerators(struct json *result, const struct pairs *provider_options)
{
    struct providers available = available_providers();
    char *usable = format_text("%s", ""), *unusable = format_text("%s", "");
    for (size_t i = 0; i < available.count; i++) {
        const char *name = available.name[i];
        char *reason = why_unusable(available.full[i], provider_options);
        if (reason)
            unusable = format_text("%s%s%s: %s", unusable, *unusable ? "; " : "", name, reason);
        else
            usable = format_text("%s%s%s", usable, *usable ? "," : "", name);
    }
    tell(result, "accelerators", usable);
    if (*unusable)
        tell(result, "unusable", unusable);
}

void facts(const struct options *options, struct json *result)
{
    struct utsname machine;
    uname(&machine);
    tell(result, "onnxruntime", ort_version);
    char *level = format_text("%u", (unsigned)ort_level);
    tell(result, "onnxruntime_api", level);
    tell(result, "architecture", machine.machine);
    const char *(*glibc)(void); /* other C libraries have no such function */
    *(void **)&glibc = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
    if (glibc)
        tell(result, "glibc", glibc());
    tell_accelerators(result, &options->provider_options);
}
