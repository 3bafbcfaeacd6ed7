/* The functions of the C library that compilers call by themselves and the firmware uses, for
 * builds without one. They are weak: a firmware that has better ones keeps them. */
#include <stddef.h>
#include <stdint.h>

/* gcc would make a call of memcpy from the loop of memcpy. */
#ifdef __clang__
#define WEAK __attribute__((weak))
#else
#define WEAK __attribute__((weak, optimize("no-tree-loop-distribute-patterns")))
#endif

WEAK void *memmove(void *target, const void *source, size_t count)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if (to < from) {
        while (count--)
            *to++ = *from++;
    } else {
        while (count--)
            to[count] = from[count];
    }
    return target;
}

WEAK void *memcpy(void *restrict target, const void *restrict source, size_t count)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((((uintptr_t)to | (uintptr_t)from) & 3) == 0)
        for (; count >= 4; count -= 4, to += 4, from += 4)
            *(uint32_t *)(void *)to = *(const uint32_t *)(const void *)from;
    while (count--)
        *to++ = *from++;
    return target;
}

WEAK void *memset(void *target, int value, size_t count)
{
    for (uint8_t *to = target; count--;)
        *to++ = (uint8_t)value;
    return target;
}

WEAK int memcmp(const void *one, const void *other, size_t count)
{
    const uint8_t *a = one, *b = other;
    for (; count--; a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}
