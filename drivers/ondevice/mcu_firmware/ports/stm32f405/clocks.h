#ifndef CLOCKS_H
#define CLOCKS_H

#include <stdint.h>

extern uint32_t clocks_core_hz, clocks_usart_hz;

/* Run as fast as the chip can; if something does not start, as after reset. */
void clocks_start(void);

#endif
