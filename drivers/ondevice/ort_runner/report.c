/* How the runner ends when something is wrong. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static char *formatted(const char *format, va_list arguments)
{
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0) {
        fputs("out of memory\n", stderr);
        exit(STATUS_BROKEN);
    }
    return text;
}

char *format_text(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = formatted(format, arguments);
    va_end(arguments);
    return text;
}

_Noreturn void refuse(const char *code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *message = formatted(format, arguments);
    va_end(arguments);

    struct json json = {0};
    json_begin(&json);
    json_key(&json, "error");
    json_begin(&json);
    json_key(&json, "code");
    json_string(&json, code);
    json_key(&json, "message");
    json_string(&json, message);
    json_end(&json);
    json_end(&json);
    json_deliver(&json, true);
    /* Not exit(): the runtime's threads may still be at work on what has just been refused. */
    _Exit(0);
}

_Noreturn void give_up(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s\n", formatted(format, arguments));
    va_end(arguments);
    fflush(stdout);
    _Exit(status);
}

_Noreturn void cannot_keep(const char *what)
{
    int reason = errno;
    bool full = reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
    give_up(full ? STATUS_NO_ROOM : STATUS_BROKEN, "cannot keep the results: %s: %s", what,
        strerror(reason));
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory)
        give_up(STATUS_BROKEN, "out of memory");
    return memory;
}
