/* What generated code needs of math.h, the same bits from every compiler and on every processor.
 *
 * The rounding mode is to nearest, ties to even; nothing reads errno or floating-point flags. A
 * function that is missing here is missing on purpose: the build names it, and the model is
 * refused. Functions that are more than a few instructions are in floating.c.
 */
#ifndef FARM_MATH_H
#define FARM_MATH_H

#include <stdint.h>

#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define HUGE_VAL __builtin_inf()

#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)

float expf(float x);
float logf(float x);
float log1pf(float x);
float tanhf(float x);
float erff(float x);
float sqrtf(float x);

static inline float fabsf(float x) { return __builtin_fabsf(x); }
static inline double fabs(double x) { return __builtin_fabs(x); }
static inline float copysignf(float x, float sign) { return __builtin_copysignf(x, sign); }

/* A number that is not a number is left out, as the standard wants it. */
static inline float fmaxf(float a, float b) { return a > b || b != b ? a : b; }
static inline float fminf(float a, float b) { return a < b || b != b ? a : b; }
static inline double fmax(double a, double b) { return a > b || b != b ? a : b; }
static inline double fmin(double a, double b) { return a < b || b != b ? a : b; }

/* Between 2^23 and 2^24 a float has no place for fractions: the addition rounds them away. */
static inline float nearbyintf(float x)
{
    const float big = copysignf(0x1p23f, x);

    return fabsf(x) < 0x1p23f ? copysignf((x + big) - big, x) : x;
}

static inline double nearbyint(double x)
{
    const double big = __builtin_copysign(0x1p52, x);

    return fabs(x) < 0x1p52 ? __builtin_copysign((x + big) - big, x) : x;
}

static inline float rintf(float x) { return nearbyintf(x); }
static inline double rint(double x) { return nearbyint(x); }
static inline long lrintf(float x) { return (long)nearbyintf(x); }
static inline long long llrintf(float x) { return (long long)nearbyintf(x); }
static inline long long llrint(double x) { return (long long)nearbyint(x); }

static inline float truncf(float x)
{
    return fabsf(x) < 0x1p23f ? copysignf((float)(int32_t)x, x) : x;
}

static inline float floorf(float x)
{
    const float whole = truncf(x);

    return whole > x ? whole - 1.0f : whole;
}

static inline float ceilf(float x) { return -floorf(-x); }

/* Halves go away from zero. */
static inline float roundf(float x)
{
    const float whole = truncf(x);

    return fabsf(x - whole) < 0.5f ? whole : whole + copysignf(1.0f, x);
}

#endif
