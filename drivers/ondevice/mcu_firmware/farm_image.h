/* The header of a model's image; drivers/mcu/image.py writes it. All numbers are little-endian. */
#ifndef FARM_IMAGE_H
#define FARM_IMAGE_H

#include <stdint.h>

enum {
    FARM_IMAGE_MAGIC = 0x314D4946, /* "FIM1" */
    FARM_IMAGE_ABI = 1,
    FARM_IMAGE_NAME_BYTES = 32,
};

/* What the code runs on. */
enum farm_cpu {
    FARM_CORTEX_M3 = 1,
    FARM_CORTEX_M4F = 2, /* single-precision unit */
    FARM_CORTEX_M7 = 3,  /* double-precision unit */
    FARM_CORTEX_M55 = 4,
    FARM_CORTEX_M4 = 5,  /* no floating-point unit */
    FARM_CORTEX_M33 = 6,
};

struct farm_image {
    uint32_t magic;
    uint16_t abi;
    uint16_t header_bytes;
    uint32_t cpu;
    uint32_t total_bytes; /* header included */
    uint32_t base;        /* address that it is linked for */
    uint32_t entry;       /* void infer(const void *input, void *output); odd for Thumb */
    uint32_t data_address;
    uint32_t data_load_address;
    uint32_t data_bytes; /* a multiple of 4 */
    uint32_t bss_address;
    uint32_t bss_bytes; /* a multiple of 4 */
    uint32_t in_bytes;
    uint32_t out_bytes;
    uint32_t arena_bytes; /* the part of .bss that holds the tensors */
    uint32_t zero;
    uint8_t model_sha256[32];
    char name[FARM_IMAGE_NAME_BYTES]; /* UTF-8, padded with zeros */
};

_Static_assert(sizeof(struct farm_image) == 124, "image.py packs 124 bytes");

#endif
