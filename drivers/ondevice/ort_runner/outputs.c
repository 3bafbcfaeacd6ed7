/* One inference over every item of the workload, and every output kept. */
#include <stdlib.h>
#include <string.h>

#include "runner.h"

int64_t run_once(const struct model *model, OrtValue *const *feed, OrtValue **outputs)
{
    int64_t start = now_ns();
    OrtStatus *status = ort->Run(model->session, NULL, (const char *const *)model->input_names,
        (const OrtValue *const *)feed, model->input_count,
        (const char *const *)model->output_names, model->output_count, outputs);
    int64_t took = now_ns() - start;
    char *message = complaint(status);
    if (message)
        refuse("deploy_failed", "%s", message);
    return took;
}

struct described {
    const struct type *type;
    int64_t *shape;
    size_t rank, bytes;
    void *values;
};

/* An output as numbers; anything else is unusable. */
static struct described describe(const char *name, OrtValue *value)
{
    struct described output = {0};
    int is_tensor = 0;
    if (value)
        must(ort->IsTensor(value, &is_tensor));
    ONNXTensorElementDataType id = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    OrtTensorTypeAndShapeInfo *info = NULL;
    if (is_tensor) {
        must(ort->GetTensorTypeAndShape(value, &info));
        must(ort->GetTensorElementType(info, &id));
    }
    output.type = type_of(id);
    if (!output.type->numpy)
        refuse("wrong_output", "output '%s' is no array of numbers", name);
    must(ort->GetDimensionsCount(info, &output.rank));
    output.shape = allocate(output.rank, sizeof(int64_t));
    must(ort->GetDimensions(info, output.shape, output.rank));
    ort->ReleaseTensorTypeAndShapeInfo(info);
    if (!bytes_of(output.type, output.shape, output.rank, &output.bytes))
        refuse("wrong_output", "output '%s' is too big", name);
    must(ort->GetTensorMutableData(value, &output.values));
    return output;
}

static void refuse_bad_output(const char *name, const struct described *output)
{
    if (!all_finite(output->type, output->values, output->bytes))
        refuse("wrong_output", "output '%s' is NaN or infinite", name);
}

void refuse_bad_numbers(const struct model *model, OrtValue *const *outputs)
{
    for (size_t i = 0; i < model->output_count; i++) {
        struct described output = describe(model->output_names[i], outputs[i]);
        refuse_bad_output(model->output_names[i], &output);
        free(output.shape);
    }
}

/* The file that collects one output, items on the first axis. */
struct collected {
    char *file_name;
    FILE *file;
    struct described first;
    int64_t rows;
};

static void collect(struct collected *into, size_t index, const char *name, OrtValue *value)
{
    struct described output = describe(name, value);
    refuse_bad_output(name, &output);
    if (!output.rank)
        refuse("wrong_output", "output '%s' has no axis for the items", name);
    if (!into->file) {
        into->file_name = format_text("output-%zu.npy", index);
        into->file = fopen(into->file_name, "wb");
        if (!into->file)
            cannot_keep(into->file_name);
        into->first = output;
        npy_header(into->file, into->file_name, output.type->npy, output.shape, output.rank);
    }
    const struct described *first = &into->first;
    bool same = output.rank == first->rank && output.type == first->type
        && memcmp(output.shape + 1, first->shape + 1, (first->rank - 1) * sizeof(int64_t)) == 0;
    if (!same)
        refuse("wrong_output", "output '%s' changes its shape from item to item", name);
    if (output.bytes && fwrite(output.values, 1, output.bytes, into->file) != output.bytes)
        cannot_keep(into->file_name);
    into->rows += output.shape[0];
    if (output.shape != first->shape)
        free(output.shape);
}

static void finish(struct collected *output)
{
    struct described *first = &output->first;
    first->shape[0] = output->rows;
    npy_header(output->file, output->file_name, first->type->npy, first->shape, first->rank);
    if (fclose(output->file))
        cannot_keep(output->file_name);
}

void infer(const struct options *options, struct json *result)
{
    struct model model = open_model(options, false);
    size_t item_count = 0;
    struct items *items = open_items(options, &model, &item_count);
    struct collected *collected = allocate(model.output_count, sizeof *collected);
    for (size_t item = 0; item < item_count; item++) {
        OrtValue **feed = read_item(items, model.input_count);
        OrtValue **outputs = allocate(model.output_count, sizeof *outputs);
        run_once(&model, feed, outputs);
        for (size_t i = 0; i < model.output_count; i++) {
            collect(&collected[i], i, model.output_names[i], outputs[i]);
            ort->ReleaseValue(outputs[i]);
        }
        free(outputs);
        release_values(feed, model.input_count);
    }
    json_key(result, "outputs");
    json_begin_list(result);
    for (size_t i = 0; i < model.output_count; i++) {
        finish(&collected[i]);
        json_string(result, model.output_names[i]);
    }
    json_end_list(result);
}
