#include "farm_slots.h"

#include "farm_digest.h"
#include "freestanding.h"

#if FARM_SLOTS > 0

enum {
    STATE_MAGIC = 0x53544631, /* "1FTS" */
    CELL_BYTES = 256,
    CELLS = FARM_STATE_BANK_BYTES / CELL_BYTES,
    BANKS = 2,
};
_Static_assert(sizeof(struct farm_state) <= CELL_BYTES, "fewer slots, or larger cells");

static struct farm_state state;
static uint32_t bank;      /* that holds the newest record ... */
static uint32_t free_cell; /* ... and where the next one goes, CELLS for the other bank */
static int32_t running;
static int32_t filling; /* slot between BEGIN and COMMIT */
static struct farm_slot announced_slot;

static uint32_t cell_address(uint32_t in_bank, uint32_t cell)
{
    return FARM_STATE_ADDRESS + in_bank * FARM_STATE_BANK_BYTES + cell * CELL_BYTES;
}

static uint32_t state_crc(const struct farm_state *of)
{
    return farm_crc32(0, (const uint8_t *)of, offsetof(struct farm_state, crc));
}

static bool blank(const uint8_t *bytes, uint32_t count)
{
    while (count--)
        if (*bytes++ != 0xFF)
            return false;
    return true;
}

static bool is_slot(int32_t slot) { return slot >= FARM_NONE && slot < FARM_SLOTS; }

/* Take a record if it is whole and newer than what was found so far. */
static void consider(uint32_t in_bank, uint32_t cell)
{
    struct farm_state found;
    memcpy(&found, farm_port_memory(cell_address(in_bank, cell)), sizeof found);
    if (found.magic != STATE_MAGIC || found.crc != state_crc(&found))
        return;
    if (found.generation > state.generation && is_slot(found.confirmed) && is_slot(found.pending)) {
        state = found;
        bank = in_bank;
    }
}

/* A record that a power cut tore is no record, and its cell is not blank: it is skipped. */
static void load(void)
{
    memset(&state, 0, sizeof state);
    state.confirmed = state.pending = FARM_NONE;
    bank = BANKS - 1; /* an empty memory begins with the other one */
    for (uint32_t in_bank = 0; in_bank < BANKS; in_bank++)
        for (uint32_t cell = 0; cell < CELLS; cell++)
            consider(in_bank, cell);
    free_cell = CELLS;
    while (state.generation && free_cell > 0
        && blank(farm_port_memory(cell_address(bank, free_cell - 1)), CELL_BYTES))
        free_cell--;
}

/* Write a state behind the one that holds. A full bank stays as it is until the other one has the
 * new record, so a power cut at any moment leaves one of the two. */
static int32_t keep(struct farm_state wanted)
{
    uint32_t to = bank, cell = free_cell;
    wanted.magic = STATE_MAGIC;
    wanted.generation = state.generation + 1;
    wanted.crc = state_crc(&wanted);
    if (cell == CELLS) {
        to = (bank + 1) % BANKS;
        cell = 0;
        if (!farm_port_erase(cell_address(to, 0), FARM_STATE_BANK_BYTES))
            return FARM_FLASH;
    } else {
        free_cell++; /* also if it fails: a torn record's cell is lost */
    }
    uint32_t address = cell_address(to, cell);
    if (!farm_port_write(address, (const uint8_t *)&wanted, sizeof wanted)
        || memcmp(farm_port_memory(address), &wanted, sizeof wanted) != 0)
        return FARM_FLASH;
    state = wanted;
    bank = to;
    free_cell = cell + 1;
    return FARM_OK;
}

const struct farm_state *farm_slots_state(void) { return &state; }
int32_t farm_slots_running(void) { return running; }

const struct farm_image *farm_slots_image(int32_t slot)
{
    return (const struct farm_image *)(const void *)farm_port_memory(
        FARM_SLOT_ADDRESS((uint32_t)slot));
}

/* Whether `count` bytes at an address lie inside of a memory; written so that nothing overflows. */
static bool inside(uint32_t address, uint32_t count, uint32_t memory, uint32_t bytes)
{
    return address >= memory && address - memory <= bytes && count <= bytes - (address - memory);
}

static int32_t check_place(const struct farm_image *image, uint32_t slot)
{
    uint32_t base = FARM_SLOT_ADDRESS(slot), length = image->total_bytes;
    uint32_t entry = image->entry & ~1u;
    bool aligned = ((image->data_address | image->data_bytes | image->data_load_address
                        | image->bss_address | image->bss_bytes) & 3) == 0;
    bool code = image->base == base && (image->entry & 1)
        && inside(entry, 2, base + sizeof *image, length - sizeof *image)
        && inside(image->data_load_address, image->data_bytes, base, length);
    bool data = image->data_bytes == 0
        || inside(image->data_address, image->data_bytes, FARM_RAM_ADDRESS, FARM_RAM_BYTES);
    bool bss = image->bss_bytes == 0
        || inside(image->bss_address, image->bss_bytes, FARM_RAM_ADDRESS, FARM_RAM_BYTES);
    return aligned && code && data && bss ? FARM_OK : FARM_WRONG_PLACE;
}

/* Whether what lies in a slot is an image that can run here. */
static int32_t check_header(uint32_t slot, uint32_t length)
{
    const struct farm_image *image = farm_slots_image((int32_t)slot);
    if (length < sizeof *image || image->magic != FARM_IMAGE_MAGIC
        || image->header_bytes != sizeof *image || image->abi != FARM_IMAGE_ABI)
        return FARM_WRONG_ABI;
    if (image->cpu != FARM_CPU)
        return FARM_WRONG_CPU;
    if (image->total_bytes != length)
        return FARM_CORRUPT;
    if (image->in_bytes > FARM_MAX_INPUT || image->out_bytes > FARM_MAX_OUTPUT)
        return FARM_TOO_LONG;
    return check_place(image, slot);
}

static int32_t check(uint32_t slot, const struct farm_slot *told)
{
    if (told->length > FARM_SLOT_BYTES)
        return FARM_CORRUPT;
    if (farm_crc32(0, farm_port_memory(FARM_SLOT_ADDRESS(slot)), told->length) != told->crc32)
        return FARM_CORRUPT;
    return check_header(slot, told->length);
}

static bool can_start(int32_t slot)
{
    return slot != FARM_NONE && state.slots[slot].length != 0
        && check((uint32_t)slot, &state.slots[slot]) == FARM_OK;
}

static void fill_memory(const struct farm_image *image)
{
    if (image->data_bytes)
        memcpy(farm_port_memory(image->data_address), farm_port_memory(image->data_load_address),
            image->data_bytes);
    if (image->bss_bytes)
        memset(farm_port_memory(image->bss_address), 0, image->bss_bytes);
}

bool farm_slots_start(const struct farm_start *start)
{
    load();
    filling = FARM_NONE;
    struct farm_state next = state;
    bool try = state.pending != FARM_NONE && !state.tried && can_start(state.pending);
    bool back = state.pending != FARM_NONE && !try;
    next.boots = start->boots > state.boots + 1 ? start->boots : state.boots + 1;
    next.tried = try;
    if (back) {
        next.pending = FARM_NONE;
        next.rollbacks++;
    }
    if (start->fault.cause != FARM_NO_FAULT)
        next.last_fault = start->fault;
    bool kept = keep(next) == FARM_OK;
    if (!kept)
        state.boots = next.boots; /* at least until the next start */
    /* A trial that cannot be noted would be tried again and again: it does not begin. */
    running = try && kept ? next.pending : can_start(next.confirmed) ? next.confirmed : FARM_NONE;
    if (running != FARM_NONE)
        fill_memory(farm_slots_image(running));
    return back;
}

int32_t farm_slots_begin(uint32_t slot, const struct farm_slot *announced)
{
    if (slot >= FARM_SLOTS)
        return FARM_BAD_REQUEST;
    if ((int32_t)slot == running || (int32_t)slot == state.confirmed)
        return FARM_BUSY;
    if (announced->length > FARM_SLOT_BYTES)
        return FARM_TOO_LONG;
    struct farm_state next = state;
    memset(&next.slots[slot], 0, sizeof next.slots[slot]);
    if (next.pending == (int32_t)slot) {
        next.pending = FARM_NONE;
        next.tried = 0;
    }
    filling = FARM_NONE;
    /* First the note that nothing whole lies there, then the erasing. */
    if (keep(next) != FARM_OK || !farm_port_erase(FARM_SLOT_ADDRESS(slot), announced->length))
        return FARM_FLASH;
    filling = (int32_t)slot;
    announced_slot = *announced;
    return FARM_OK;
}

int32_t farm_slots_data(uint32_t slot, uint32_t offset, const uint8_t *bytes, uint32_t count)
{
    if (slot >= FARM_SLOTS)
        return FARM_BAD_REQUEST;
    if ((int32_t)slot == running || (int32_t)slot == state.confirmed)
        return FARM_BUSY;
    if ((int32_t)slot != filling || offset > announced_slot.length
        || count > announced_slot.length - offset)
        return FARM_BAD_REQUEST;
    uint32_t address = FARM_SLOT_ADDRESS(slot) + offset;
    bool written = farm_port_write(address, bytes, count);
    return written && memcmp(farm_port_memory(address), bytes, count) == 0 ? FARM_OK : FARM_FLASH;
}

int32_t farm_slots_commit(uint32_t slot)
{
    uint8_t digest[FARM_SHA256_BYTES];
    if (slot >= FARM_SLOTS)
        return FARM_BAD_REQUEST;
    struct farm_state next = state;
    if ((int32_t)slot == filling)
        next.slots[slot] = announced_slot;
    struct farm_slot *told = &next.slots[slot];
    if (told->length == 0)
        return FARM_WRONG_ABI;
    int32_t code = check(slot, told);
    if (code != FARM_OK)
        return code;
    farm_sha256(farm_port_memory(FARM_SLOT_ADDRESS(slot)), told->length, digest);
    if (memcmp(digest, told->sha256, sizeof digest) != 0)
        return FARM_CORRUPT;
    next.pending = (int32_t)slot == state.confirmed ? FARM_NONE : (int32_t)slot;
    next.tried = 0;
    code = keep(next);
    if (code == FARM_OK && (int32_t)slot == filling)
        filling = FARM_NONE;
    return code;
}

int32_t farm_slots_confirm(void)
{
    struct farm_state next = state;
    if (running == FARM_NONE)
        return FARM_NO_MODEL;
    if (running == state.confirmed && running != state.pending)
        return FARM_OK;
    next.confirmed = running;
    if (next.pending == running) {
        next.pending = FARM_NONE;
        next.tried = 0;
    }
    return keep(next);
}

#endif
