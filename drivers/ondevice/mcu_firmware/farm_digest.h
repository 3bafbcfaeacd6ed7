/* Checksums: CRC-32 (IEEE) for lines and memory, SHA-256 for what was sent as a whole. */
#ifndef FARM_DIGEST_H
#define FARM_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { FARM_SHA256_BYTES = 32 };

/* Continue a checksum over more bytes; begin with 0. */
uint32_t farm_crc32(uint32_t crc, const uint8_t *bytes, size_t count);

void farm_sha256(const uint8_t *bytes, size_t count, uint8_t digest[FARM_SHA256_BYTES]);

#endif
