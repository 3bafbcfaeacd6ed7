/* The library of a chip that is a process: its line is standard input and output. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void vendor_uart_write(uint8_t byte)
{
    if (write(1, &byte, 1) != 1)
        exit(1);
}

uint8_t vendor_uart_read(void)
{
    uint8_t byte;
    if (read(0, &byte, 1) != 1)
        exit(0);
    return byte;
}

uint32_t vendor_timer_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

_Noreturn void vendor_restart(void) { exit(3); }

static bool pin;

void vendor_pin_write(bool high) { pin = high; }

/* Its last output tells where the pin stands. */
void my_model(const void *input, void *output)
{
    const uint8_t *in = input;
    uint8_t *out = output;
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(in[i] * 2);
    out[3] = pin;
}
