/* The element types of tensors. */
#include <math.h>
#include <string.h>

#include "runner.h"

static const struct type TYPES[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float", "float32", "<f4", 4, 'f'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16", "float16", "<f2", 2, 'f'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "double", "float64", "<f8", 8, 'f'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool", "bool", "|b1", 1, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8", "int8", "|i1", 1, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, "int16", "int16", "<i2", 2, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32", "int32", "<i4", 4, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64", "int64", "<i8", 8, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8", "uint8", "|u1", 1, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, "uint16", "uint16", "<u2", 2, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, "uint32", "uint32", "<u4", 4, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, "uint64", "uint64", "<u8", 8, 'i'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, "string", NULL, NULL, 0, 'x'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, "bfloat16", NULL, NULL, 0, 'x'},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, "of another type", NULL, NULL, 0, 'x'},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };

const struct type *type_of(ONNXTensorElementDataType id)
{
    for (size_t i = 0; i < TYPE_COUNT; i++)
        if (TYPES[i].id == id)
            return &TYPES[i];
    return &TYPES[TYPE_COUNT - 1];
}

const struct type *type_named(const char *numpy, size_t length)
{
    for (size_t i = 0; i < TYPE_COUNT && TYPES[i].numpy; i++)
        if (strlen(TYPES[i].numpy) == length && memcmp(TYPES[i].numpy, numpy, length) == 0)
            return &TYPES[i];
    return NULL;
}

bool bytes_of(const struct type *type, const int64_t *shape, size_t rank, size_t *bytes)
{
    *bytes = type->size;
    for (size_t axis = 0; axis < rank; axis++) {
        if (shape[axis] < 0 || (uint64_t)shape[axis] > SIZE_MAX)
            return false;
        if (__builtin_mul_overflow(*bytes, (size_t)shape[axis], bytes))
            return false;
    }
    return *bytes <= SIZE_MAX / 2;
}

/* A float is NaN or infinite if all bits of its exponent are set. */
bool all_finite(const struct type *type, const void *values, size_t bytes)
{
    if (type->kind != 'f')
        return true;
    const unsigned char *at = values;
    const unsigned high = type->size == 8 ? 0x7ff0 : type->size == 4 ? 0x7f80 : 0x7c00;
    for (size_t i = type->size; i <= bytes; i += type->size) {
        unsigned top = at[i - 1] * 256u + at[i - 2]; /* the two highest bytes hold the exponent */
        if ((top & high) == high)
            return false;
    }
    return true;
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* The sum of twelve even draws: near enough to a normal distribution, the same on every board. */
static float next_normal(uint32_t *state)
{
    float sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (float)(next_random(state) >> 8) / 16777216.0f;
    return sum;
}

/* Half precision by cutting off; what is too small for a normal number becomes zero. */
static uint16_t half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t exponent = (bits >> 23) & 0xff, sign = (bits >> 16) & 0x8000;
    if (exponent < 113)
        return (uint16_t)sign;
    return (uint16_t)(sign | ((exponent - 112) << 10) | ((bits >> 13) & 0x3ff));
}

static void draw(const struct type *type, void *target, uint32_t *state)
{
    /* Whole numbers are 0 or 1: valid as pixels, as flags and as indices into any table. */
    unsigned char whole[8] = {next_random(state) >> 31};
    float normal = type->kind == 'f' ? next_normal(state) : 0;
    double wide = normal;
    uint16_t narrow = half(normal);
    const void *drawn = type->kind == 'i' ? (const void *)whole
        : type->size == 8                 ? (const void *)&wide
        : type->size == 4                 ? (const void *)&normal
                                          : (const void *)&narrow;
    memcpy(target, drawn, type->size);
}

void fill_seeded(const struct type *type, void *values, size_t bytes, uint32_t *state)
{
    for (size_t i = 0; i + type->size <= bytes; i += type->size)
        draw(type, (char *)values + i, state);
}
