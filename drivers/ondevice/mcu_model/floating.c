/* Transcendental functions for floats, with errors of at most a few units in the last place.
 *
 * Written here rather than taken from a C library so that an image computes the same bits whichever
 * compiler built it. Only additions, multiplications and divisions of floats, so no processor needs
 * doubles.
 */
#include "math.h"

#define LOG2E 0x1.715476p+0f
/* ln 2 in two parts: the first has few enough bits that a small integer times it is exact. */
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f

typedef union {
    float number;
    uint32_t bits;
} bits_of_float;

/* x times 2^power, for powers that a float's exponent can hold in two steps. */
static float scale(float x, int32_t power)
{
    const int32_t half = power / 2;
    const bits_of_float first = {.bits = (uint32_t)(half + 127) << 23};
    const bits_of_float second = {.bits = (uint32_t)(power - half + 127) << 23};

    return x * first.number * second.number;
}

/* exp(x) - 1 for |x| <= ln(2) / 2. */
static float exp_minus_1_small(float x)
{
    float sum = 1.0f / 5040.0f;

    sum = sum * x + 1.0f / 720.0f;
    sum = sum * x + 1.0f / 120.0f;
    sum = sum * x + 1.0f / 24.0f;
    sum = sum * x + 1.0f / 6.0f;
    sum = sum * x + 0.5f;
    return sum * x * x + x;
}

/* The power of two that is nearest to exp(x), and what is left of x then. */
static float reduce(float x, float *rest)
{
    const float powers = nearbyintf(x * LOG2E);

    *rest = (x - powers * LN2_HIGH) - powers * LN2_LOW;
    return powers;
}

float expf(float x)
{
    float rest;

    if (x != x)
        return x;
    if (x > 88.8f)
        return INFINITY;
    if (x < -104.0f)
        return 0.0f;
    const float powers = reduce(x, &rest);

    return scale(1.0f + exp_minus_1_small(rest), (int32_t)powers);
}

/* ln((1 + r) / (1 - r)) for small r. */
static float log_of_quotient(float r)
{
    const float square = r * r;
    float sum = 2.0f / 9.0f;

    sum = sum * square + 2.0f / 7.0f;
    sum = sum * square + 2.0f / 5.0f;
    sum = sum * square + 2.0f / 3.0f;
    return sum * square * r + 2.0f * r;
}

float logf(float x)
{
    bits_of_float parts = {.number = x};
    int32_t power = 0;

    if (x != x || x == INFINITY)
        return x;
    if (x <= 0.0f)
        return x == 0.0f ? -INFINITY : NAN;
    if (parts.bits < 0x00800000u) { /* below the normal numbers */
        parts.number = x * 0x1p23f;
        power = -23;
    }
    /* A mantissa between about 0.7 and 1.4 keeps the series short. */
    const uint32_t above = parts.bits - 0x3f3504f3u;
    power += (int32_t)above >> 23;
    parts.bits = (above & 0x007fffffu) + 0x3f3504f3u;
    const float r = (parts.number - 1.0f) / (parts.number + 1.0f);

    return (float)power * LN2_HIGH + (log_of_quotient(r) + (float)power * LN2_LOW);
}

float log1pf(float x)
{
    if (fabsf(x) < 0.25f)
        return log_of_quotient(x / (2.0f + x));
    return logf(1.0f + x);
}

float tanhf(float x)
{
    const float size = fabsf(x);
    float rest;

    if (x != x)
        return x;
    if (size > 9.1f)
        return copysignf(1.0f, x);
    const int32_t powers = (int32_t)reduce(2.0f * size, &rest);
    /* exp(2 |x|) - 1 without the loss that the subtraction would bring near 0 */
    const float grown = scale(exp_minus_1_small(rest), powers) + (scale(1.0f, powers) - 1.0f);

    return copysignf(grown / (grown + 2.0f), x);
}

/* A series near 0, else formula 7.1.28 of Abramowitz and Stegun; the error is below 7e-7. */
float erff(float x)
{
    const float size = fabsf(x);

    if (x != x)
        return x;
    if (size < 0.5f) {
        const float square = x * x;
        float sum = 1.0f / 1320.0f;

        sum = 1.0f / 216.0f - sum * square;
        sum = 1.0f / 42.0f - sum * square;
        sum = 1.0f / 10.0f - sum * square;
        sum = 1.0f / 3.0f - sum * square;
        return 0x1.20dd76p+0f * (x - sum * square * x);
    }
    float sum = 0.0000430638f;

    sum = sum * size + 0.0002765672f;
    sum = sum * size + 0.0001520143f;
    sum = sum * size + 0.0092705272f;
    sum = sum * size + 0.0422820123f;
    sum = sum * size + 0.0705230784f;
    sum = sum * size + 1.0f;
    sum *= sum;
    sum *= sum;
    sum *= sum;
    sum *= sum;
    return copysignf(1.0f - 1.0f / sum, x);
}

float sqrtf(float x)
{
#if defined(__ARM_FP) && (__ARM_FP & 4)
    float root;

    __asm__("vsqrt.f32 %0, %1" : "=t"(root) : "t"(x));
    return root;
#else
    /* Newton's steps from a guess of half the exponent; the last bit may be off by one. */
    bits_of_float guess = {.number = x};

    if (!(x > 0.0f) || x == INFINITY)
        return x == 0.0f || x > 0.0f ? x : NAN;
    if (guess.bits < 0x00800000u)
        return sqrtf(x * 0x1p24f) * 0x1p-12f;
    guess.bits = (guess.bits >> 1) + 0x1fc00000u;
    for (int step = 0; step < 4; step++)
        guess.number = 0.5f * (guess.number + x / guess.number);
    return guess.number;
#endif
}
