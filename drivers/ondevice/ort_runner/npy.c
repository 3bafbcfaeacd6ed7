/* Arrays that numpy reads: a header of fixed length, so that a count can be set at the end. */
#include <string.h>

#include "runner.h"

enum {
    HEADER_BYTES = 2048,
    PREFIX_BYTES = 10, /* magic, version 1.0 and the length of the rest, little-endian */
    AXIS_BYTES = 24,   /* a size of 64 bits, comma and space */
};

void npy_header(
    FILE *file, const char *name, const char *npy_type, const int64_t *shape, size_t rank)
{
    char text[HEADER_BYTES + 1] = "\x93NUMPY\x01";
    size_t rest = HEADER_BYTES - PREFIX_BYTES, at = PREFIX_BYTES;
    text[8] = (char)(rest & 0xff);
    text[9] = (char)(rest >> 8);
    at += (size_t)sprintf(
        text + at, "{'descr': '%s', 'fortran_order': False, 'shape': (", npy_type);
    if (at + rank * AXIS_BYTES + sizeof "),}\n" > HEADER_BYTES)
        refuse("wrong_output", "%zu axes are more than an array can have", rank);
    for (size_t axis = 0; axis < rank; axis++)
        at += (size_t)sprintf(text + at, "%lld, ", (long long)shape[axis]);
    at += (size_t)sprintf(text + at, "),}");
    memset(text + at, ' ', HEADER_BYTES - at);
    text[HEADER_BYTES - 1] = '\n';
    if (fseeko(file, 0, SEEK_SET) || fwrite(text, 1, HEADER_BYTES, file) != HEADER_BYTES)
        cannot_keep(name);
}
