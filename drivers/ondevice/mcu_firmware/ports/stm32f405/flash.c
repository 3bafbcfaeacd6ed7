/* Flash memory: sectors are erased, words and bytes are written. The processor stands still
 * meanwhile, as its code comes from the same memory. */
#include "farm_port.h"
#include "registers.h"
#include "watch.h"

enum {
    KEY_1 = 0x45670123,
    KEY_2 = (int)0xCDEF89AB,
    BUSY = 1 << 16,
    ERRORS = 0xF2, /* operation, write protection, alignment, parallelism, sequence */
    PROGRAM = 1 << 0,
    ERASE = 1 << 1,
    BY_WORDS = 2 << 8, /* 32 bits at once: 2.7 to 3.6 V */
    START = 1 << 16,
    DATA_CACHE = 1 << 10,
    CODE_CACHE = 1 << 9,
    CACHE_RESETS = 3 << 11,
    PATIENCE = 200000000, /* looks; the largest sector takes at most 4 s */
};
static const uint32_t LOCKED = 1u << 31;

static bool idle(void)
{
    for (uint32_t look = 0; look < PATIENCE; look++)
        if (!(FLASH_SR & BUSY))
            return true;
    return false;
}

static bool unlock(void)
{
    if (FLASH_CR & LOCKED) {
        FLASH_KEYR = KEY_1;
        FLASH_KEYR = (uint32_t)KEY_2;
    }
    FLASH_SR = ERRORS;
    return !(FLASH_CR & LOCKED) && idle();
}

static bool lock(bool fine)
{
    fine = fine && !(FLASH_SR & ERRORS);
    FLASH_CR = LOCKED;
    return fine;
}

/* What the caches hold of the memory is old now. */
static void forget_caches(void)
{
    uint32_t on = FLASH_ACR;
    FLASH_ACR = on & ~(uint32_t)(DATA_CACHE | CODE_CACHE);
    FLASH_ACR |= CACHE_RESETS;
    FLASH_ACR = on;
    farm_cortex_barrier();
}

/* Sectors 0 to 3 have 16 KiB, 4 has 64 KiB, 5 to 11 have 128 KiB. */
static uint32_t sector_of(uint32_t address)
{
    uint32_t offset = address - 0x08000000;
    return offset < 0x10000 ? offset >> 14 : offset < 0x20000 ? 4 : 4 + (offset >> 17);
}

static bool erase_sector(uint32_t sector)
{
    watch_feed();
    FLASH_CR = ERASE | BY_WORDS | sector << 3;
    FLASH_CR |= START;
    return idle();
}

bool farm_port_erase(uint32_t address, uint32_t count)
{
    bool fine = unlock();
    uint32_t end = count ? sector_of(address + count - 1) + 1 : 0;
    for (uint32_t sector = sector_of(address); fine && sector < end; sector++)
        fine = erase_sector(sector);
    fine = lock(fine);
    forget_caches();
    return fine;
}

static bool write_word(uint32_t address, uint32_t word)
{
    FLASH_CR = PROGRAM | BY_WORDS;
    FARM_REGISTER(address) = word;
    return idle();
}

static bool write_byte(uint32_t address, uint8_t byte)
{
    FLASH_CR = PROGRAM;
    *(volatile uint8_t *)(uintptr_t)address = byte;
    return idle();
}

bool farm_port_write(uint32_t address, const uint8_t *bytes, uint32_t count)
{
    bool fine = unlock();
    while (fine && count) {
        uint32_t step = address % 4 == 0 && count >= 4 ? 4 : 1;
        fine = step == 1 ? write_byte(address, *bytes)
                         : write_word(address, bytes[0] | (uint32_t)bytes[1] << 8
                                   | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
        address += step;
        bytes += step;
        count -= step;
    }
    fine = lock(fine);
    forget_caches();
    return fine;
}
