/* MPS2 and MPS3: CMSDK UART, timer and watchdog. */
#include "cortex_m.h"
#include "farm_core.h"
#include "farm_image.h"
#include "freestanding.h"

enum {
    UART_DATA = 0x0,
    UART_STATE = 0x4, /* 1: no room to send, 2: a byte was received */
    UART_CTRL = 0x8,
    UART_CLEAR = 0xC,
    UART_BAUDDIV = 0x10,
    TX_FULL = 1,
    RX_FULL = 2,
    TX_ON = 1,
    RX_ON = 2,
    TX_IRQ_ON = 4,
    RX_IRQ_ON = 8,
    CLEAR_TX = 1,
    CLEAR_RX = 2,
    BAUD = 115200,
    RING_BYTES = 1024,     /* a power of two */
    HANDLER_TURNS = 20000, /* a handler waits that often for room to send one byte */
};

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head, ring_tail;
static bool cycles;

/* ---- Line ---- */

static void receive_handler(void)
{
    FARM_REGISTER(UART + UART_CLEAR) = CLEAR_RX;
    uint8_t byte = (uint8_t)FARM_REGISTER(UART + UART_DATA);
    if (ring_head - ring_tail < RING_BYTES)
        ring[ring_head++ % RING_BYTES] = byte;
}

static void send_handler(void) { FARM_REGISTER(UART + UART_CLEAR) = CLEAR_TX; }

static void start_uart(void)
{
    FARM_REGISTER(UART + UART_BAUDDIV) = UART_HZ / BAUD;
    FARM_REGISTER(UART + UART_CTRL) = TX_ON | RX_ON | TX_IRQ_ON | RX_IRQ_ON;
    farm_cortex_enable_irq(UART_RX_IRQ);
    farm_cortex_enable_irq(UART_TX_IRQ);
}

/* Sleep until there is room. A handler cannot be woken: it looks a number of times, and gives the
 * byte up then; it is about to restart the board. */
static void wait_for_room(void)
{
    for (uint32_t turn = 0; FARM_REGISTER(UART + UART_STATE) & TX_FULL; turn++) {
        if (farm_cortex_in_handler()) {
            if (turn == HANDLER_TURNS)
                return;
            continue;
        }
        farm_cortex_irqs_off();
        if (FARM_REGISTER(UART + UART_STATE) & TX_FULL)
            farm_cortex_sleep();
        farm_cortex_irqs_on();
    }
}

void farm_port_put(const uint8_t *bytes, size_t count)
{
    while (count--) {
        wait_for_room();
        FARM_REGISTER(UART + UART_DATA) = *bytes++;
    }
}

/* Bytes that came, at least one: sleeps until then. A busy wait would cost the emulator several
 * times the speed, and under -icount make the clock run away. */
static size_t get(uint8_t *bytes, size_t room)
{
    size_t count = 0;
    farm_cortex_irqs_off();
    if (ring_head == ring_tail)
        farm_cortex_sleep();
    farm_cortex_irqs_on();
    while (count < room && ring_head != ring_tail)
        bytes[count++] = ring[ring_tail++ % RING_BYTES];
    return count;
}

/* ---- Pin ---- */

/* User LED 0; a reset of the board lets it go out. */
void farm_port_sync(bool high) { FARM_REGISTER(FPGAIO) = high; }

/* ---- Time ---- */

#ifdef TIMER
static void start_clock(void)
{
    FARM_REGISTER(TIMER + 0x8) = 0xFFFFFFFF; /* reload */
    FARM_REGISTER(TIMER + 0x0) = 1;          /* on, without its interrupt */
}

/* It counts down. */
uint32_t farm_port_clock(void) { return ~FARM_REGISTER(TIMER + 0x4); }
#else
static void start_clock(void) { FARM_REGISTER(COUNTER_CONTROL) = 1; }
uint32_t farm_port_clock(void) { return FARM_REGISTER(COUNTER); }
#endif

uint32_t farm_port_ticks(void) { return cycles ? farm_cortex_cycles() : farm_port_clock(); }
bool farm_port_ticks_are_cycles(void) { return cycles; }

/* Its first end is an NMI, which knows what to do; if not even that runs, the second end of the
 * same time restarts the board. */
void farm_port_watchdog(uint32_t ms)
{
    uint64_t ticks = (uint64_t)ms * WATCHDOG_HZ / 1000;
    FARM_REGISTER(WATCHDOG + 0xC00) = 0x1ACCE551; /* unlock */
    FARM_REGISTER(WATCHDOG + 0x8) = 0;
    if (ms) {
        FARM_REGISTER(WATCHDOG + 0x0) = ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks + 1;
        FARM_REGISTER(WATCHDOG + 0x8) = 3;
    }
}

static void watchdog_handler(void) { farm_cortex_restart(FARM_WATCHDOG); }

/* The UART has no end of its own: a byte that it took is on its way. */
void farm_port_restart(void)
{
    wait_for_room();
    farm_cortex_restart(farm_cortex_in_handler() ? FARM_FAULT : FARM_RESET);
}

/* ---- Slots: RAM that is treated as flash memory ---- */

bool farm_port_erase(uint32_t address, uint32_t count)
{
    memset(farm_port_memory(address), 0xFF, count);
    return true;
}

bool farm_port_write(uint32_t address, const uint8_t *bytes, uint32_t count)
{
    memcpy(farm_port_memory(address), bytes, count);
    return true;
}

int main(void)
{
    uint8_t bytes[64];
    struct farm_start start = farm_cortex_start();
    start_clock();
    cycles = farm_cortex_start_cycles();
    start_uart();
    farm_start(&start);
    for (;;)
        farm_take(bytes, get(bytes, sizeof bytes));
}

__attribute__((section(".vectors"), used)) const farm_handler farm_vectors[16 + 64] = {
    FARM_CORE_VECTORS(watchdog_handler),
    [16 + UART_RX_IRQ] = receive_handler,
    [16 + UART_TX_IRQ] = send_handler,
};
