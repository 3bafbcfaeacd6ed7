/* STM32F405: USART1 on PA9 (out) and PA10 (in), PA8 for a meter, TIM2 as clock. */
#include "clocks.h"
#include "cortex_m.h"
#include "farm_core.h"
#include "farm_image.h"
#include "freestanding.h"
#include "registers.h"
#include "watch.h"

enum {
    BAUD = 115200,
    RING_BYTES = 1024,       /* a power of two */
    HANDLER_TURNS = 1000000, /* a handler waits that often for room to send one byte */
    OVERRUN = 1 << 3,
    RX_READY = 1 << 5,
    ALL_SENT = 1 << 6,
    TX_READY = 1 << 7,
    USART_ON = 1 << 13 | 1 << 3 | 1 << 2 | RX_READY, /* both ways, interrupt when a byte came */
    RESET_BY_WATCHDOG = 1 << 29,
    RESET_BY_POWER = 1 << 27,
    FORGET_RESETS = 1 << 24,
};

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head, ring_tail;
static bool cycles;

/* ---- Line ---- */

/* The interrupts for sending have the numbers of their bits in the status; each wakes once. An
 * overrun interrupts as well, and goes away by reading both registers. */
static void usart_handler(void)
{
    uint32_t status = USART1_SR;
    if (status & (RX_READY | OVERRUN)) {
        uint8_t byte = (uint8_t)USART1_DR;
        if ((status & RX_READY) && ring_head - ring_tail < RING_BYTES)
            ring[ring_head++ % RING_BYTES] = byte;
    }
    USART1_CR1 = USART_ON;
}

static void start_usart(void)
{
    GPIOA_PUPDR |= 1 << 20; /* a line that nobody drives is silent */
    GPIOA_AFRH |= 7 << 4 | 7 << 8;
    GPIOA_MODER |= 2 << 18 | 2 << 20;
    USART1_BRR = (clocks_usart_hz + BAUD / 2) / BAUD;
    USART1_CR1 = USART_ON;
    farm_cortex_enable_irq(37);
}

/* Sleep until the status has that bit. A handler cannot be woken: it looks a number of times, and
 * goes on then; it is about to restart the board. */
static void wait_for(uint32_t bit)
{
    for (uint32_t turn = 0; !(USART1_SR & bit); turn++) {
        if (farm_cortex_in_handler()) {
            if (turn == HANDLER_TURNS)
                return;
            continue;
        }
        farm_cortex_irqs_off();
        USART1_CR1 = USART_ON | bit;
        if (!(USART1_SR & bit))
            farm_cortex_sleep();
        farm_cortex_irqs_on();
    }
}

void farm_port_put(const uint8_t *bytes, size_t count)
{
    while (count--) {
        wait_for(TX_READY);
        USART1_DR = *bytes++;
    }
}

/* Bytes that came; none if something else woke the processor. */
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

void farm_port_restart(void)
{
    wait_for(ALL_SENT);
    farm_cortex_restart(farm_cortex_in_handler() ? FARM_FAULT : FARM_RESET);
}

/* ---- Pin ---- */

enum { PA8 = 1 << 8, PA8_LOW = 1 << 24 };

/* Between a reset and this the pin floats. */
static void start_pin(void)
{
    GPIOA_BSRR = PA8_LOW;
    GPIOA_MODER |= 1 << 16; /* out */
}

void farm_port_sync(bool high) { GPIOA_BSRR = high ? PA8 : PA8_LOW; }

/* ---- Time ---- */

static void start_clock(void)
{
    TIM_ARR(TIM2) = 0xFFFFFFFF;
    TIM_EGR(TIM2) = 1;
    TIM_CR1(TIM2) = 1;
}

/* The processor's cycles are not a clock: they stand still while it sleeps. */
uint32_t farm_port_clock(void) { return TIM_CNT(TIM2); }
uint32_t farm_port_ticks(void) { return cycles ? farm_cortex_cycles() : farm_port_clock(); }
uint32_t farm_port_tick_hz(void) { return cycles ? clocks_core_hz : farm_board_timer_hz; }
bool farm_port_ticks_are_cycles(void) { return cycles; }

/* ---- Start ---- */

size_t farm_port_unit(uint8_t unit[FARM_UNIT_BYTES])
{
#ifdef EMULATED
    (void)unit; /* nothing lies there, and looking is a fault */
    return 0;
#else
    memcpy(unit, (const void *)(uintptr_t)UNIT_ID, UNIT_ID_BYTES);
    return UNIT_ID_BYTES;
#endif
}

/* What the reset logic knows better than the memory that a restart leaves alone. */
static void ask_reset_logic(struct farm_start *start)
{
    uint32_t flags = RCC_CSR;
    RCC_CSR |= FORGET_RESETS;
    if (flags & RESET_BY_POWER)
        start->cause = FARM_POWER;
    else if (flags & RESET_BY_WATCHDOG)
        start->cause = FARM_WATCHDOG;
}

int main(void)
{
    uint8_t bytes[64];
    clocks_start();
#ifdef EMULATED
    farm_board_timer_hz = 1000000000; /* whatever is written to the clocks */
#endif
    RCC_AHB1ENR |= 1 << 0;
    RCC_APB1ENR |= 1 << 0 | 1 << 3;
    RCC_APB2ENR |= 1 << 4;
    start_pin();
    struct farm_start start = farm_cortex_start();
    ask_reset_logic(&start);
    start_clock();
    cycles = farm_cortex_start_cycles();
    start_usart();
    watch_start();
    farm_start(&start);
    for (;;)
        farm_take(bytes, get(bytes, sizeof bytes));
}

__attribute__((section(".vectors"), used)) const farm_handler farm_vectors[16 + 82] = {
    FARM_CORE_VECTORS(farm_nothing_handler),
    [16 + 37] = usart_handler,
    [16 + 50] = watch_handler,
};
