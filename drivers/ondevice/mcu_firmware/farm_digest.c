/* Both are written for little memory: CRC-32 by half bytes, SHA-256 with a schedule of 16 words. */
#include "farm_digest.h"

#include "freestanding.h"

static const uint32_t HALF_BYTES[16] = {
    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
    0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

uint32_t farm_crc32(uint32_t crc, const uint8_t *bytes, size_t count)
{
    crc = ~crc;
    while (count--) {
        crc ^= *bytes++;
        crc = HALF_BYTES[crc & 15] ^ (crc >> 4);
        crc = HALF_BYTES[crc & 15] ^ (crc >> 4);
    }
    return ~crc;
}

static const uint32_t ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turned(uint32_t word, unsigned bits)
{
    return (word >> bits) | (word << (32 - bits));
}

/* The next word of the schedule; w holds the last 16 in a ring. */
static uint32_t scheduled(uint32_t w[16], unsigned i)
{
    if (i < 16)
        return w[i];
    uint32_t a = w[(i + 1) & 15], b = w[(i + 14) & 15];
    uint32_t first = turned(a, 7) ^ turned(a, 18) ^ (a >> 3);
    uint32_t second = turned(b, 17) ^ turned(b, 19) ^ (b >> 10);
    return w[i & 15] += first + w[(i + 9) & 15] + second;
}

static void digest_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[16], s[8];
    for (unsigned i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8
            | block[3];
    memcpy(s, state, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t big1 = turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25);
        uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
        uint32_t one = s[7] + big1 + choice + ROUNDS[i] + scheduled(w, i);
        uint32_t big0 = turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22);
        uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + big0 + majority;
    }
    for (unsigned i = 0; i < 8; i++)
        state[i] += s[i];
}

void farm_sha256(const uint8_t *bytes, size_t count, uint8_t digest[FARM_SHA256_BYTES])
{
    uint32_t state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
        0x1f83d9ab, 0x5be0cd19 };
    uint8_t tail[128] = { 0 };
    size_t rest = count % 64, end = rest < 56 ? 64 : 128;
    for (size_t i = 0; i + 64 <= count; i += 64)
        digest_block(state, bytes + i);
    if (rest)
        memcpy(tail, bytes + count - rest, rest);
    tail[rest] = 0x80;
    for (unsigned i = 0; i < 5; i++)
        tail[end - 1 - i] = (uint8_t)(((uint64_t)count * 8) >> (8 * i));
    for (size_t i = 0; i < end; i += 64)
        digest_block(state, tail + i);
    for (unsigned i = 0; i < 32; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}
