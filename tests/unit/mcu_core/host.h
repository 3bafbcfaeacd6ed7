/* A board in this process, with flash memory that behaves like flash memory. */
#ifndef HOST_H
#define HOST_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "farm_core.h"
#include "farm_slots.h"

enum { FLASH_BYTES = 2 * FARM_SLOT_BYTES + 2 * FARM_STATE_BANK_BYTES };

struct host {
    uint8_t *flash;
    uint8_t ram[FARM_RAM_BYTES];
    struct farm_start start; /* of the next start */
    jmp_buf restarted;       /* where a restart goes to: 1, a power cut: 2 */
    long power;              /* bytes that can still be written before a power cut, -1 for all */
    bool broken;             /* whether flash memory takes nothing */
    uint32_t clock;
    uint32_t inferences;
    bool prints; /* answers go to standard output */
    uint8_t sent[4096];
    size_t sent_count;
};
extern struct host host;

/* Begin with what the last restart left. */
void host_start(void);
/* A number that looks random, the same in every run. */
uint32_t host_random(void);
/* Give a request to the core; the kind of its answer. */
int host_ask(uint8_t kind, const void *payload, uint32_t length);
/* An image that the board takes, for a slot; its length. */
uint32_t host_image(uint8_t *image, uint32_t slot, uint8_t mark);

#endif
