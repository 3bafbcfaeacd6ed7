/* What the firmware needs of its board: Arm's MPS2 with the AN386 image, as QEMU plays it. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Start the serial port and the counter. */
void board_start(void);

/* Wait for a character. The processor sleeps meanwhile: under -icount virtual time then follows the
 * real one, where a loop that polls would burn minutes of it. */
char board_read(void);

/* Send text and wait until it is gone. */
void board_write(const char *text);

/* Microseconds since the start, modulo 2^32. */
uint32_t board_microseconds(void);

#endif
