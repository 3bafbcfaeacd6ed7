#include "farm_text.h"

static const char HEX[] = "0123456789abcdef";

/* What does not fit is left out: the reader sees an object that does not end. */
static void put(struct farm_text *text, char c)
{
    if (text->length < text->room)
        text->bytes[text->length++] = (uint8_t)c;
}

static void put_all(struct farm_text *text, const char *c)
{
    while (*c)
        put(text, *c++);
}

static void put_name(struct farm_text *text, const char *name)
{
    if (text->comma)
        put(text, ',');
    text->comma = true;
    if (name) {
        put(text, '"');
        put_all(text, name);
        put_all(text, "\":");
    }
}

void farm_text_begin(struct farm_text *text, const char *name, char bracket)
{
    put_name(text, name);
    put(text, bracket);
    text->comma = false;
}

void farm_text_end(struct farm_text *text, char bracket)
{
    put(text, bracket);
    text->comma = true;
}

void farm_text_number(struct farm_text *text, const char *name, uint32_t number)
{
    char digits[10];
    unsigned count = 0;
    put_name(text, name);
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        put(text, digits[--count]);
}

void farm_text_slot(struct farm_text *text, const char *name, int32_t slot)
{
    if (slot >= 0) {
        farm_text_number(text, name, (uint32_t)slot);
    } else {
        put_name(text, name);
        put_all(text, "-1");
    }
}

void farm_text_bool(struct farm_text *text, const char *name, bool value)
{
    put_name(text, name);
    put_all(text, value ? "true" : "false");
}

void farm_text_null(struct farm_text *text, const char *name)
{
    put_name(text, name);
    put_all(text, "null");
}

void farm_text_hex(struct farm_text *text, const char *name, const uint8_t *bytes, size_t count)
{
    put_name(text, name);
    put(text, '"');
    for (size_t i = 0; i < count; i++) {
        put(text, HEX[bytes[i] >> 4]);
        put(text, HEX[bytes[i] & 15]);
    }
    put(text, '"');
}

/* Bytes of the UTF-8 character at the front, 0 if there is none. Overlong forms and surrogates are
 * refused: a reader of JSON would refuse the whole object for one of them. */
static size_t character(const uint8_t *c, size_t most)
{
    size_t length = c[0] < 0x80 ? 1 : c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
    if (length > most)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xf0 && c[1] < 0x90);
    bool no_character = (c[0] == 0xed && c[1] > 0x9f) || (c[0] == 0xf4 && c[1] > 0x8f)
        || c[0] > 0xf4;
    return length > 1 && (overlong || no_character) ? 0 : length;
}

static void put_escaped(struct farm_text *text, uint8_t c)
{
    put_all(text, "\\u00");
    put(text, HEX[c >> 4]);
    put(text, HEX[c & 15]);
}

void farm_text_string(struct farm_text *text, const char *name, const char *value, size_t most)
{
    const uint8_t *c = (const uint8_t *)value;
    put_name(text, name);
    put(text, '"');
    while (most && *c) {
        size_t length = character(c, most);
        if (length == 0)
            put_all(text, "\\ufffd");
        else if (*c == '"' || *c == '\\' || *c < 0x20)
            put_escaped(text, *c);
        else
            for (size_t i = 0; i < length; i++)
                put(text, (char)c[i]);
        length += length == 0;
        c += length;
        most -= length;
    }
    put(text, '"');
}
