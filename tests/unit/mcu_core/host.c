#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "farm_digest.h"
#include "farm_wire.h"

struct host host = { .power = -1 };

uint32_t host_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

void host_start(void)
{
    struct farm_start start = host.start;
    start.boots = 0; /* the state counts */
    host.start = (struct farm_start) { .cause = FARM_RESET };
    memset(host.ram, 0xEE, sizeof host.ram);
    farm_start(&start);
}

uint8_t *farm_port_memory(uint32_t address)
{
    uint8_t *state = host.flash + 2 * FARM_SLOT_BYTES;
    if (address >= FARM_RAM_ADDRESS && address <= FARM_RAM_ADDRESS + FARM_RAM_BYTES)
        return host.ram + (address - FARM_RAM_ADDRESS);
    if (address >= FARM_STATE_ADDRESS && address < FARM_STATE_ADDRESS + 2 * FARM_STATE_BANK_BYTES)
        return state + (address - FARM_STATE_ADDRESS);
    if (address >= FARM_SLOT_ADDRESS(0) && address <= FARM_SLOT_ADDRESS(2))
        return host.flash + (address - FARM_SLOT_ADDRESS(0));
    fprintf(stderr, "no memory at %#x\n", address);
    abort();
}

static void spend(void)
{
    if (host.power == 0)
        longjmp(host.restarted, 2);
    host.power -= host.power > 0;
}

bool farm_port_erase(uint32_t address, uint32_t count)
{
    uint8_t *at = farm_port_memory(address);
    for (uint32_t i = 0; i < count && !host.broken; i++) {
        if (i % 64 == 0)
            spend();
        at[i] = 0xFF;
    }
    return !host.broken;
}

/* Writing clears bits and sets none; the byte that a power cut hits has some of them cleared. */
bool farm_port_write(uint32_t address, const uint8_t *bytes, uint32_t count)
{
    uint8_t *at = count ? farm_port_memory(address) : NULL;
    for (uint32_t i = 0; i < count && !host.broken; i++) {
        if (host.power == 0)
            at[i] &= (uint8_t)(bytes[i] | host_random());
        spend();
        at[i] &= bytes[i];
    }
    return true; /* whether it was written is seen by reading */
}

/* The first byte of the code says what it does. */
static void fine(const void *input, void *output)
{
    uint8_t *out = output;
    out[0] = (uint8_t)(*(const uint8_t *)input + 1);
    farm_put32(out + 4, ++host.inferences);
    host.clock += 7;
}

static void faults(const void *input, void *output)
{
    (void)input, (void)output;
    host.start.cause = FARM_FAULT;
    host.start.fault = (struct farm_fault) {
        .pc = 0x10080, .lr = 1, .cfsr = 0x10000, .cause = FARM_USAGE };
    farm_tell_fault(&host.start.fault);
    longjmp(host.restarted, 1);
}

static void hangs(const void *input, void *output)
{
    (void)input, (void)output;
    host.start.cause = FARM_WATCHDOG;
    longjmp(host.restarted, 1);
}

farm_infer farm_port_function(uint32_t address)
{
    uint8_t code = *farm_port_memory(address & ~1u);
    return code == 'f' ? faults : code == 'h' ? hangs : fine;
}

uint32_t farm_port_clock(void) { return host.clock; }
void farm_port_restart(void) { longjmp(host.restarted, 1); }

void farm_port_put(const uint8_t *bytes, size_t count)
{
    if (host.prints && fwrite(bytes, 1, count, stdout) != count)
        exit(1);
    if (bytes[0] == 0xA5 && count == 11) /* the head of a frame */
        host.sent_count = 0;
    if (count <= sizeof host.sent - host.sent_count)
        memcpy(host.sent + host.sent_count, bytes, count);
    host.sent_count += count;
}

int host_ask(uint8_t kind, const void *payload, uint32_t length)
{
    static uint16_t sequence;
    static uint8_t frame[FARM_FRAME_PAYLOAD + 64];
    sequence = sequence == 0xFFFF ? 1 : (uint16_t)(sequence + 1);
    uint32_t boots = farm_slots_state()->boots, boot = (boots - 1) % 0xFFFF + 1;
    uint8_t head[] = { 0xA5, 0x5A, kind, (uint8_t)sequence, (uint8_t)(sequence >> 8), (uint8_t)boot,
        (uint8_t)(boot >> 8) };
    memcpy(frame, head, sizeof head);
    farm_put32(frame + 7, length);
    if (length)
        memcpy(frame + 11, payload, length);
    farm_put32(frame + 11 + length, farm_crc32(0, frame + 2, 9 + length));
    host.sent_count = 0;
    host.clock += 200000; /* whatever was torn before is over */
    farm_take(frame, 15 + length);
    return host.sent_count > 2 ? host.sent[2] : -1;
}

uint32_t host_image(uint8_t *image, uint32_t slot, uint8_t mark)
{
    uint32_t base = FARM_SLOT_ADDRESS(slot), length = 124 + 200 + mark;
    struct farm_image header = { .magic = FARM_IMAGE_MAGIC, .abi = FARM_IMAGE_ABI,
        .header_bytes = 124, .cpu = FARM_CPU, .total_bytes = length, .base = base,
        .entry = base + 125, .data_address = FARM_RAM_ADDRESS, .data_load_address = base + 128,
        .data_bytes = 16, .bss_address = FARM_RAM_ADDRESS + 16, .bss_bytes = 4080, .in_bytes = 64,
        .out_bytes = 8, .name = { 'm', (char)mark } };
    memset(image, mark, length);
    memcpy(image, &header, sizeof header);
    return length;
}
