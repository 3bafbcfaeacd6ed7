/* The independent watchdog can never be stopped and may bite after 22 s already (its oscillator
 * runs at 17 to 47 kHz). So TIM5 feeds it while nothing runs, and nothing may run for longer. */
#include "watch.h"

#include "registers.h"

enum {
    TIM5_HZ = 100000,
    FEED_MS = 5000,
    MAX_RUN_MS = 20000,
    PATIENCE = 100000,
    ON = 1 << 0,
    ONLY_ENDS = 1 << 2, /* beginning anew is no reason for an interrupt */
    ENDED = 1 << 0,
};

static volatile bool running;

static void arm(uint32_t ms, bool run)
{
    TIM_CR1(TIM5) = ONLY_ENDS;
    TIM_SR(TIM5) = 0;
    running = run;
    TIM_ARR(TIM5) = ms * (TIM5_HZ / 1000);
    TIM_EGR(TIM5) = 1; /* begin anew, with this prescaler */
    TIM_CR1(TIM5) = ONLY_ENDS | ON;
}

void watch_feed(void) { IWDG_KR = 0xAAAA; }

void watch_start(void)
{
    TIM_PSC(TIM5) = farm_board_timer_hz / TIM5_HZ - 1;
    TIM_DIER(TIM5) = 1;
    farm_cortex_enable_irq(50);
    arm(FEED_MS, false);
    IWDG_KR = 0xCCCC;
    IWDG_KR = 0x5555;
    IWDG_PR = 6;      /* by 256 */
    IWDG_RLR = 0xFFF; /* 33 s at 32 kHz */
    for (uint32_t look = 0; IWDG_SR && look < PATIENCE; look++)
        ;
    watch_feed();
}

void watch_handler(void)
{
    if (!(TIM_SR(TIM5) & ENDED))
        return; /* of a time that was called off meanwhile */
    TIM_SR(TIM5) = 0;
    if (running)
        farm_cortex_restart(FARM_WATCHDOG);
    watch_feed();
}

void farm_port_watchdog(uint32_t ms)
{
    watch_feed();
    if (ms)
        arm(ms < MAX_RUN_MS ? ms : MAX_RUN_MS, true);
    else
        arm(FEED_MS, false);
}
