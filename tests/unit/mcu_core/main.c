/* core serve FILE  a board on standard input and output, with its flash memory in a file
 * core fuzz N      N hostile bytes
 * core cut         power cuts at every byte that is written while a model is changed */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "farm_digest.h"
#include "farm_wire.h"
#include "host.h"

static void demand(bool truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* ---- Changing a model ---- */

static uint8_t image[FARM_SLOT_BYTES], payload[FARM_FRAME_PAYLOAD];

static bool ask(uint8_t kind, uint32_t length)
{
    return host_ask(kind, payload, length) == (kind | FARM_ANSWER);
}

/* Up to COMMIT; false if something was refused. */
static bool push(uint32_t slot, uint8_t mark)
{
    uint32_t length = host_image(image, slot, mark);
    farm_put32(payload, slot);
    farm_put32(payload + 4, length);
    farm_put32(payload + 8, farm_crc32(0, image, length));
    farm_sha256(image, length, payload + 12);
    if (!ask(FARM_BEGIN, 44))
        return false;
    for (uint32_t offset = 0; offset < length; offset += 100) {
        uint32_t count = length - offset < 100 ? length - offset : 100;
        farm_put32(payload + 4, offset);
        memcpy(payload + 8, image + offset, count);
        if (!ask(FARM_DATA, 8 + count))
            return false;
    }
    return ask(FARM_COMMIT, 4);
}

static void install_first(void)
{
    memset(host.flash, 0, FLASH_BYTES);
    host.power = -1;
    if (setjmp(host.restarted) == 0) {
        host_start();
        demand(push(0, 'A'), "the first model is refused");
        host_ask(FARM_DO_RESET, NULL, 0);
    }
    host_start();
    demand(ask(FARM_CONFIRM, 0), "the first model is not confirmed");
}

static char running_mark(void)
{
    int32_t slot = farm_slots_running();
    return slot == FARM_NONE ? '-' : farm_slots_image(slot)->name[1];
}

/* ---- Power cuts ---- */

static volatile int stage; /* how far the change came: 1 committed, 2 tried, 3 confirmed */

static void change_model(void)
{
    host_start();
    demand(push(1, 'B'), "the second model is refused");
    stage = 1;
    if (host_ask(FARM_DO_RESET, NULL, 0))
        demand(false, "it did not restart");
}

static volatile bool cut;

/* True if the power lasted. */
static bool change_with_power(long power)
{
    cut = false;
    stage = 0;
    host.power = power;
    int how = setjmp(host.restarted);
    if (how == 0) {
        change_model();
    } else if (how == 1 && stage == 1) {
        stage = 2;
        host_start();
        stage = running_mark() == 'B' ? stage : -1;
        demand(stage == 2 && ask(FARM_CONFIRM, 0), "the trial is not confirmed");
        stage = 3;
    } else {
        cut = how == 2;
    }
    host.power = -1;
    return !cut;
}

static void check_after_cut(void)
{
    if (setjmp(host.restarted) != 0)
        demand(false, "it restarts by itself");
    host_start();
    const struct farm_state *state = farm_slots_state();
    const struct farm_slot *second = &state->slots[1];
    uint32_t whole = host_image(image, 1, 'B');
    char mark = running_mark();
    demand(mark == 'A' || mark == 'B', "nothing runs");
    demand(state->confirmed == 0 || (state->confirmed == 1 && stage >= 2), "confirmed too early");
    demand(state->confirmed == (mark == 'B' && state->pending != 1), "another one runs");
    demand(second->length == 0 || second->length == whole, "half a slot");
    demand(stage < 2 || second->length == whole, "a whole slot is lost");
    demand(stage == 3 ? state->confirmed == 1 : true, "a confirmed slot is lost");
}

static int cut_power(void)
{
    long power = 0;
    for (;; power++) {
        install_first();
        bool lasted = change_with_power(power);
        check_after_cut();
        if (lasted)
            break;
        if (farm_slots_running() == 0) { /* whatever was left: the same change works now */
            demand(change_with_power(-1), "no second try");
            check_after_cut();
            demand(farm_slots_state()->confirmed == 1, "the second try is lost");
        }
    }
    printf("%ld\n", power);
    return 0;
}

/* ---- Hostile bytes ---- */

static void check_survivor(void)
{
    int32_t confirmed = farm_slots_state()->confirmed;
    demand(confirmed != FARM_NONE, "the confirmed slot is lost");
    demand(farm_slots_state()->slots[confirmed].length != 0, "the confirmed slot is empty");
    demand(farm_slots_running() != FARM_NONE, "nothing runs after a restart");
}

static uint8_t any_kind(void)
{
    static const uint8_t kinds[] = { 1, 2, 3, 4, 4, 4, 5, 7, 8, 9, 10, 6, 0, 0xFF, 0x81, 0x42 };
    uint8_t kind = kinds[host_random() % sizeof kinds];
    return kind == FARM_DO_RESET && host_random() % 8 ? FARM_ECHO : kind;
}

/* A frame with a good checksum and nonsense in it; small numbers make it come further. */
static uint32_t ask_nonsense(void)
{
    uint32_t length = host_random() % 4 ? host_random() % 60 : host_random() % FARM_FRAME_PAYLOAD;
    uint8_t kind = any_kind();
    for (uint32_t i = 0; i < length; i++)
        payload[i] = (uint8_t)(host_random() % 3 ? host_random() : 0);
    if (length >= 12 && host_random() % 2) {
        farm_put32(payload, host_random() % 3);
        farm_put32(payload + 4, host_random() % 300);
    }
    host_ask(kind, payload, host_random() % 3 ? length : length & 15);
    return length + 15;
}

static uint32_t ask_mutated(void)
{
    uint8_t frame[256];
    uint32_t length = host_random() % 200;
    const uint8_t head[] = { 0xA5, 0x5A, any_kind(), 1, 2, (uint8_t)farm_slots_state()->boots, 0,
        (uint8_t)length, 0, 0, 0 };
    memcpy(frame, head, sizeof head);
    for (uint32_t i = 0; i < length; i++)
        frame[11 + i] = (uint8_t)host_random();
    farm_put32(frame + 11 + length, farm_crc32(0, frame + 2, 9 + length));
    for (uint32_t flips = host_random() % 3; flips > 0; flips--)
        frame[host_random() % (15 + length)] ^= (uint8_t)(1u << host_random() % 8);
    uint32_t count = host_random() % 5 ? 15 + length : host_random() % (15 + length);
    farm_take(frame, count);
    return count;
}

static uint32_t send_noise(void)
{
    uint8_t noise[512];
    for (uint32_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(host_random() % 16 ? host_random() : i % 2 ? 0x5A : 0xA5);
    farm_take(noise, sizeof noise);
    host.clock += host_random() % 200000;
    return sizeof noise;
}

/* A good model, now and then confirmed: so the confirmed slot changes as well. */
static uint32_t change_well(void)
{
    uint32_t slot = host_random() % 2;
    if (push(slot, (uint8_t)('a' + host_random() % 20)))
        farm_port_restart();
    return 700;
}

static uint32_t attack(void)
{
    uint32_t what = host_random() % 64;
    if (what < 4)
        return change_well();
    if (what < 6)
        return host_ask(FARM_CONFIRM, NULL, 0) ? 15 : 0;
    return what < 30 ? ask_nonsense() : what < 60 ? ask_mutated() : send_noise();
}

static int fuzz(long wanted)
{
    static volatile long bytes;
    static volatile unsigned long restarts;
    install_first();
    if (setjmp(host.restarted) != 0) {
        restarts++;
        bytes += 100;
        host_start();
        check_survivor();
    }
    while (bytes < wanted)
        bytes += attack();
    host.clock += 1000000;
    demand(host_ask(FARM_HELLO, NULL, 0) == (FARM_HELLO | FARM_ANSWER), "no hello afterwards");
    printf("%ld %lu\n", bytes, restarts);
    return 0;
}

/* ---- A board for a test in another language ---- */

static uint32_t real_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

static int serve(const char *path, bool broken)
{
    uint8_t bytes[512];
    ssize_t count;
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, FLASH_BYTES) != 0)
        return 1;
    host.flash = mmap(NULL, FLASH_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    host.prints = true;
    host.broken = broken;
    setjmp(host.restarted);
    host_start();
    fflush(stdout);
    while ((count = read(0, bytes, sizeof bytes)) > 0) {
        host.clock = real_us();
        farm_take(bytes, (size_t)count);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t memory[FLASH_BYTES];
    host.flash = memory;
    if (argc >= 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argc > 3);
    if (argc == 3 && strcmp(argv[1], "fuzz") == 0)
        return fuzz(atol(argv[2]));
    return argc == 2 && strcmp(argv[1], "cut") == 0 ? cut_power() : 2;
}
