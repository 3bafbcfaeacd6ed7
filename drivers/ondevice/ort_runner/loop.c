/* The timed loop. Between the two readings of the clock there is the call and nothing else. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runner.h"

enum {
    WARMUP_WINDOW_NS = 25000000,
    WARMUP_WINDOW_QUERIES = 10,
    OVERHEAD_QUERIES = 2000,
    PACE_CHUNKS = 20,
    PACE_TURNS = 2000,
};
static const double WARMUP_TOLERANCE = 0.02;

int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int ascending(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

double median(const int64_t *values, size_t count)
{
    int64_t *sorted = allocate(count, sizeof *sorted);
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, ascending);
    double middle = (double)(sorted[count / 2] + sorted[(count - 1) / 2]) / 2;
    free(sorted);
    return middle;
}

static void keep(struct samples *samples, int64_t start, int64_t duration)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 4096;
        samples->starts = realloc(samples->starts, samples->room * sizeof(int64_t));
        samples->durations = realloc(samples->durations, samples->room * sizeof(int64_t));
        if (!samples->starts || !samples->durations)
            give_up(STATUS_BROKEN, "out of memory");
    }
    samples->starts[samples->count] = start;
    samples->durations[samples->count++] = duration;
}

void timed_loop(run_function run, const struct model *model, const struct feeds *feeds,
    struct bounds bounds, struct samples *samples)
{
    const char *const *inputs = (const char *const *)model->input_names;
    const char *const *names = (const char *const *)model->output_names;
    OrtValue **outputs = allocate(model->output_count, sizeof *outputs);
    int64_t begin = now_ns(), done = 0;
    int64_t earliest = begin + bounds.min_duration_ns, latest = begin + bounds.max_duration_ns;
    for (size_t turn = 0;; turn = turn + 1 < feeds->count ? turn + 1 : 0) {
        const OrtValue *const *feed = (const OrtValue *const *)feeds->values[turn];
        int64_t start = now_ns();
        OrtStatus *status = run(model->session, NULL, inputs, feed, model->input_count, names,
            model->output_count, outputs);
        int64_t end = now_ns();
        keep(samples, start, end - start);
        if (status)
            refuse("deploy_failed", "%s", complaint(status));
        for (size_t i = 0; i < model->output_count; i++) {
            ort->ReleaseValue(outputs[i]);
            outputs[i] = NULL; /* else the runtime would write into it */
        }
        done++;
        if (end >= latest || (end >= earliest && done >= bounds.min_queries))
            break;
    }
    free(outputs);
}

static OrtStatus *ORT_API_CALL run_nothing(OrtSession *session, const OrtRunOptions *options,
    const char *const *input_names, const OrtValue *const *inputs, size_t input_count,
    const char *const *output_names, size_t output_count, OrtValue **outputs)
{
    (void)session, (void)options, (void)input_names, (void)inputs, (void)input_count;
    (void)output_names, (void)output_count, (void)outputs;
    return NULL;
}

double loop_overhead_ns(void)
{
    struct model nothing = {0};
    OrtValue **no_inputs = NULL;
    struct feeds feeds = {.values = &no_inputs, .count = 1};
    struct bounds bounds = {0, OVERHEAD_QUERIES, INT64_C(1000000000)};
    struct samples samples = {0};
    timed_loop(run_nothing, &nothing, &feeds, bounds, &samples);
    return median(samples.durations, samples.count);
}

/* Runs until the medians of two adjacent windows agree; false if they never did in time. */
bool warm_up(const struct model *model, const struct feeds *feeds, int64_t limit_ns)
{
    int64_t deadline = now_ns() + limit_ns;
    double previous = -1;
    struct bounds window = {WARMUP_WINDOW_NS, WARMUP_WINDOW_QUERIES, limit_ns};
    struct samples samples = {0};
    while (now_ns() < deadline) {
        samples.count = 0;
        timed_loop(ort->Run, model, feeds, window, &samples);
        double middle = median(samples.durations, samples.count);
        double change = middle > previous ? middle - previous : previous - middle;
        if (previous >= 0 && change <= WARMUP_TOLERANCE * previous)
            return true;
        previous = middle;
    }
    return false;
}

static void step(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
}

/* Time of one turn of a fixed loop, in ns: slower than usual when others share the processor. It
 * shows what no counter of the device shows, such as a neighbour on the sibling thread: for that
 * it has four chains that do not wait for each other and keep the execution units busy. */
double pace_ns(void)
{
    int64_t took[PACE_CHUNKS];
    uint32_t a = 1, b = 2, c = 3, d = 4;
    for (int chunk = 0; chunk < PACE_CHUNKS; chunk++) {
        int64_t start = now_ns();
        for (int turn = 0; turn < PACE_TURNS; turn++) {
            step(&a), step(&b), step(&c), step(&d);
            /* Neither vectors nor shortcuts: the compiler must not know the values. */
            __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
        }
        took[chunk] = now_ns() - start;
    }
    return median(took, PACE_CHUNKS) / PACE_TURNS;
}
