/* The runtime, opened by its path: one runner serves every version that a board may have. */
#include <ctype.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

/* The oldest level that has every function that is called here. */
enum { OLDEST_LEVEL = 16, MAX_MESSAGE = 300 };

const OrtApi *ort;
const char *ort_version;
uint32_t ort_level;
static void *library;

void *library_symbol(const char *name) { return dlsym(library, name); }

void open_library(const char *path)
{
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        give_up(STATUS_UNFIT, "cannot load the library: %s", dlerror());
    const OrtApiBase *(*get_base)(void);
    /* ISO C has no cast from data to code; POSIX promises that the bits are the same. */
    *(void **)&get_base = library_symbol("OrtGetApiBase");
    if (!get_base)
        give_up(STATUS_UNFIT, "%s is no ONNX Runtime", path);
    const OrtApiBase *base = get_base();
    ort_version = base->GetVersionString();
    for (ort_level = ORT_API_VERSION; !ort && ort_level >= OLDEST_LEVEL; ort_level--)
        ort = base->GetApi(ort_level);
    ort_level++;
    if (!ort)
        give_up(STATUS_UNFIT, "ONNX Runtime %s is too old: its API ends before level %d",
            ort_version, OLDEST_LEVEL);
}

/* Runtimes like to add pages, with line breaks. */
static char *shortened(const char *message)
{
    char *text = allocate(MAX_MESSAGE + 1, 1);
    size_t length = 0;
    for (; *message && length < MAX_MESSAGE; message++) {
        bool space = isspace((unsigned char)*message);
        if (!space)
            text[length++] = *message;
        else if (length && text[length - 1] != ' ')
            text[length++] = ' ';
    }
    while (length && text[length - 1] == ' ')
        text[--length] = '\0';
    return text;
}

char *complaint(OrtStatus *status)
{
    if (!status)
        return NULL;
    const char *message = ort->GetErrorMessage(status);
    char *text = shortened(message);
    if (strlen(message) > MAX_MESSAGE) /* the reason is often at its end */
        fprintf(stderr, "%s\n", message);
    ort->ReleaseStatus(status);
    return text;
}

void must(OrtStatus *status)
{
    char *message = complaint(status);
    if (message)
        give_up(STATUS_BROKEN, "%s", message);
}
