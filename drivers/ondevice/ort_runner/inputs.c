/* What the model is fed: items of a workload from raw files, or one input drawn from a seed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { MAX_FEEDS = 64, /* enough different inputs that no branch predictor learns them by heart */
       MAX_RANK = 64, ALIGNMENT = 64 };

static OrtMemoryInfo *memory_info(void)
{
    static OrtMemoryInfo *info;
    if (!info)
        must(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    return info;
}

/* A tensor over memory of ours, aligned as the runtime aligns its own. */
static OrtValue *make_tensor(const char *name, const struct type *type, const int64_t *shape,
    size_t rank, void **values, size_t *bytes)
{
    OrtValue *value;
    if (!bytes_of(type, shape, rank, bytes))
        refuse("deploy_failed", "input '%s' is too big", name);
    if (posix_memalign(values, ALIGNMENT, *bytes + ALIGNMENT))
        refuse("deploy_failed", "input '%s' takes %zu bytes: more than there is", name, *bytes);
    char *message = complaint(ort->CreateTensorWithDataAsOrtValue(
        memory_info(), *values, *bytes, shape, rank, type->id, &value));
    if (message)
        refuse("deploy_failed", "input '%s': %s", name, message);
    return value;
}

/* ---- items of a workload ---- */

static int by_name(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

static char *sorted_and_joined(char **names, size_t count)
{
    char **sorted = allocate(count, sizeof(char *));
    memcpy(sorted, names, count * sizeof(char *));
    qsort(sorted, count, sizeof(char *), by_name);
    char *text = joined(sorted, count);
    free(sorted);
    return text;
}

static const struct input_file *input_named(const struct options *options, const char *name)
{
    for (size_t i = 0; i < options->input_count; i++)
        if (strcmp(options->inputs[i].name, name) == 0)
            return &options->inputs[i];
    return NULL;
}

/* The workload's inputs must be the model's, no more and no fewer. */
static void compare_names(const struct options *options, const struct model *model)
{
    bool same = options->input_count == model->input_count;
    for (size_t i = 0; i < model->input_count; i++)
        same = same && input_named(options, model->input_names[i]);
    if (same)
        return;
    char **given = allocate(options->input_count, sizeof(char *));
    for (size_t i = 0; i < options->input_count; i++)
        given[i] = (char *)options->inputs[i].name;
    refuse("deploy_failed", "the model takes %s; the workload has %s",
        sorted_and_joined(model->input_names, model->input_count),
        sorted_and_joined(given, options->input_count));
}

/* `float32:1x49x10x1`. */
static void read_form(const struct input_file *input, struct items *items)
{
    const char *colon = strchr(input->form, ':');
    items->type = colon ? type_named(input->form, (size_t)(colon - input->form)) : NULL;
    if (!items->type)
        give_up(STATUS_USAGE, "'%s' is no type and shape", input->form);
    items->shape = allocate(MAX_RANK, sizeof(int64_t));
    for (const char *at = colon + 1; *at && items->rank < MAX_RANK;) {
        char *end;
        items->shape[items->rank++] = strtoll(at, &end, 10);
        if (end == at || (*end && *end != 'x'))
            give_up(STATUS_USAGE, "'%s' is no type and shape", input->form);
        at = *end ? end + 1 : end;
    }
}

/* Opens the file of one input; returns how many whole items it holds. */
static size_t open_one(const struct input_file *input, struct items *items)
{
    read_form(input, items);
    if (!bytes_of(items->type, items->shape, items->rank, &items->bytes) || !items->bytes)
        refuse("deploy_failed", "an item of input '%s' is empty or too big", input->name);
    items->file = fopen(input->file, "rb");
    if (!items->file || fseeko(items->file, 0, SEEK_END))
        give_up(STATUS_BROKEN, "cannot read '%s': %s", input->file, strerror(errno));
    off_t size = ftello(items->file);
    rewind(items->file);
    return (size_t)size / items->bytes;
}

struct items *open_items(
    const struct options *options, const struct model *model, size_t *item_count)
{
    compare_names(options, model);
    struct items *items = allocate(model->input_count, sizeof *items);
    for (size_t i = 0; i < model->input_count; i++) {
        const struct input_file *input = input_named(options, model->input_names[i]);
        size_t count = open_one(input, &items[i]);
        if (i && count != *item_count)
            refuse("deploy_failed", "input '%s' has %zu items, input '%s' has %zu", input->name,
                count, model->input_names[0], *item_count);
        *item_count = count;
    }
    if (!model->input_count || !*item_count)
        refuse("deploy_failed", "the workload has no items");
    return items;
}

OrtValue **read_item(const struct items *items, size_t input_count)
{
    OrtValue **values = allocate(input_count, sizeof *values);
    for (size_t i = 0; i < input_count; i++) {
        void *memory;
        size_t bytes;
        values[i] = make_tensor(
            "of the workload", items[i].type, items[i].shape, items[i].rank, &memory, &bytes);
        if (fread(memory, 1, bytes, items[i].file) != bytes)
            give_up(STATUS_BROKEN, "an input ends before its last item");
    }
    return values;
}

void release_values(OrtValue **values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *memory;
        must(ort->GetTensorMutableData(values[i], &memory));
        ort->ReleaseValue(values[i]);
        free(memory);
    }
    free(values);
}

/* ---- seeded inputs ---- */

struct declared {
    const char *name;
    const struct type *type;
    size_t rank;
    int64_t *sizes;       /* -1 where free */
    const char **symbols; /* empty where fixed or without a name */
};

static struct declared declared_input(const struct model *model, size_t index)
{
    struct declared input = {.name = model->input_names[index]};
    OrtTypeInfo *info; /* kept: the symbols are part of it */
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType id = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    must(ort->SessionGetInputTypeInfo(model->session, index, &info));
    must(ort->CastTypeInfoToTensorInfo(info, &tensor));
    if (tensor) {
        must(ort->GetTensorElementType(tensor, &id));
        must(ort->GetDimensionsCount(tensor, &input.rank));
        input.sizes = allocate(input.rank, sizeof(int64_t));
        input.symbols = allocate(input.rank, sizeof(char *));
        must(ort->GetDimensions(tensor, input.sizes, input.rank));
        must(ort->GetSymbolicDimensions(tensor, input.symbols, input.rank));
    }
    input.type = type_of(id);
    return input;
}

static const char *given_size(const struct pairs *dimensions, const char *symbol)
{
    for (size_t i = 0; i < dimensions->count; i++)
        if (strcmp(dimensions->items[i].name, symbol) == 0)
            return dimensions->items[i].value;
    return NULL;
}

/* The size of one axis; a free first axis is a batch of one. */
static int64_t size_of(const struct declared *input, size_t axis, const struct pairs *dimensions)
{
    const char *symbol = input->symbols[axis];
    if (input->sizes[axis] >= 0)
        return input->sizes[axis];
    const char *given = *symbol ? given_size(dimensions, symbol) : NULL;
    if (given)
        return strtoll(given, NULL, 10);
    if (axis == 0)
        return 1;
    if (!*symbol)
        refuse("deploy_failed",
            "input '%s' has a free dimension without a name: it needs a workload", input->name);
    refuse("deploy_failed", "input '%s' has the free dimension '%s'; give its size: --shape %s=N",
        input->name, symbol, symbol);
}

static bool has_symbol(const struct declared *inputs, size_t count, const char *symbol)
{
    for (size_t i = 0; i < count; i++)
        for (size_t axis = 0; axis < inputs[i].rank; axis++)
            if (inputs[i].sizes[axis] < 0 && strcmp(inputs[i].symbols[axis], symbol) == 0)
                return true;
    return false;
}

static OrtValue *seeded_value(
    const struct declared *input, const struct pairs *dimensions, uint32_t *state)
{
    if (!input->type->numpy)
        refuse("deploy_failed", "input '%s' of type tensor(%s) needs a workload", input->name,
            input->type->onnx);
    int64_t *shape = allocate(input->rank, sizeof(int64_t));
    for (size_t axis = 0; axis < input->rank; axis++)
        shape[axis] = size_of(input, axis, dimensions);
    void *memory;
    size_t bytes;
    OrtValue *value = make_tensor(input->name, input->type, shape, input->rank, &memory, &bytes);
    fill_seeded(input->type, memory, bytes, state);
    free(shape);
    return value;
}

static OrtValue **seeded_feed(const struct options *options, const struct model *model)
{
    const struct pairs *dimensions = &options->dimensions;
    struct declared *inputs = allocate(model->input_count, sizeof *inputs);
    for (size_t i = 0; i < model->input_count; i++)
        inputs[i] = declared_input(model, i);
    for (size_t i = 0; i < dimensions->count; i++)
        if (!has_symbol(inputs, model->input_count, dimensions->items[i].name))
            refuse("deploy_failed", "no input has a free dimension '%s'",
                dimensions->items[i].name);
    OrtValue **feed = allocate(model->input_count, sizeof *feed);
    uint32_t state = 2463534242u; /* xorshift's classic seed; any but 0 would do */
    for (size_t i = 0; i < model->input_count; i++)
        feed[i] = seeded_value(&inputs[i], dimensions, &state);
    free(inputs);
    return feed;
}

struct feeds make_feeds(const struct options *options, const struct model *model)
{
    struct feeds feeds = {.values = allocate(MAX_FEEDS, sizeof(OrtValue **))};
    if (!options->input_count) {
        feeds.values[feeds.count++] = seeded_feed(options, model);
        return feeds;
    }
    size_t item_count = 0;
    struct items *items = open_items(options, model, &item_count);
    while (feeds.count < item_count && feeds.count < MAX_FEEDS)
        feeds.values[feeds.count++] = read_item(items, model->input_count);
    return feeds;
}
