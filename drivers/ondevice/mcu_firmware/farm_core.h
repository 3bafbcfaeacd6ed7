/* The firmware's core: answers requests. For a firmware of one's own this is all there is to call:
 * `farm_start` once, then `farm_take` with every byte that comes from the line. */
#ifndef FARM_CORE_H
#define FARM_CORE_H

#include "farm_port.h"

#define FARM_FIRMWARE "verdict-farm 1"

/* A model, wherever it comes from. */
struct farm_model {
    const char *name;
    const uint8_t *sha256; /* of the ONNX file, 32 bytes; NULL if nobody knows */
    uint32_t in_bytes;
    uint32_t out_bytes;
    farm_infer infer;
};

#if FARM_SLOTS == 0
/* The one built-in model, defined by the firmware that has it. */
extern const struct farm_model farm_builtin_model;
#endif

/* Begin, and tell the line so. */
void farm_start(const struct farm_start *start);

/* Take bytes from the line; answers what they complete. */
void farm_take(const uint8_t *bytes, size_t count);

/* Tell the line of a fault; for a handler that restarts the board then. */
void farm_tell_fault(const struct farm_fault *fault);

#endif
