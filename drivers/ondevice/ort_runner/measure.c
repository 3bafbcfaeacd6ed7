/* What the runner does with a model besides inferring: measure, compile, profile. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runner.h"

static const double MAX_PACE = 1.2; /* slower than this, somebody else computes */
enum { PACE_PAUSE_NS = 20000000, PATIENCE_NS = 1000000000 };
/* A profile of many nodes is long: a few inferences are enough. */
static const struct bounds PROFILED = {
    .min_duration_ns = 0, .min_queries = 20, .max_duration_ns = 200000000};

/* The first inference of this process; its outputs must be usable. Returns its time in ns. */
static int64_t first_inference(const struct model *model, const struct feeds *feeds)
{
    OrtValue **outputs = allocate(model->output_count, sizeof *outputs);
    int64_t took = run_once(model, feeds->values[0], outputs);
    refuse_bad_numbers(model, outputs);
    for (size_t i = 0; i < model->output_count; i++)
        ort->ReleaseValue(outputs[i]);
    free(outputs);
    return took;
}

/* One window in two halves, and the pace between them: a disturbance long enough to move the
 * median lasts over half of the window, so it is there in the middle. */
static double timed_window(const struct options *options, const struct model *model,
    const struct feeds *feeds, struct samples *samples)
{
    struct bounds half = {
        .min_duration_ns = (int64_t)(options->min_duration_s * 5e8),
        .min_queries = (options->min_queries + 1) / 2,
        .max_duration_ns = (int64_t)(options->max_duration_s * 5e8),
    };
    samples->count = 0;
    timed_loop(ort->Run, model, feeds, half, samples);
    double pace = pace_ns();
    timed_loop(ort->Run, model, feeds, half, samples);
    return pace;
}

/* A window at the pace that this processor has when nobody disturbs it, if one can be had.
 * Waiting and trying again go by the pace of the fixed loop, never by what was measured. When
 * patience ends the last window counts as it is, and its pace tells. */
static double quiet_window(const struct options *options, const struct model *model,
    const struct feeds *feeds, struct samples *samples)
{
    int64_t deadline = now_ns() + PATIENCE_NS;
    double limit = MAX_PACE * options->quiet_pace_ns;
    for (;;) {
        while (limit > 0 && pace_ns() > limit && now_ns() < deadline)
            nanosleep(&(struct timespec){.tv_nsec = PACE_PAUSE_NS}, NULL);
        double pace = timed_window(options, model, feeds, samples);
        if (limit <= 0 || pace <= limit || now_ns() >= deadline)
            return pace;
    }
}

static void keep_samples(const struct samples *samples)
{
    static const char NAME[] = "latency.npy";
    const int64_t shape[] = {2, (int64_t)samples->count};
    FILE *file = fopen(NAME, "wb");
    if (!file)
        cannot_keep(NAME);
    npy_header(file, NAME, "<i8", shape, 2);
    size_t kept = fwrite(samples->starts, sizeof(int64_t), samples->count, file)
        + fwrite(samples->durations, sizeof(int64_t), samples->count, file);
    if (kept != 2 * samples->count || fclose(file))
        cannot_keep(NAME);
}

static void tell_shapes(struct json *result, const struct model *model, OrtValue *const *feed)
{
    json_key(result, "input_shapes");
    json_begin(result);
    for (size_t i = 0; i < model->input_count; i++) {
        OrtTensorTypeAndShapeInfo *info;
        size_t rank;
        must(ort->GetTensorTypeAndShape(feed[i], &info));
        must(ort->GetDimensionsCount(info, &rank));
        int64_t *shape = allocate(rank, sizeof *shape);
        must(ort->GetDimensions(info, shape, rank));
        ort->ReleaseTensorTypeAndShapeInfo(info);
        json_key(result, model->input_names[i]);
        json_begin_list(result);
        for (size_t axis = 0; axis < rank; axis++)
            json_integer(result, shape[axis]);
        json_end_list(result);
        free(shape);
    }
    json_end(result);
}

static void tell_integer(struct json *result, const char *key, int64_t value)
{
    json_key(result, key);
    json_integer(result, value);
}

static void tell_number(struct json *result, const char *key, double value)
{
    json_key(result, key);
    json_number(result, value);
}

static void tell_spans(struct json *result, const struct spans *spans)
{
    json_key(result, "spans");
    json_begin_list(result);
    for (size_t i = 0; i < spans->count; i++) {
        const struct span *span = &spans->items[i];
        json_begin_list(result);
        json_string(result, span->kind);
        json_integer(result, span->start_ns);
        json_integer(result, span->end_ns);
        json_integer(result, span->inferences);
        json_end_list(result);
    }
    json_end_list(result);
}

/* Beside a meter nothing but inferences may run inside the window, and none is run again. */
static double any_window(const struct options *options, const struct model *model,
    const struct feeds *feeds, const struct pin *pin, struct samples *samples,
    struct spans *spans)
{
    if (!options->metered)
        return quiet_window(options, model, feeds, samples);
    double pace = pace_ns();
    metered_window(options, model, feeds, pin, samples, spans);
    return pace;
}

void measure(const struct options *options, struct json *result)
{
    struct pin pin = open_pin(options->gpio);
    struct model model = open_model(options, false);
    struct feeds feeds = make_feeds(options, &model);
    int64_t first_ns = first_inference(&model, &feeds);
    bool settled = warm_up(&model, &feeds, (int64_t)(options->warmup_s * 1e9));
    struct samples samples = {0};
    struct spans spans = {0};
    double pace = any_window(options, &model, &feeds, &pin, &samples, &spans);
    keep_samples(&samples);
    tell_spans(result, &spans);
    tell_integer(result, "load_ns", model.load_ns);
    tell_integer(result, "first_ns", first_ns);
    tell_number(result, "pace_ns", pace);
    json_key(result, "facts");
    json_begin(result);
    json_key(result, "warmup_settled");
    json_bool(result, settled);
    tell_number(result, "loop_overhead_ns", loop_overhead_ns());
    tell_shapes(result, &model, feeds.values[0]);
    json_end(result);
}

/* Some providers compile when the model is loaded, some when it first runs. */
void compile(const struct options *options, struct json *result)
{
    struct model model = open_model(options, false);
    struct feeds feeds = make_feeds(options, &model);
    tell_integer(result, "load_ns", model.load_ns);
    tell_integer(result, "first_ns", first_inference(&model, &feeds));
    ort->ReleaseSession(model.session); /* caches are written at the end at the latest */
}

/* Leaves the runtime's own `profile.json`, which tells where every node ran. */
void profile(const struct options *options, struct json *result)
{
    struct model model = open_model(options, true);
    struct feeds feeds = make_feeds(options, &model);
    struct samples samples = {0};
    first_inference(&model, &feeds);
    timed_loop(ort->Run, &model, &feeds, PROFILED, &samples);
    (void)result; /* says nothing but that it went well */
    OrtAllocator *allocator;
    char *file;
    must(ort->GetAllocatorWithDefaultOptions(&allocator));
    must(ort->SessionEndProfiling(model.session, allocator, &file));
    if (rename(file, "profile.json"))
        cannot_keep("profile.json");
}
