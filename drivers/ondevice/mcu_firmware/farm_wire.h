/* Frames on the line, as docs/mcu-protocol.md defines them. */
#ifndef FARM_WIRE_H
#define FARM_WIRE_H

#include "farm_port.h"

enum farm_kind {
    FARM_HELLO = 0x01,
    FARM_ECHO = 0x02,
    FARM_BEGIN = 0x03,
    FARM_DATA = 0x04,
    FARM_COMMIT = 0x05,
    FARM_DO_RESET = 0x06,
    FARM_CONFIRM = 0x07,
    FARM_INPUT = 0x08,
    FARM_INFER = 0x09,
    FARM_OUTPUT = 0x0A,
    FARM_ITEM = 0x0B,
    FARM_ANSWER = 0x80, /* an answer has this and the kind of its request */
    FARM_BOOT = 0xB0,
    FARM_FAULTED = 0xEE,
    FARM_ERROR = 0xFF,
};

enum {
    FARM_HEAD_BYTES = 9, /* kind, sequence, boot, length */
    FARM_CRC_BYTES = 4,
    FARM_FRAME_PAYLOAD = FARM_MAX_PAYLOAD + 16, /* DATA has 8 bytes before its bytes */
    FARM_GAP_MS = 100,
};

struct farm_frame {
    uint8_t kind;
    uint16_t sequence;
    uint16_t boot;
    uint32_t length;
    uint32_t crc;
    const uint8_t *payload; /* aligned to 4 bytes; holds until the next byte is taken */
};

/* Finds frames in the bytes of a line. All zero is a good beginning. */
struct farm_wire {
    uint32_t have; /* bytes of the sync word and the frame so far */
    uint32_t want; /* of the whole frame, known with its head */
    uint32_t last; /* clock at the last byte */
    /* One unused byte, then sync word and frame: so the payload is aligned. */
    _Alignas(4) uint8_t room[1 + 2 + FARM_HEAD_BYTES + FARM_FRAME_PAYLOAD + FARM_CRC_BYTES];
};

/* Say when the bytes that follow arrived: a frame that waited too long for them is given up. */
void farm_wire_now(struct farm_wire *wire, uint32_t clock);

/* Take one byte; true if it completes a good frame. */
bool farm_wire_take(struct farm_wire *wire, uint8_t byte, struct farm_frame *frame);

/* Send a frame. */
void farm_wire_send(const struct farm_frame *frame);

/* Numbers as they lie in payloads. */
uint32_t farm_get32(const uint8_t *bytes);
void farm_put32(uint8_t *bytes, uint32_t number);

#endif
