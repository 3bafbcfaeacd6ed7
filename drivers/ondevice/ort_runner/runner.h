/* What the parts of the runner know of each other. */
#ifndef RUNNER_H
#define RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "onnxruntime_c_api.h"

/* ---- report.c: how the runner ends when something is wrong ---- */

enum {
    STATUS_BROKEN = 1,  /* the runtime failed where no model can make it fail */
    STATUS_USAGE = 2,   /* the command line is wrong */
    STATUS_NO_ROOM = 28,/* the disk is full: not the model's doing */
    STATUS_UNFIT = 30,  /* the device lacks what was asked for: a library, a processor */
};

/* The model is at fault: a result with its code, and exit status 0. */
_Noreturn void refuse(const char *code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Anything else: a line on stderr and this exit status. */
_Noreturn void give_up(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A file cannot be written; errno tells why. */
_Noreturn void cannot_keep(const char *what);
/* Zeroed memory; never NULL. */
void *allocate(size_t count, size_t size);
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- json.c: one object, written from front to back ---- */

struct json {
    char *text;
    size_t length, room;
    bool comma;
};

void json_begin(struct json *json);
void json_end(struct json *json);
void json_begin_list(struct json *json);
void json_end_list(struct json *json);
void json_key(struct json *json, const char *key);
void json_string(struct json *json, const char *value);
void json_integer(struct json *json, int64_t value);
void json_number(struct json *json, double value);
void json_bool(struct json *json, bool value);
/* Writes it as one line to stdout and, where there is a folder for it, to result.json. */
void json_deliver(const struct json *json, bool into_file);

/* ---- options.c: the command line ---- */

struct pair {
    const char *name, *value;
};

struct pairs {
    struct pair *items;
    size_t count;
};

struct input_file {
    const char *name, *file, *form; /* form: `float32:1x49x10x1`, one item */
};

struct options {
    const char *mode, *library, *model, *accelerator, *cpus;
    struct pairs dimensions, provider_options, configs;
    struct input_file *inputs;
    size_t input_count;
    int threads, optimisation;
    double warmup_s, min_duration_s, max_duration_s, quiet_pace_ns;
    int64_t min_queries;
    bool metered;       /* a power meter samples meanwhile */
    double idle_s, chip_s;
    const char *gpio;   /* NULL: no pin is wired to the meter */
};

struct options read_options(int argc, char **argv);

/* ---- types.c: the element types that numpy has as well ---- */

struct type {
    ONNXTensorElementDataType id;
    const char *onnx;  /* as in `tensor(float)` */
    const char *numpy; /* NULL where numpy has none */
    const char *npy;
    size_t size;
    char kind; /* f: float, i: whole number */
};

/* Never NULL; what is not in the table has no numpy name. */
const struct type *type_of(ONNXTensorElementDataType id);
/* NULL if there is none of that name. */
const struct type *type_named(const char *numpy, size_t length);
/* Bytes of a tensor; false if no memory could ever hold them, or an axis is negative. */
bool bytes_of(const struct type *type, const int64_t *shape, size_t rank, size_t *bytes);
bool all_finite(const struct type *type, const void *values, size_t bytes);
/* Numbers that look like a normal distribution, or 0 and 1. */
void fill_seeded(const struct type *type, void *values, size_t bytes, uint32_t *state);

/* ---- library.c: the runtime, opened by its path ---- */

extern const OrtApi *ort;
extern const char *ort_version;
extern uint32_t ort_level;

void open_library(const char *path);
void *library_symbol(const char *name);
/* The complaint in one line of bounded length, NULL if there is none; frees the status. */
char *complaint(OrtStatus *status);
/* For calls that no model can make fail. */
void must(OrtStatus *status);

/* ---- providers.c: accelerators under the farm's names ---- */

struct providers {
    char **full; /* `CPUExecutionProvider` */
    char **name; /* `cpu` */
    size_t count;
};

struct providers available_providers(void);
char *joined(char **words, size_t count);
/* Adds one of the available providers to a session that is not yet made. */
OrtStatus *append_provider(
    OrtSessionOptions *session, const char *full, const struct pairs *provider_options);

/* ---- session.c: a model, loaded ---- */

struct model {
    OrtSession *session;
    size_t input_count, output_count;
    char **input_names, **output_names;
    int64_t load_ns;
};

struct model open_model(const struct options *options, bool profiled);

/* ---- inputs.c: what the model is fed ---- */

struct feeds {
    OrtValue ***values; /* [feed][input], inputs in the model's order */
    size_t count;
};

/* An input's items in a file, read one at a time. */
struct items {
    FILE *file;
    const struct type *type;
    int64_t *shape;
    size_t rank, bytes;
};

struct items *open_items(
    const struct options *options, const struct model *model, size_t *item_count);
OrtValue **read_item(const struct items *items, size_t input_count);
void release_values(OrtValue **values, size_t count);
struct feeds make_feeds(const struct options *options, const struct model *model);

/* ---- outputs.c ---- */

/* One inference; a complaint of the runtime is a problem of the workload. */
int64_t run_once(const struct model *model, OrtValue *const *feed, OrtValue **outputs);
void refuse_bad_numbers(const struct model *model, OrtValue *const *outputs);
void infer(const struct options *options, struct json *result);

/* ---- npy.c: arrays that numpy reads ---- */

/* At the beginning of the file; written again when the number of items is known. */
void npy_header(
    FILE *file, const char *name, const char *npy_type, const int64_t *shape, size_t rank);

/* ---- loop.c: the timed loop ---- */

struct samples {
    int64_t *starts, *durations; /* ns */
    size_t count, room;
};

struct bounds {
    int64_t min_duration_ns, min_queries, max_duration_ns;
};

/* The runtime's own Run, or something that does nothing in its place. */
typedef OrtStatus *(ORT_API_CALL *run_function)(
    OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t,
    const char *const *, size_t, OrtValue **);

int64_t now_ns(void);
double median(const int64_t *values, size_t count);
void timed_loop(run_function run, const struct model *model, const struct feeds *feeds,
    struct bounds bounds, struct samples *samples);
double loop_overhead_ns(void);
bool warm_up(const struct model *model, const struct feeds *feeds, int64_t limit_ns);
double pace_ns(void);

/* ---- gpio.c: the pin that is wired to a meter ---- */

struct pin {
    const char *text; /* NULL if none is wired */
    int line;
};

/* `/dev/gpiochip0:17`, or `/dev/gpiochip0:!17` for one that is low when it is set; or NULL. It is
 * low until then, and nobody else can use it as long as this process lives. What becomes of it
 * afterwards is up to the chip: most let it float. */
struct pin open_pin(const char *text);
void set_pin(const struct pin *pin, bool high);

/* ---- metered.c: a window beside a power meter ---- */

struct span {
    const char *kind;
    int64_t start_ns, end_ns; /* since 1970 */
    int64_t inferences;
};

struct spans {
    struct span items[5]; /* two rests, two marks and the window at most */
    size_t count;
};

void metered_window(const struct options *options, const struct model *model,
    const struct feeds *feeds, const struct pin *pin, struct samples *samples,
    struct spans *spans);

/* ---- measure.c ---- */

void measure(const struct options *options, struct json *result);
void compile(const struct options *options, struct json *result);
void profile(const struct options *options, struct json *result);

/* ---- device.c: this process and the machine it runs on ---- */

void pin_to(const char *cpus);
int64_t peak_rss_bytes(void);
void facts(const struct options *options, struct json *result);

#endif
