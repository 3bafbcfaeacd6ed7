#include "farm_wire.h"

#include "farm_digest.h"

enum { SYNC_1 = 0xA5, SYNC_2 = 0x5A, SYNC_BYTES = 2 };

uint32_t farm_get32(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

void farm_put32(uint8_t *bytes, uint32_t number)
{
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(number >> (8 * i));
}

/* The clock turns over after 2^32 of its steps. A torn frame that waits for a whole turn, to a
 * tenth of a second, would go on: its checksum then drops it. */
void farm_wire_now(struct farm_wire *wire, uint32_t clock)
{
    if (clock - wire->last > FARM_CLOCK_HZ / 1000 * FARM_GAP_MS)
        wire->have = 0;
    wire->last = clock;
}

static bool whole(struct farm_wire *wire, struct farm_frame *frame)
{
    const uint8_t *head = wire->room + 1 + SYNC_BYTES;
    uint32_t length = wire->want - SYNC_BYTES - FARM_HEAD_BYTES - FARM_CRC_BYTES;
    uint32_t crc = farm_crc32(0, head, FARM_HEAD_BYTES + length);
    wire->have = 0;
    *frame = (struct farm_frame) {
        .kind = head[0],
        .sequence = (uint16_t)(head[1] | head[2] << 8),
        .boot = (uint16_t)(head[3] | head[4] << 8),
        .length = length,
        .crc = crc,
        .payload = head + FARM_HEAD_BYTES,
    };
    return crc == farm_get32(head + FARM_HEAD_BYTES + length);
}

bool farm_wire_take(struct farm_wire *wire, uint8_t byte, struct farm_frame *frame)
{
    uint8_t *room = wire->room + 1;
    if (wire->have < SYNC_BYTES) {
        if (byte == (wire->have ? SYNC_2 : SYNC_1))
            wire->have++;
        else
            wire->have = byte == SYNC_1;
        return false;
    }
    room[wire->have++] = byte;
    if (wire->have < SYNC_BYTES + FARM_HEAD_BYTES)
        return false;
    if (wire->have == SYNC_BYTES + FARM_HEAD_BYTES) {
        uint32_t length = farm_get32(room + SYNC_BYTES + 5);
        if (length > FARM_FRAME_PAYLOAD)
            wire->have = 0; /* a damaged length, or nothing that fits: look for the next frame */
        wire->want = SYNC_BYTES + FARM_HEAD_BYTES + length + FARM_CRC_BYTES;
        return false;
    }
    return wire->have == wire->want && whole(wire, frame);
}

void farm_wire_send(const struct farm_frame *frame)
{
    uint8_t head[SYNC_BYTES + FARM_HEAD_BYTES] = {
        SYNC_1, SYNC_2, frame->kind,
        (uint8_t)frame->sequence, (uint8_t)(frame->sequence >> 8),
        (uint8_t)frame->boot, (uint8_t)(frame->boot >> 8),
    };
    uint8_t tail[FARM_CRC_BYTES];
    farm_put32(head + SYNC_BYTES + 5, frame->length);
    uint32_t crc = farm_crc32(0, head + SYNC_BYTES, FARM_HEAD_BYTES);
    farm_put32(tail, farm_crc32(crc, frame->payload, frame->length));
    farm_port_put(head, sizeof head);
    farm_port_put(frame->payload, frame->length);
    farm_port_put(tail, sizeof tail);
}
