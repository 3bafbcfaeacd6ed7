/* Slots for models, and the state that says which of them runs. */
#ifndef FARM_SLOTS_H
#define FARM_SLOTS_H

#include "farm_image.h"
#include "farm_port.h"

/* Codes of error frames; 0 is no error. */
enum farm_code {
    FARM_OK = 0,
    FARM_BAD_REQUEST = -1,
    FARM_STALE = -2,
    FARM_BUSY = -3,
    FARM_TOO_LONG = -4,
    FARM_CORRUPT = -5,
    FARM_WRONG_ABI = -6,
    FARM_WRONG_CPU = -7,
    FARM_WRONG_PLACE = -8,
    FARM_NO_MODEL = -9,
    FARM_NO_SLOTS = -10,
    FARM_FLASH = -11,
};

enum { FARM_NONE = -1 };

#if FARM_SLOTS > 0

/* What BEGIN announces, and what lies in a slot; length 0 for nothing whole. */
struct farm_slot {
    uint32_t length;
    uint32_t crc32;
    uint8_t sha256[32];
};

/* What outlives restarts and power cycles. */
struct farm_state {
    uint32_t magic;
    uint32_t generation; /* the highest one counts */
    uint32_t boots;
    uint32_t rollbacks;
    int32_t confirmed; /* slot numbers, FARM_NONE for none */
    int32_t pending;
    uint32_t tried; /* whether the pending slot had its start */
    struct farm_slot slots[FARM_SLOTS];
    struct farm_fault last_fault;
    uint32_t crc; /* of all before it */
};

/* The state as it was last written. */
const struct farm_state *farm_slots_state(void);
/* Which slot runs, FARM_NONE for none, and its header. */
int32_t farm_slots_running(void);
const struct farm_image *farm_slots_image(int32_t slot);

/* Read the state, count the start, decide which slot runs and fill its memory. Returns whether
 * this start went back from a slot on trial. */
bool farm_slots_start(const struct farm_start *start);

/* The requests of docs/mcu-protocol.md. */
int32_t farm_slots_begin(uint32_t slot, const struct farm_slot *announced);
int32_t farm_slots_data(uint32_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count);
int32_t farm_slots_commit(uint32_t slot);
int32_t farm_slots_confirm(void);

#endif
#endif
