/* A window beside a power meter, and what is done around it so that it is found in the meter's
 * samples: rest, mark, a short rest, the window, a short rest, mark, rest. */
#include <errno.h>
#include <time.h>

#include "runner.h"

/* Load where there is a 1. */
static const bool MARK[] = {1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1};
enum {
    CHIPS = sizeof MARK / sizeof MARK[0],
    CHIPS_APART = 4, /* rest between a mark and the window */
    INFERENCES = 2,  /* that an element has room for, so that a slow model can make it */
    LOOKS = 9,       /* at the two clocks; the quickest counts */
};
static const int64_t MAX_CHIP_NS = 2000000000; /* a slower one needs a wire */

static void rest_until(int64_t deadline_ns)
{
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / 1000000000), .tv_nsec = (long)(deadline_ns % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL) == EINTR)
        ;
}

static void add(struct spans *spans, const char *kind, int64_t start, int64_t end, size_t count)
{
    spans->items[spans->count++] = (struct span){kind, start, end, (int64_t)count};
}

static void idle(const struct options *options, struct spans *spans)
{
    int64_t start = now_ns();
    rest_until(start + (int64_t)(options->idle_s * 1e9));
    add(spans, "idle", start, now_ns(), 0);
}

/* Every element has its own end, so that what is late in one does not move the others. An inference
 * is not cut short: load ends with the one that ends nearest to that, be it sooner or later, or the
 * mark of a slow model would seem to lie later than it does. */
static void mark(int64_t chip_ns, const struct model *model, const struct feeds *feeds,
    struct spans *spans)
{
    int64_t start = now_ns(), end = start + CHIPS * chip_ns, half = 0;
    struct samples nobodys = {0};
    for (int chip = 0; chip < CHIPS; chip++) {
        int64_t deadline = start + (chip + 1) * chip_ns, left = deadline - half - now_ns();
        if (MARK[chip] && left > 0) {
            nobodys.count = 0;
            timed_loop(ort->Run, model, feeds, (struct bounds){left, 0, left}, &nobodys);
            half = nobodys.durations[nobodys.count - 1] / 2;
        } else {
            rest_until(deadline);
        }
    }
    rest_until(end);
    add(spans, "mark", start, end, 0);
}

/* How long an element must be for this model. */
static int64_t chip_for(int64_t asked_ns, const struct model *model, const struct feeds *feeds)
{
    struct samples nobodys = {0};
    timed_loop(ort->Run, model, feeds, (struct bounds){0, 1, 0}, &nobodys);
    int64_t needed = INFERENCES * nobodys.durations[0];
    needed = needed < MAX_CHIP_NS ? needed : MAX_CHIP_NS;
    return asked_ns > needed ? asked_ns : needed;
}

static void window(const struct options *options, const struct model *model,
    const struct feeds *feeds, const struct pin *pin, struct samples *samples)
{
    struct bounds bounds = {
        .min_duration_ns = (int64_t)(options->min_duration_s * 1e9),
        .min_queries = options->min_queries,
        .max_duration_ns = (int64_t)(options->max_duration_s * 1e9),
    };
    set_pin(pin, true);
    timed_loop(ort->Run, model, feeds, bounds, samples);
    set_pin(pin, false);
}

/* Wall clock less monotonic clock, from the reading that was interrupted the least. */
static int64_t wall_clock_ahead_ns(void)
{
    int64_t quickest = INT64_MAX, ahead = 0;
    for (int look = 0; look < LOOKS; look++) {
        struct timespec wall;
        int64_t before = now_ns();
        clock_gettime(CLOCK_REALTIME, &wall);
        int64_t after = now_ns();
        if (after - before >= quickest)
            continue;
        quickest = after - before;
        ahead = wall.tv_sec * INT64_C(1000000000) + wall.tv_nsec - (before + quickest / 2);
    }
    return ahead;
}

void metered_window(const struct options *options, const struct model *model,
    const struct feeds *feeds, const struct pin *pin, struct samples *samples,
    struct spans *spans)
{
    const int64_t asked_ns = (int64_t)(options->chip_s * 1e9);
    const int64_t chip_ns = asked_ns ? chip_for(asked_ns, model, feeds) : 0;
    const int64_t apart_ns = CHIPS_APART * chip_ns;
    idle(options, spans);
    if (chip_ns) {
        mark(chip_ns, model, feeds, spans);
        rest_until(now_ns() + apart_ns);
    }
    window(options, model, feeds, pin, samples);
    size_t last = samples->count - 1;
    add(spans, "window", samples->starts[0], samples->starts[last] + samples->durations[last],
        samples->count);
    if (chip_ns) {
        rest_until(now_ns() + apart_ns);
        mark(chip_ns, model, feeds, spans);
    }
    idle(options, spans);
    int64_t ahead = wall_clock_ahead_ns();
    for (size_t i = 0; i < spans->count; i++) {
        spans->items[i].start_ns += ahead;
        spans->items[i].end_ns += ahead;
    }
}
