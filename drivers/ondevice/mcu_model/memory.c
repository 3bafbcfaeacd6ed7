/* The four functions that a compiler may call by itself. Word by word where both sides allow it. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((may_alias)) word;

/* A compiler that recognises a loop as a copy would make these functions call themselves. */
#if defined(__clang__)
#define OWN_LOOP
#else
#define OWN_LOOP __attribute__((optimize("no-tree-loop-distribute-patterns")))
#endif

OWN_LOOP void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    unsigned char *out = to;
    const unsigned char *in = from;

    if (((uintptr_t)out | (uintptr_t)in) % sizeof(word) == 0)
        for (; count >= sizeof(word); count -= sizeof(word)) {
            *(word *)out = *(const word *)in;
            out += sizeof(word);
            in += sizeof(word);
        }
    while (count--)
        *out++ = *in++;
    return to;
}

OWN_LOOP void *memmove(void *to, const void *from, size_t count)
{
    unsigned char *out = to;
    const unsigned char *in = from;

    if ((uintptr_t)out - (uintptr_t)in >= count)
        return memcpy(to, from, count);
    while (count--)
        out[count] = in[count];
    return to;
}

OWN_LOOP void *memset(void *to, int value, size_t count)
{
    unsigned char *out = to;
    const word four = (unsigned char)value * 0x01010101u;

    if ((uintptr_t)out % sizeof(word) == 0)
        for (; count >= sizeof(word); count -= sizeof(word)) {
            *(word *)out = four;
            out += sizeof(word);
        }
    while (count--)
        *out++ = (unsigned char)value;
    return to;
}

OWN_LOOP int memcmp(const void *left, const void *right, size_t count)
{
    const unsigned char *a = left, *b = right;

    for (; count; count--, a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}
