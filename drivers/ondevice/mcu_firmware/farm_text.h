/* JSON objects, written from front to back into a buffer. */
#ifndef FARM_TEXT_H
#define FARM_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct farm_text {
    uint8_t *bytes;
    uint32_t room;
    uint32_t length;
    bool comma; /* whether one is due before the next value */
};

/* Every value has the name before it that it has in its object, NULL in a list. */
void farm_text_begin(struct farm_text *text, const char *name, char bracket);
void farm_text_end(struct farm_text *text, char bracket);
void farm_text_number(struct farm_text *text, const char *name, uint32_t number);
void farm_text_slot(struct farm_text *text, const char *name, int32_t slot); /* -1 for none */
void farm_text_bool(struct farm_text *text, const char *name, bool value);
void farm_text_null(struct farm_text *text, const char *name);
void farm_text_hex(struct farm_text *text, const char *name, const uint8_t *bytes, size_t count);
/* A string that ends with a zero byte or after `most` bytes. */
void farm_text_string(struct farm_text *text, const char *name, const char *value, size_t most);

#endif
