/* Arm's MPS2 and MPS3 boards with the images AN385 (M3), AN386 (M4), AN500 (M7), AN547 (M55), as
 * QEMU emulates them. Slots and state lie in RAM that a power cycle keeps there, if QEMU is told
 * to keep it in a file. */
#ifndef FARM_BOARD_H
#define FARM_BOARD_H

#if defined(BOARD_AN385) || defined(BOARD_AN386) || defined(BOARD_AN500)
#define FARM_CLOCK_HZ 25000000u
#define UART_HZ 25000000u
#define UART 0x40004000u
#define UART_RX_IRQ 0
#define UART_TX_IRQ 1
#define WATCHDOG 0x40008000u
#define WATCHDOG_HZ 25000000u
#define TIMER 0x40000000u
#define FPGAIO 0x40028000u
#define FARM_RAM_ADDRESS 0x20100000u
#elif defined(BOARD_AN547)
#define FARM_CLOCK_HZ 32000000u
#define UART_HZ 25000000u
#define UART 0x59303000u
#define UART_RX_IRQ 33
#define UART_TX_IRQ 34
#define WATCHDOG 0x5802E000u /* the one of the slow clock */
#define WATCHDOG_HZ 32768u
#define COUNTER_CONTROL 0x58100000u
#define COUNTER 0x58101000u
#define FPGAIO 0x59302000u
#define FARM_RAM_ADDRESS 0x70800000u
#else
#error "which board?"
#endif

#if defined(BOARD_AN385)
#define FARM_BOARD "mps2-an385"
#define FARM_CPU FARM_CORTEX_M3
#elif defined(BOARD_AN386)
#define FARM_BOARD "mps2-an386"
#define FARM_CPU FARM_CORTEX_M4F
#elif defined(BOARD_AN500)
#define FARM_BOARD "mps2-an500"
#define FARM_CPU FARM_CORTEX_M7
#else
#define FARM_BOARD "mps3-an547"
#define FARM_CPU FARM_CORTEX_M55
#endif

#if defined(BOARD_AN500)
#define MEMORY 0x60000000u
#elif defined(BOARD_AN547)
#define MEMORY 0x70000000u
#else
#define MEMORY 0x21000000u
#endif

#define FARM_MAX_PAYLOAD (16384 + 8)
#define FARM_MAX_INPUT (128 << 10)
#define FARM_MAX_OUTPUT (64 << 10)
#define FARM_SLOTS 2
#define FARM_SLOT_BYTES 0x00200000u
#define FARM_SLOT_ADDRESS(slot) (MEMORY + (slot) * FARM_SLOT_BYTES)
#define FARM_STATE_ADDRESS (MEMORY + FARM_SLOTS * FARM_SLOT_BYTES)
#define FARM_STATE_BANK_BYTES 4096u
#define FARM_RAM_BYTES 0x00300000u

#endif
