/* What a board gives to the firmware.
 *
 * The board's folder has a `farm_board.h` with the constants below, and defines the functions.
 * Functions marked "optional" have a default in farm_defaults.c that does without.
 *
 *   FARM_BOARD        name of the board, a string
 *   FARM_CPU          a number of farm_image.h
 *   FARM_CLOCK_HZ     speed of farm_port_clock, at least 1000
 *   FARM_MAX_PAYLOAD  longest payload of a frame, at least 1024, and 256 more for every slot;
 *                     there are two such buffers
 *   FARM_MAX_INPUT    largest input of a model in bytes ...
 *   FARM_MAX_OUTPUT   ... and largest output
 *   FARM_SLOTS        number of slots for models, 0 for a firmware with one built-in model
 * and with slots:
 *   FARM_SLOT_ADDRESS(slot), FARM_SLOT_BYTES           where images lie
 *   FARM_STATE_ADDRESS, FARM_STATE_BANK_BYTES          two banks, each erased for itself
 *   FARM_RAM_ADDRESS, FARM_RAM_BYTES                   for a model's .data and .bss
 */
#ifndef FARM_PORT_H
#define FARM_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farm_board.h"

typedef void (*farm_infer)(const void *input, void *output);

enum farm_fault_cause { FARM_NO_FAULT, FARM_BUS, FARM_MEMORY, FARM_USAGE, FARM_HARD };

/* Where a fault happened. */
struct farm_fault {
    uint32_t pc, lr, cfsr;
    uint32_t cause; /* of enum farm_fault_cause */
};

enum farm_cause { FARM_POWER, FARM_RESET, FARM_WATCHDOG, FARM_FAULT };

/* What a board knows of the start that it is in. */
struct farm_start {
    enum farm_cause cause;
    /* Another number than at the last start: a count in memory that a restart leaves alone. With
     * slots the state counts too, over power cycles, and the larger number holds. */
    uint32_t boots;
    struct farm_fault fault; /* of the start before, FARM_NO_FAULT for none */
};

/* Send bytes; returns when all are on their way, waits for room as long as it takes. */
void farm_port_put(const uint8_t *bytes, size_t count);

/* Any counter that goes up at FARM_CLOCK_HZ, also while the processor sleeps, through all 32 bits.
 * It tells gaps inside frames, so a millisecond is fine enough. */
uint32_t farm_port_clock(void);

/* Let everything leave the line, then restart. */
_Noreturn void farm_port_restart(void);

/* Optional: what inferences are timed with, through all 32 bits; the default is the clock. */
uint32_t farm_port_ticks(void);
uint32_t farm_port_tick_hz(void);
bool farm_port_ticks_are_cycles(void);

/* Optional: restart the board, with FARM_WATCHDOG as its cause, if this is not called again within
 * that time; 0 ends the watch. The default has no watchdog: a model that hangs needs a person. */
void farm_port_watchdog(uint32_t ms);

/* Optional: raise or lower the pin that tells a meter when inferences run. It is low after a start,
 * whatever that was caused by. The default has no pin. */
void farm_port_sync(bool high);

/* Optional: the number of the processor (CPUID), 0 by default. */
uint32_t farm_port_cpuid(void);

/* Optional: the chip's unique number; returns its length, 0 (the default) if it has none. */
enum { FARM_UNIT_BYTES = 16 };
size_t farm_port_unit(uint8_t unit[FARM_UNIT_BYTES]);

/* Optional: fill the free stack with a pattern, and tell how many bytes of it were used since. The
 * default tells 0. */
uint32_t farm_port_stack_bytes(void);
void farm_port_stack_paint(void);
uint32_t farm_port_stack_peak(void);

#if FARM_SLOTS > 0
/* Memory of slots, state and the model's RAM as the processor sees it. */
uint8_t *farm_port_memory(uint32_t address);

/* The function at an address in a slot. */
farm_infer farm_port_function(uint32_t address);

/* Make bytes 0xFF, from the start of a slot or a bank on, at least that many, none outside of that
 * slot or bank. False where that failed. */
bool farm_port_erase(uint32_t address, uint32_t count);

/* Write erased bytes, at any address and of any number. False where that failed; the caller reads
 * back what was written. */
bool farm_port_write(uint32_t address, const uint8_t *bytes, uint32_t count);
#endif

#endif
