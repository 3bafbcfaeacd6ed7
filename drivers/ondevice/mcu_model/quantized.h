/* Convolutions and matrix products of 8-bit numbers, bit for bit as onnxruntime computes them.
 *
 * Every function here is inlined into one that fixes its shape and types, so what looks like a
 * decision at run time is none. Products are summed in 32 bits; the sum times a float scale is
 * rounded to nearest, ties to even. onnxruntime does no more than that, so no double is needed.
 */
#ifndef FARM_QUANTIZED_H
#define FARM_QUANTIZED_H

#include <stdbool.h>
#include <stdint.h>

#define FARM_INLINE static inline __attribute__((always_inline))

/* Of a convolution over rows and columns; a one-dimensional one has one row. */
typedef struct {
    int32_t groups, group_in, group_out; /* channels */
    int32_t in_rows, in_columns, out_rows, out_columns;
    int32_t kernel_rows, kernel_columns;
    int32_t row_stride, column_stride, row_dilation, column_dilation;
    int32_t top, left; /* padding */
} farm_shape;

/* The weights of a layer, which have no zero point; `bias` may be missing. */
typedef struct {
    const int8_t *weights;
    const float *scales;
    int32_t scale_step; /* 1 where every output channel has a scale of its own, else 0 */
    const int32_t *bias;
} farm_layer;

/* How 8-bit numbers stand for real ones; `wide` says that they are 0 to 255, not -128 to 127. */
typedef struct {
    float scale;
    int32_t zero;
    bool wide;
} farm_scale;

FARM_INLINE int32_t farm_load(const void *from, int32_t at, bool wide)
{
    return wide ? ((const uint8_t *)from)[at] : ((const int8_t *)from)[at];
}

/* To the nearest integer, ties to even; what is far away stays far away. */
FARM_INLINE int32_t farm_nearest(float x)
{
#if defined(__ARM_FP) && (__ARM_FP & 4)
    int32_t whole;

    /* One instruction, which saturates; compilers do not find it. */
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(x) : "t"(x));
    __builtin_memcpy(&whole, &x, sizeof whole);
    return whole;
#else
    /* The mantissa of 1.5 * 2^23 + x is the integer, for any x that fits in 22 bits. */
    int32_t bits;

    x = x > 0x1p21f ? 0x1p21f : x < -0x1p21f ? -0x1p21f : x;
    x += 0x1.8p23f;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits - 0x4b400000;
#endif
}

FARM_INLINE float farm_factor(farm_scale x, farm_layer layer, int32_t output, farm_scale y)
{
    return x.scale * layer.scales[output * layer.scale_step] / y.scale;
}

FARM_INLINE int32_t farm_bias(farm_layer layer, int32_t output)
{
    return layer.bias ? layer.bias[output] : 0;
}

FARM_INLINE void farm_store(void *to, int32_t at, float value, int32_t zero, bool wide)
{
    const int32_t low = (wide ? 0 : -128) - zero, high = (wide ? 255 : 127) - zero;
    int32_t whole = farm_nearest(value);

    whole = whole < low ? low : whole > high ? high : whole;
    ((uint8_t *)to)[at] = (uint8_t)(whole + zero);
}

/* A kernel of one row, one column and stride 1: a product of matrices, two rows by four columns at
 * a time, so that each number that is loaded is used more than once. The last rows and columns are
 * computed twice rather than by other code. */
FARM_INLINE void farm_pointwise(int32_t inputs, int32_t outputs, int32_t pixels, const void *x,
                                farm_scale xs, farm_layer layer, void *y, farm_scale ys)
{
    const int32_t high = outputs < 2 ? 1 : 2, wide = pixels < 4 ? 1 : 4;

    for (int32_t next = 0; next < outputs; next += high) {
        const int32_t o = next + high <= outputs ? next : outputs - high;
        const int32_t p_end = pixels - wide;
        const int8_t *w[2] = {layer.weights + o * inputs, layer.weights + (o + high - 1) * inputs};
        int32_t start[2];
        float factor[2];

        for (int32_t h = 0; h < high; h++) {
            start[h] = farm_bias(layer, o + h);
            factor[h] = farm_factor(xs, layer, o + h, ys);
            for (int32_t i = 0; i < inputs; i++)
                start[h] -= xs.zero * w[h][i];
        }
        for (int32_t column = 0; column < pixels; column += wide) {
            const int32_t p = column < p_end ? column : p_end;
            int32_t sum[2][4];

            for (int32_t h = 0; h < high; h++)
                for (int32_t c = 0; c < wide; c++)
                    sum[h][c] = start[h];
            for (int32_t i = 0; i < inputs; i++)
                for (int32_t c = 0; c < wide; c++) {
                    const int32_t value = farm_load(x, i * pixels + p + c, xs.wide);

                    for (int32_t h = 0; h < high; h++)
                        sum[h][c] += value * w[h][i];
                }
            for (int32_t h = 0; h < high; h++)
                for (int32_t c = 0; c < wide; c++)
                    farm_store(y, (o + h) * pixels + p + c, (float)sum[h][c] * factor[h], ys.zero,
                               ys.wide);
        }
    }
}

/* The sum for one output: `rows` and `columns` of the kernel lie inside of the input. */
FARM_INLINE int32_t farm_window(const farm_shape s, const void *x, int32_t zero, bool wide,
                                const int8_t *w, int32_t row, int32_t column, int32_t first_row,
                                int32_t rows, int32_t first_column, int32_t columns)
{
    int32_t sum = 0;

    for (int32_t i = 0; i < s.group_in; i++)
        for (int32_t r = first_row; r < rows; r++) {
            const int32_t line = (i * s.in_rows + row + r * s.row_dilation) * s.in_columns + column;
            const int8_t *weights = w + (i * s.kernel_rows + r) * s.kernel_columns;

            for (int32_t c = first_column; c < columns; c++)
                sum += (farm_load(x, line + c * s.column_dilation, wide) - zero) * weights[c];
        }
    return sum;
}

/* The first index of a kernel that is not before the input, and the first that is behind it. */
FARM_INLINE int32_t farm_first(int32_t start, int32_t dilation)
{
    return start < 0 ? (-start + dilation - 1) / dilation : 0;
}

FARM_INLINE int32_t farm_end(int32_t start, int32_t dilation, int32_t kernel, int32_t size)
{
    const int32_t end = start < size ? (size - start + dilation - 1) / dilation : 0;

    return end < kernel ? end : kernel;
}

FARM_INLINE void farm_plane(const farm_shape s, const void *x, farm_scale xs, const int8_t *w,
                            float scale, int32_t bias, void *y, farm_scale ys)
{
    int32_t at = 0;

    for (int32_t out_row = 0; out_row < s.out_rows; out_row++) {
        const int32_t row = out_row * s.row_stride - s.top;
        const int32_t first_row = farm_first(row, s.row_dilation);
        const int32_t rows = farm_end(row, s.row_dilation, s.kernel_rows, s.in_rows);

        for (int32_t out_column = 0; out_column < s.out_columns; out_column++, at++) {
            const int32_t column = out_column * s.column_stride - s.left;
            const int32_t first = farm_first(column, s.column_dilation);
            const int32_t columns =
                farm_end(column, s.column_dilation, s.kernel_columns, s.in_columns);
            int32_t sum;

            /* Inside, which is nearly everywhere, the loops have fixed ends. */
            if (first_row == 0 && rows == s.kernel_rows && first == 0 &&
                columns == s.kernel_columns)
                sum = farm_window(s, x, xs.zero, xs.wide, w, row, column, 0, s.kernel_rows, 0,
                                  s.kernel_columns);
            else
                sum = farm_window(s, x, xs.zero, xs.wide, w, row, column, first_row, rows, first,
                                  columns);
            farm_store(y, at, (float)(sum + bias) * scale, ys.zero, ys.wide);
        }
    }
}

FARM_INLINE void farm_convolve(const farm_shape s, const void *x, farm_scale xs, farm_layer layer,
                               void *y, farm_scale ys)
{
    const int32_t pixels = s.out_rows * s.out_columns;
    const int32_t taken = s.group_in * s.in_rows * s.in_columns;
    const int32_t weights = s.group_in * s.kernel_rows * s.kernel_columns;

    if (s.groups == 1 && s.kernel_rows * s.kernel_columns == 1 && s.row_stride == 1 &&
        s.column_stride == 1 && s.in_rows == s.out_rows && s.in_columns == s.out_columns) {
        farm_pointwise(s.group_in, s.group_out, pixels, x, xs, layer, y, ys);
        return;
    }
    for (int32_t g = 0; g < s.groups; g++)
        for (int32_t o = g * s.group_out; o < (g + 1) * s.group_out; o++)
            farm_plane(s, (const uint8_t *)x + g * taken, xs, layer.weights + o * weights,
                       farm_factor(xs, layer, o, ys), farm_bias(layer, o),
                       (uint8_t *)y + o * pixels, ys);
}

/* Rows times a matrix of `depth` by `columns`, or of `columns` by `depth` if it is transposed. A
 * scale of 0 for the result leaves it as floats. */
FARM_INLINE void farm_multiply(int32_t rows, int32_t depth, int32_t columns, bool transposed,
                               const void *x, farm_scale xs, farm_layer layer, void *y,
                               farm_scale ys)
{
    const int32_t down = transposed ? 1 : columns, across = transposed ? depth : 1;

    for (int32_t row = 0; row < rows; row++)
        for (int32_t column = 0; column < columns; column++) {
            int32_t sum = farm_bias(layer, column);

            for (int32_t k = 0; k < depth; k++)
                sum += (farm_load(x, row * depth + k, xs.wide) - xs.zero) *
                       layer.weights[k * down + column * across];
            const float factor = xs.scale * layer.scales[column * layer.scale_step];

            if (ys.scale == 0.0f)
                ((float *)y)[row * columns + column] = (float)sum * factor;
            else
                farm_store(y, row * columns + column, (float)sum * (factor / ys.scale), ys.zero,
                           ys.wide);
        }
}

#endif
