/* STM32F405 and F407: slots in flash memory, the whole SRAM for the model, the firmware in CCM. */
#ifndef FARM_BOARD_H
#define FARM_BOARD_H

#include <stdint.h>

/* How fast the timers count: known at run time, as the PLL may not start. */
extern uint32_t farm_board_timer_hz;

#define FARM_BOARD "stm32f405"
#define FARM_CPU FARM_CORTEX_M4F
#define FARM_CLOCK_HZ farm_board_timer_hz
#define FARM_MAX_PAYLOAD (4096 + 8)
#define FARM_MAX_INPUT (27 << 10) /* an image of 96 x 96 with three colours */
#define FARM_MAX_OUTPUT (4 << 10)
#define FARM_RAM_ADDRESS 0x20000000u
#define FARM_RAM_BYTES 0x00020000u

/* Flash sectors: 0 and 1 the firmware, 2 and 3 (16 KiB each) the state, 5 to 7 and 8 to 10 (128
 * KiB each) the slots; 4 and 11 are free. */
#define FARM_SLOTS 2
#define FARM_SLOT_BYTES 0x00060000u
#define FARM_SLOT_ADDRESS(slot) (0x08020000u + (slot) * FARM_SLOT_BYTES)
#define FARM_STATE_ADDRESS 0x08008000u
#define FARM_STATE_BANK_BYTES 0x4000u

#endif
