/* The least that a firmware needs to be a device of the farm: its model, a byte in, a byte out, a
 * clock and a restart. Everything else has a default; the pin for a power meter is here too. */
#include "farm_core.h"

/* What the chip's library has under whatever name. */
void vendor_uart_write(uint8_t byte); /* waits for room */
uint8_t vendor_uart_read(void);       /* waits for a byte; sleeps meanwhile, if it can */
uint32_t vendor_timer_us(void);       /* counts microseconds through all 32 bits */
_Noreturn void vendor_restart(void);
void vendor_pin_write(bool high); /* an output, low from the start on */

/* ---- The model ---- */

void my_model(const void *input, void *output); /* generated code, or a call of an interpreter */

const struct farm_model farm_builtin_model = {
    .name = "my model",
    .in_bytes = 16,
    .out_bytes = 4,
    .infer = my_model,
};

/* ---- The board ---- */

void farm_port_put(const uint8_t *bytes, size_t count)
{
    while (count--)
        vendor_uart_write(*bytes++);
}

uint32_t farm_port_clock(void) { return vendor_timer_us(); }

void farm_port_restart(void) { vendor_restart(); }

void farm_port_sync(bool high) { vendor_pin_write(high); }

int main(void)
{
    /* Starts must differ from one another: better than this is a counter in memory that a restart
     * leaves alone, as in cortex_m.c. */
    struct farm_start start = { .cause = FARM_POWER, .boots = vendor_timer_us() | 1 };
    farm_start(&start);
    for (;;) {
        uint8_t byte = vendor_uart_read();
        farm_take(&byte, 1);
    }
}
