/* What the firmware uses of the C library; freestanding.c has it where there is no library. */
#ifndef FARM_FREESTANDING_H
#define FARM_FREESTANDING_H

#include <stddef.h>

void *memcpy(void *restrict target, const void *restrict source, size_t count);
void *memmove(void *target, const void *source, size_t count);
void *memset(void *target, int value, size_t count);
int memcmp(const void *one, const void *other, size_t count);

#endif
