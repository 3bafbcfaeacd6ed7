#include "farm_core.h"

#include "farm_digest.h"
#include "farm_slots.h"
#include "farm_text.h"
#include "farm_wire.h"
#include "freestanding.h"

enum {
    WORD_BYTES = 16,
    TEXT_BYTES = 1024 + 256 * FARM_SLOTS, /* HELLO's answer fits */
    MAX_COUNT = 1000,
    DEFAULT_TIMEOUT_MS = 10000,
    SHA256_BYTES = 32,
};
_Static_assert(FARM_MAX_PAYLOAD >= TEXT_BYTES, "HELLO's answer is longer");

static struct farm_start this_start;
static bool rolled_back;
static uint16_t boot;
static struct farm_model model;
static struct farm_wire wire;
/* HELLO's answer is written here too, so that it leaves the last answer alone. */
static uint8_t text_room[TEXT_BYTES];
static _Alignas(8) uint8_t input[FARM_MAX_INPUT];
static _Alignas(8) uint8_t output[FARM_MAX_OUTPUT];

/* The last request, and what was answered to it: a request that comes again gets that again. */
static struct {
    bool there;
    uint16_t sequence;
    uint32_t crc;
    uint8_t kind;
    uint32_t length;
    uint8_t payload[FARM_MAX_PAYLOAD];
} last;

static const char *const CAUSES[] = { "power", "reset", "watchdog", "fault" };
static const char *const FAULT_CAUSES[] = { "", "bus", "memory", "usage", "hard" };

static void send(uint8_t kind, uint16_t sequence, const uint8_t *payload, uint32_t length)
{
    const struct farm_frame frame = { .kind = kind, .sequence = sequence, .boot = boot,
        .payload = payload, .length = length };
    farm_wire_send(&frame);
}

/* ---- What the device says of itself ---- */

static void put_fault(struct farm_text *text, const char *name, const struct farm_fault *fault)
{
    if (fault->cause == FARM_NO_FAULT || fault->cause > FARM_HARD) {
        farm_text_null(text, name);
        return;
    }
    farm_text_begin(text, name, '{');
    farm_text_number(text, "pc", fault->pc);
    farm_text_number(text, "lr", fault->lr);
    farm_text_number(text, "cfsr", fault->cfsr);
    farm_text_string(text, "cause", FAULT_CAUSES[fault->cause], WORD_BYTES);
    farm_text_end(text, '}');
}

static void put_board(struct farm_text *text)
{
    uint8_t unit[FARM_UNIT_BYTES], cpuid[4];
    uint32_t number = farm_port_cpuid();
    for (unsigned i = 0; i < 4; i++)
        cpuid[i] = (uint8_t)(number >> (24 - 8 * i));
    farm_text_number(text, "protocol", 1);
    farm_text_string(text, "firmware", FARM_FIRMWARE, sizeof FARM_FIRMWARE);
    farm_text_string(text, "board", FARM_BOARD, sizeof FARM_BOARD);
    farm_text_number(text, "cpu", FARM_CPU);
    farm_text_hex(text, "cpuid", cpuid, number ? sizeof cpuid : 0);
    farm_text_hex(text, "unit", unit, farm_port_unit(unit));
    farm_text_number(text, "abi", FARM_IMAGE_ABI);
    farm_text_number(text, "tick_hz", farm_port_tick_hz());
    farm_text_string(text, "ticks", farm_port_ticks_are_cycles() ? "cycles" : "timer", WORD_BYTES);
    farm_text_number(text, "max_payload", FARM_MAX_PAYLOAD);
    farm_text_number(text, "max_input", FARM_MAX_INPUT);
    farm_text_number(text, "max_output", FARM_MAX_OUTPUT);
    farm_text_number(text, "stack", farm_port_stack_bytes());
}

#if FARM_SLOTS > 0
static void put_slots(struct farm_text *text)
{
    const struct farm_state *state = farm_slots_state();
    farm_text_begin(text, "slots", '[');
    for (uint32_t i = 0; i < FARM_SLOTS; i++) {
        const struct farm_slot *slot = &state->slots[i];
        farm_text_begin(text, NULL, '{');
        farm_text_number(text, "address", FARM_SLOT_ADDRESS(i));
        farm_text_number(text, "bytes", FARM_SLOT_BYTES);
        farm_text_number(text, "length", slot->length);
        farm_text_hex(text, "sha256", slot->sha256, slot->length ? sizeof slot->sha256 : 0);
        farm_text_end(text, '}');
    }
    farm_text_end(text, ']');
    farm_text_begin(text, "ram", '{');
    farm_text_number(text, "address", FARM_RAM_ADDRESS);
    farm_text_number(text, "bytes", FARM_RAM_BYTES);
    farm_text_end(text, '}');
    farm_text_slot(text, "running", farm_slots_running());
    farm_text_slot(text, "confirmed", state->confirmed);
    farm_text_slot(text, "pending", state->pending);
    farm_text_number(text, "boots", state->boots);
    farm_text_number(text, "rollbacks", state->rollbacks);
    put_fault(text, "last_fault", &state->last_fault);
}
#else
static void put_slots(struct farm_text *text)
{
    farm_text_begin(text, "slots", '[');
    farm_text_end(text, ']');
    farm_text_begin(text, "ram", '{');
    farm_text_number(text, "address", 0);
    farm_text_number(text, "bytes", 0);
    farm_text_end(text, '}');
    farm_text_slot(text, "running", FARM_NONE);
    farm_text_slot(text, "confirmed", FARM_NONE);
    farm_text_slot(text, "pending", FARM_NONE);
    farm_text_number(text, "boots", this_start.boots);
    farm_text_number(text, "rollbacks", 0);
    put_fault(text, "last_fault", &this_start.fault);
}
#endif

static void hello(uint16_t sequence)
{
    struct farm_text text = { .bytes = text_room, .room = sizeof text_room };
    farm_text_begin(&text, NULL, '{');
    put_board(&text);
    put_slots(&text);
    farm_text_number(&text, "boot", boot);
    farm_text_string(&text, "cause", CAUSES[this_start.cause], WORD_BYTES);
    farm_text_string(&text, "model", model.name, FARM_IMAGE_NAME_BYTES - 1);
    farm_text_hex(&text, "model_sha256", model.sha256, model.sha256 ? SHA256_BYTES : 0);
    farm_text_number(&text, "in_bytes", model.in_bytes);
    farm_text_number(&text, "out_bytes", model.out_bytes);
    farm_text_end(&text, '}');
    send(FARM_HELLO | FARM_ANSWER, sequence, text_room, text.length);
}

static void tell_boot(void)
{
    struct farm_text text = { .bytes = text_room, .room = sizeof text_room };
    farm_text_begin(&text, NULL, '{');
    farm_text_number(&text, "boot", boot);
    farm_text_string(&text, "cause", CAUSES[this_start.cause], WORD_BYTES);
    farm_text_bool(&text, "rolled_back", rolled_back);
    farm_text_end(&text, '}');
    send(FARM_BOOT, 0, text_room, text.length);
}

void farm_tell_fault(const struct farm_fault *fault)
{
    struct farm_text text = { .bytes = text_room, .room = sizeof text_room };
    put_fault(&text, NULL, fault);
    send(FARM_FAULTED, 0, text_room, text.length);
}

static void choose_model(void)
{
#if FARM_SLOTS > 0
    rolled_back = farm_slots_start(&this_start);
    this_start.boots = farm_slots_state()->boots;
    int32_t slot = farm_slots_running();
    model = (struct farm_model) { .name = "" };
    if (slot != FARM_NONE) {
        const struct farm_image *image = farm_slots_image(slot);
        model = (struct farm_model) { .name = image->name, .sha256 = image->model_sha256,
            .in_bytes = image->in_bytes, .out_bytes = image->out_bytes,
            .infer = farm_port_function(image->entry) };
    }
#else
    model = farm_builtin_model;
#endif
}

void farm_start(const struct farm_start *start)
{
    this_start = *start;
    rolled_back = false;
    wire.have = 0;
    wire.last = farm_port_clock();
    last.there = false;
    choose_model();
    boot = (uint16_t)((this_start.boots - 1) % 0xFFFF + 1); /* 1 to 65535, and never 0 */
    tell_boot();
}

/* ---- Requests; each writes its answer into `last` and returns a code ---- */

static int32_t echo(const struct farm_frame *request)
{
    if (request->length > FARM_MAX_PAYLOAD)
        return FARM_BAD_REQUEST;
    memcpy(last.payload, request->payload, request->length);
    last.length = request->length;
    return FARM_OK;
}

static int32_t take_input(const struct farm_frame *request)
{
    if (request->length < 4)
        return FARM_BAD_REQUEST;
    if (!model.infer)
        return FARM_NO_MODEL;
    uint32_t offset = farm_get32(request->payload), count = request->length - 4;
    if (offset > model.in_bytes || count > model.in_bytes - offset)
        return FARM_TOO_LONG;
    memcpy(input + offset, request->payload + 4, count);
    return FARM_OK;
}

static int32_t give_output(const struct farm_frame *request)
{
    if (request->length != 8)
        return FARM_BAD_REQUEST;
    if (!model.infer)
        return FARM_NO_MODEL;
    uint32_t offset = farm_get32(request->payload), count = farm_get32(request->payload + 4);
    if (count > FARM_MAX_PAYLOAD || offset > model.out_bytes || count > model.out_bytes - offset)
        return FARM_BAD_REQUEST;
    memcpy(last.payload, output + offset, count);
    last.length = count;
    return FARM_OK;
}

/* Run once, for at most `ms`; nothing but the call lies between the readings of the counter. */
static uint32_t timed(uint32_t ms)
{
    farm_port_watchdog(ms);
    uint32_t before = farm_port_ticks();
    model.infer(input, output);
    uint32_t ticks = farm_port_ticks() - before;
    farm_port_watchdog(0);
    return ticks;
}

/* A run that takes longer than one turn of the counter would be timed wrongly: the watchdog ends
 * it, whatever time is left. The pin is high for as long as inferences follow each other; of a run
 * that does not end, the restart lowers it. */
static void run(uint32_t count, uint32_t timeout_ms)
{
    uint32_t ticks_per_ms = farm_port_tick_hz() / 1000;
    uint32_t turn_ms = UINT32_MAX / ticks_per_ms, left_ms = timeout_ms, rest = 0;
    farm_port_stack_paint();
    farm_port_sync(true);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t ticks = timed(left_ms < turn_ms ? left_ms : turn_ms);
        farm_put32(last.payload + 8 + 8 * i, ticks);
        farm_put32(last.payload + 12 + 8 * i, 0);
        uint32_t ms = ticks / ticks_per_ms;
        rest += ticks % ticks_per_ms;
        ms += rest / ticks_per_ms;
        rest %= ticks_per_ms;
        left_ms = ms < left_ms ? left_ms - ms : 1;
    }
    farm_port_sync(false);
    farm_put32(last.payload, farm_port_stack_peak());
    farm_put32(last.payload + 4, 0);
    last.length = 8 + 8 * count;
}

static int32_t infer(const struct farm_frame *request)
{
    if (request->length != 8)
        return FARM_BAD_REQUEST;
    uint32_t count = farm_get32(request->payload), ms = farm_get32(request->payload + 4);
    if (count < 1 || count > MAX_COUNT || 8 + 8 * count > FARM_MAX_PAYLOAD)
        return FARM_BAD_REQUEST;
    if (!model.infer)
        return FARM_NO_MODEL;
    run(count, ms ? ms : DEFAULT_TIMEOUT_MS);
    return FARM_OK;
}

/* A whole input in, the whole output out: what a set of items takes, without three requests each. */
static int32_t item(const struct farm_frame *request)
{
    if (request->length < 4)
        return FARM_BAD_REQUEST;
    if (!model.infer)
        return FARM_NO_MODEL;
    if (request->length - 4 != model.in_bytes || model.out_bytes > FARM_MAX_PAYLOAD)
        return FARM_TOO_LONG;
    uint32_t ms = farm_get32(request->payload);
    memcpy(input, request->payload + 4, model.in_bytes);
    farm_port_watchdog(ms ? ms : DEFAULT_TIMEOUT_MS);
    model.infer(input, output);
    farm_port_watchdog(0);
    memcpy(last.payload, output, model.out_bytes);
    last.length = model.out_bytes;
    return FARM_OK;
}

#if FARM_SLOTS > 0
/* BEGIN, DATA and COMMIT begin with the number of the slot and three zeros. */
static int32_t change_slot(const struct farm_frame *request)
{
    const uint8_t *payload = request->payload;
    uint32_t slot = request->length >= 4 ? farm_get32(payload) : UINT32_MAX;
    struct farm_slot announced;
    if (slot >= FARM_SLOTS)
        return FARM_BAD_REQUEST;
    switch (request->kind) {
    case FARM_BEGIN:
        if (request->length != 12 + SHA256_BYTES)
            return FARM_BAD_REQUEST;
        announced.length = farm_get32(payload + 4);
        announced.crc32 = farm_get32(payload + 8);
        memcpy(announced.sha256, payload + 12, SHA256_BYTES);
        return farm_slots_begin(slot, &announced);
    case FARM_DATA:
        if (request->length < 8)
            return FARM_BAD_REQUEST;
        return farm_slots_data(slot, farm_get32(payload + 4), payload + 8, request->length - 8);
    default:
        return request->length == 4 ? farm_slots_commit(slot) : FARM_BAD_REQUEST;
    }
}

static int32_t confirm(void) { return farm_slots_confirm(); }
#else
static int32_t change_slot(const struct farm_frame *request)
{
    (void)request;
    return FARM_NO_SLOTS;
}

static int32_t confirm(void) { return FARM_NO_SLOTS; }
#endif

static int32_t serve(const struct farm_frame *request)
{
    switch (request->kind) {
    case FARM_ECHO:
        return echo(request);
    case FARM_BEGIN:
    case FARM_DATA:
    case FARM_COMMIT:
        return change_slot(request);
    case FARM_DO_RESET:
        return request->length == 0 ? FARM_OK : FARM_BAD_REQUEST;
    case FARM_CONFIRM:
        return request->length == 0 ? confirm() : FARM_BAD_REQUEST;
    case FARM_INPUT:
        return take_input(request);
    case FARM_INFER:
        return infer(request);
    case FARM_OUTPUT:
        return give_output(request);
    case FARM_ITEM:
        return item(request);
    default:
        return FARM_BAD_REQUEST;
    }
}

/* ---- Answers ---- */

/* The code's text in an error frame, by -code. */
static const char *const REFUSALS[] = { "", "a request that is unknown, of wrong length or range",
    "meant for an earlier start", "the slot runs or is confirmed",
    "longer than the room for it", "not the bytes that BEGIN announced",
    "no image for this firmware", "an image for another processor",
    "an image that is linked for another place", "no model to run",
    "the model is built in", "the memory does not take it" };

static uint32_t put_refusal(uint8_t *payload, int32_t code)
{
    const char *text = REFUSALS[-code];
    uint32_t length = 4;
    farm_put32(payload, (uint32_t)code);
    while (*text)
        payload[length++] = (uint8_t)*text++;
    return length;
}

/* For what the last answer must not be forgotten for. */
static void refuse(uint16_t sequence, int32_t code)
{
    send(FARM_ERROR, sequence, text_room, put_refusal(text_room, code));
}

static void answer_anew_or_again(const struct farm_frame *request)
{
    if (!last.there || request->sequence != last.sequence || request->crc != last.crc) {
        last.length = 0;
        int32_t code = serve(request);
        last.kind = code == FARM_OK ? request->kind | FARM_ANSWER : FARM_ERROR;
        if (code != FARM_OK)
            last.length = put_refusal(last.payload, code);
        last.there = true;
        last.sequence = request->sequence;
        last.crc = request->crc;
    }
    send(last.kind, request->sequence, last.payload, last.length);
    if (last.kind == (FARM_DO_RESET | FARM_ANSWER))
        farm_port_restart();
}

static void answer(const struct farm_frame *request)
{
    if (request->kind == FARM_HELLO && request->length == 0)
        hello(request->sequence);
    else if (request->kind == FARM_HELLO)
        refuse(request->sequence, FARM_BAD_REQUEST);
    else if (request->boot != boot)
        refuse(request->sequence, FARM_STALE);
    else
        answer_anew_or_again(request);
}

void farm_take(const uint8_t *bytes, size_t count)
{
    struct farm_frame request;
    farm_wire_now(&wire, farm_port_clock());
    while (count--)
        if (farm_wire_take(&wire, *bytes++, &request))
            answer(&request);
}
