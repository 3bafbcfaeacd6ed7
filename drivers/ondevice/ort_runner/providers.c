/* Accelerators: which there are, and the many ways in which the runtime wants to be asked. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static const char SUFFIX[] = "ExecutionProvider";

/* `CUDAExecutionProvider` without its suffix, NULL if it is no accelerator of this device. */
static char *stem(const char *full)
{
    size_t length = strlen(full), suffix = sizeof SUFFIX - 1;
    if (length <= suffix || strcmp(full + length - suffix, SUFFIX) != 0)
        return NULL;
    if (strncmp(full, "Azure", 5) == 0) /* it runs models elsewhere, over the network */
        return NULL;
    char *text = strdup(full);
    if (text)
        text[length - suffix] = '\0';
    return text;
}

struct providers available_providers(void)
{
    char **full;
    int count;
    must(ort->GetAvailableProviders(&full, &count));
    struct providers found = {
        allocate((size_t)count, sizeof(char *)), allocate((size_t)count, sizeof(char *)), 0};
    for (int i = 0; i < count; i++) {
        char *name = stem(full[i]);
        if (!name)
            continue;
        for (char *c = name; *c; c++)
            *c = (char)tolower((unsigned char)*c);
        found.full[found.count] = format_text("%s", full[i]);
        found.name[found.count++] = name;
    }
    must(ort->ReleaseAvailableProviders(full, count));
    return found;
}

char *joined(char **words, size_t count)
{
    size_t length = 1;
    for (size_t i = 0; i < count; i++)
        length += strlen(words[i]) + 2;
    char *text = allocate(length, 1), *end = text;
    for (size_t i = 0; i < count; i++)
        end = stpcpy(stpcpy(end, i ? ", " : ""), words[i]);
    return text;
}

/* Keys and values as the runtime takes them. */
struct settings {
    const char **keys, **values;
    size_t count;
};

typedef OrtStatus *(*append_function)(OrtSessionOptions *, const struct settings *);

/* These keep their options in an object of their own and are alike in everything but the name. */
#define DEFINE_APPEND(FUNCTION, KIND, OPTIONS, APPEND)                                          \
    static OrtStatus *FUNCTION(OrtSessionOptions *session, const struct settings *settings)     \
    {                                                                                           \
        OPTIONS *options = NULL;                                                                \
        OrtStatus *status = ort->Create##KIND##ProviderOptions(&options);                       \
        if (!status && settings->count)                                                         \
            status = ort->Update##KIND##ProviderOptions(                                        \
                options, settings->keys, settings->values, settings->count);                    \
        if (!status)                                                                            \
            status = ort->SessionOptionsAppendExecutionProvider_##APPEND(session, options);     \
        if (options)                                                                            \
            ort->Release##KIND##ProviderOptions(options);                                       \
        return status;                                                                          \
    }

DEFINE_APPEND(append_cuda, CUDA, OrtCUDAProviderOptionsV2, CUDA_V2)
DEFINE_APPEND(append_tensorrt, TensorRT, OrtTensorRTProviderOptionsV2, TensorRT_V2)
DEFINE_APPEND(append_rocm, ROCM, OrtROCMProviderOptions, ROCM)
DEFINE_APPEND(append_cann, CANN, OrtCANNProviderOptions, CANN)
DEFINE_APPEND(append_dnnl, Dnnl, OrtDnnlProviderOptions, Dnnl)

/* Later versions of the runtime have a longer structure, so what they read behind ours is zero. */
static OrtStatus *append_migraphx(OrtSessionOptions *session, const struct settings *settings)
{
    union {
        OrtMIGraphXProviderOptions options;
        char room[1024];
    } zeroed;
    memset(&zeroed, 0, sizeof zeroed);
    if (settings->count)
        return ort->CreateStatus(ORT_INVALID_ARGUMENT, "migraphx takes no options here");
    return ort->SessionOptionsAppendExecutionProvider_MIGraphX(session, &zeroed.options);
}

static const struct {
    const char *stem;
    append_function append;
} OWN_FUNCTION[] = {
    {"CUDA", append_cuda},
    {"Tensorrt", append_tensorrt},
    {"ROCM", append_rocm},
    {"CANN", append_cann},
    {"Dnnl", append_dnnl},
    {"MIGraphX", append_migraphx},
};

/* What the general function calls a provider where that is not the stem of its name. */
static const char *general_name(const char *stem)
{
    if (strcmp(stem, "Xnnpack") == 0)
        return "XNNPACK";
    if (strcmp(stem, "Dml") == 0)
        return "DML";
    if (strcmp(stem, "WebGpu") == 0)
        return "WebGPU";
    return stem;
}

/* NNAPI has an implementation on the processor, which would pass for the accelerator. */
enum { NNAPI_CPU_DISABLED = 4 };

typedef OrtStatus *(*flags_function)(OrtSessionOptions *, uint32_t);

/* Providers like NNAPI and ACL have an exported function each, which takes a number; NULL if the
 * library has none for this one. */
static flags_function exported_function(const char *stem)
{
    flags_function append = NULL;
    if (strcmp(stem, "ACL") == 0 || strcmp(stem, "ArmNN") == 0 || strcmp(stem, "Nnapi") == 0) {
        char *symbol = format_text("OrtSessionOptionsAppendExecutionProvider_%s", stem);
        *(void **)&append = library_symbol(symbol);
        free(symbol);
    }
    return append;
}

static OrtStatus *append_with_flags(OrtSessionOptions *session, flags_function append,
    uint32_t flags, const struct settings *settings)
{
    for (size_t i = 0; i < settings->count; i++) {
        const char *value = settings->values[i];
        char *rest = NULL;
        flags = (uint32_t)strtoul(value, &rest, 0);
        if (strcmp(settings->keys[i], "flags") != 0 || !*value || *rest)
            return ort->CreateStatus(ORT_INVALID_ARGUMENT, "its only option is flags, a number");
    }
    return append(session, flags);
}

static OrtStatus *append_stem(
    OrtSessionOptions *session, const char *stem, const struct settings *settings)
{
    for (size_t i = 0; i < sizeof OWN_FUNCTION / sizeof OWN_FUNCTION[0]; i++)
        if (strcmp(OWN_FUNCTION[i].stem, stem) == 0)
            return OWN_FUNCTION[i].append(session, settings);
    flags_function append = exported_function(stem);
    if (append) {
        uint32_t flags = strcmp(stem, "Nnapi") == 0 ? NNAPI_CPU_DISABLED : 0;
        return append_with_flags(session, append, flags, settings);
    }
    return ort->SessionOptionsAppendExecutionProvider(
        session, general_name(stem), settings->keys, settings->values, settings->count);
}

OrtStatus *append_provider(
    OrtSessionOptions *session, const char *full, const struct pairs *provider_options)
{
    char *name = stem(full);
    if (!name || strcmp(name, "CPU") == 0) { /* it is always there, as the last */
        free(name);
        return NULL;
    }
    size_t count = provider_options->count;
    struct settings settings = {
        allocate(count, sizeof(char *)), allocate(count, sizeof(char *)), count};
    for (size_t i = 0; i < count; i++) {
        settings.keys[i] = provider_options->items[i].name;
        settings.values[i] = provider_options->items[i].value;
    }
    OrtStatus *status = append_stem(session, name, &settings);
    free(settings.keys);
    free(settings.values);
    free(name);
    return status;
}
