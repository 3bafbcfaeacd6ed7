/* One JSON object, written from front to back. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static void put(struct json *json, const char *text, size_t length)
{
    if (json->length + length >= json->room) {
        json->room = 2 * (json->length + length) + 256;
        json->text = realloc(json->text, json->room);
        if (!json->text)
            give_up(STATUS_BROKEN, "out of memory");
    }
    memcpy(json->text + json->length, text, length);
    json->length += length;
    json->text[json->length] = '\0';
}

static void put_value(struct json *json, const char *text)
{
    if (json->comma)
        put(json, ", ", 2);
    put(json, text, strlen(text));
    json->comma = true;
}

static void begin(struct json *json, const char *bracket)
{
    put_value(json, bracket);
    json->comma = false;
}

static void end(struct json *json, const char *bracket)
{
    put(json, bracket, 1);
    json->comma = true;
}

void json_begin(struct json *json) { begin(json, "{"); }
void json_end(struct json *json) { end(json, "}"); }
void json_begin_list(struct json *json) { begin(json, "["); }
void json_end_list(struct json *json) { end(json, "]"); }

/* Bytes of the UTF-8 character at the front of a text, 0 if there is none. */
static size_t character(const unsigned char *text)
{
    size_t length = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2
        : text[0] < 0xf0                                                     ? 3
        : text[0] < 0xf5                                                     ? 4
                                                                             : 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool too_long = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool no_character = (text[0] == 0xed && text[1] > 0x9f) || (text[0] == 0xf4 && text[1] > 0x8f);
    return length > 1 && (too_long || no_character) ? 0 : length;
}

/* Names come from the model, so they may hold anything; what is no UTF-8 becomes U+FFFD. */
static char *quoted(const char *value)
{
    char *text = allocate(6 * strlen(value) + 3, 1), *out = text;
    *out++ = '"';
    for (const unsigned char *in = (const unsigned char *)value; *in;) {
        size_t length = character(in);
        if (*in == '"' || *in == '\\' || *in < 0x20 || *in == 0x7f || length == 0)
            out += sprintf(out, "\\u%04x", length ? *in : 0xfffd);
        else
            out = mempcpy(out, in, length);
        in += length ? length : 1;
    }
    *out++ = '"';
    return text;
}

void json_string(struct json *json, const char *value)
{
    char *text = quoted(value);
    put_value(json, text);
    free(text);
}

void json_key(struct json *json, const char *key)
{
    json_string(json, key);
    put(json, ": ", 2);
    json->comma = false;
}

void json_integer(struct json *json, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_value(json, text);
}

void json_number(struct json *json, double value)
{
    char text[40];
    snprintf(text, sizeof text, "%.17g", isfinite(value) ? value : 0.0);
    put_value(json, text);
}

void json_bool(struct json *json, bool value) { put_value(json, value ? "true" : "false"); }

void json_deliver(const struct json *json, bool into_file)
{
    FILE *file = into_file ? fopen("result.json", "w") : NULL;
    if (into_file && (!file || fprintf(file, "%s\n", json->text) < 0 || fclose(file)))
        cannot_keep("result.json");
    printf("%s\n", json->text);
    fflush(stdout);
}
