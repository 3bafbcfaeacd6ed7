/* A model, loaded on the accelerator that was asked for, or refused. */
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static OrtEnv *environment; /* lives as long as the process */

static const char *full_name(const struct providers *available, const char *name)
{
    for (size_t i = 0; i < available->count; i++)
        if (strcmp(available->name[i], name) == 0)
            return available->full[i];
    return NULL;
}

/* `tensorrt+cuda` names providers in order; without `cpu` among them nothing may run there.
 * Without that last setting the runtime quietly runs on the CPU what it cannot place. */
static void choose_accelerator(OrtSessionOptions *session, const struct options *options)
{
    struct providers available = available_providers();
    struct pairs none = {0};
    const struct pairs *settings = &options->provider_options;
    char *asked = format_text("%s", options->accelerator), *rest = asked;
    bool cpu_allowed = false;
    for (char *name; (name = strsep(&rest, "+"));) {
        const char *full = full_name(&available, name);
        if (!full)
            refuse("wrong_accelerator", "asked for %s, the runtime here has %s",
                options->accelerator, joined(available.name, available.count));
        cpu_allowed |= strcmp(name, "cpu") == 0;
        char *message = complaint(append_provider(session, full, settings));
        if (message)
            refuse("wrong_accelerator", "%s cannot be used: %s", name, message);
        settings = &none;
    }
    if (!cpu_allowed)
        must(ort->AddSessionConfigEntry(session, "session.disable_cpu_ep_fallback", "1"));
    free(asked);
}

static OrtSessionOptions *make_options(const struct options *options, bool profiled)
{
    OrtSessionOptions *session;
    must(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "runner", &environment));
    must(ort->CreateSessionOptions(&session));
    must(ort->SetIntraOpNumThreads(session, options->threads));
    must(ort->SetInterOpNumThreads(session, 1));
    must(ort->SetSessionGraphOptimizationLevel(
        session, (GraphOptimizationLevel)options->optimisation));
    for (size_t i = 0; i < options->configs.count; i++) {
        const struct pair *entry = &options->configs.items[i];
        must(ort->AddSessionConfigEntry(session, entry->name, entry->value));
    }
    if (profiled)
        must(ort->EnableProfiling(session, "profile"));
    choose_accelerator(session, options);
    return session;
}

/* The file's name on the device means nothing to people. */
static char *without_path(const char *message, const char *path)
{
    const char *at = strstr(message, path);
    if (!at)
        return format_text("%s", message);
    return format_text(
        "%.*sthe model%s", (int)(at - message), message, at + strlen(path));
}

static char **names_of(const struct model *model, size_t count,
    OrtStatus *(ORT_API_CALL *name_of)(const OrtSession *, size_t, OrtAllocator *, char **))
{
    OrtAllocator *allocator;
    must(ort->GetAllocatorWithDefaultOptions(&allocator));
    char **names = allocate(count, sizeof(char *));
    for (size_t i = 0; i < count; i++)
        must(name_of(model->session, i, allocator, &names[i]));
    return names;
}

struct model open_model(const struct options *options, bool profiled)
{
    struct model model = {0};
    OrtSessionOptions *session = make_options(options, profiled);
    int64_t start = now_ns();
    OrtStatus *status = ort->CreateSession(environment, options->model, session, &model.session);
    model.load_ns = now_ns() - start;
    char *message = complaint(status);
    if (message) {
        char *told = without_path(message, options->model);
        bool elsewhere = strcmp(options->accelerator, "cpu") != 0 && strstr(told, "fallback");
        refuse(elsewhere ? "wrong_accelerator" : "unsupported_model", "%s", told);
    }
    ort->ReleaseSessionOptions(session);
    must(ort->SessionGetInputCount(model.session, &model.input_count));
    must(ort->SessionGetOutputCount(model.session, &model.output_count));
    model.input_names = names_of(&model, model.input_count, ort->SessionGetInputName);
    model.output_names = names_of(&model, model.output_count, ort->SessionGetOutputName);
    return model;
}
