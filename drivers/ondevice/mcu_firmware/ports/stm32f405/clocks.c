/* Clocks: 168 MHz from the PLL; the timers at 84 MHz, USART1 at 84 MHz. */
#include "clocks.h"

#include "registers.h"

/* The crystal's frequency, 4 to 26 MHz in whole megahertz. 0: the internal oscillator, which every
 * board has and which is right to 1 % at room temperature. */
#ifndef HSE_HZ
#define HSE_HZ 0
#endif

enum {
    HSI_HZ = 16000000,
    FULL_HZ = 168000000,
    PATIENCE = 100000, /* looks at a bit; at 16 MHz more than 20 ms, and a crystal needs 2 ms */
    HSE_ON = 1 << 16,
    HSE_READY = 1 << 17,
    PLL_ON = 1 << 24,
    PLL_READY = 1 << 25,
    PLL_FROM_HSE = 1 << 22,
    SWITCHED_TO_PLL = 2 << 2,
};

uint32_t farm_board_timer_hz = HSI_HZ;
uint32_t clocks_core_hz = HSI_HZ;
uint32_t clocks_usart_hz = HSI_HZ;

static const uint32_t RESERVED = 0xF0BC8000; /* bits of RCC_PLLCFGR */

static bool comes(volatile uint32_t *word, uint32_t mask, uint32_t value)
{
    for (uint32_t look = 0; look < PATIENCE; look++)
        if ((*word & mask) == value)
            return true;
    return false;
}

/* The input of the PLL is divided to 1 MHz, and multiplied by 336 / 2. */
static uint32_t pll_source(void)
{
    if (HSE_HZ) {
        RCC_CR |= HSE_ON;
        if (comes(&RCC_CR, HSE_READY, HSE_READY))
            return PLL_FROM_HSE | HSE_HZ / 1000000;
    }
    return HSI_HZ / 1000000;
}

void clocks_start(void)
{
    RCC_PLLCFGR = (RCC_PLLCFGR & RESERVED) | pll_source() | 336 << 6 | 7 << 24;
    RCC_CR |= PLL_ON;
    if (!comes(&RCC_CR, PLL_READY, PLL_READY))
        return; /* slow, but alive */
    FLASH_ACR = 5 | 1 << 8 | 1 << 9 | 1 << 10; /* 5 wait states, prefetch, both caches */
    RCC_CFGR = 5 << 10 | 4 << 13 | 2;          /* APB1 by 4, APB2 by 2, the PLL */
    if (!comes(&RCC_CFGR, 3 << 2, SWITCHED_TO_PLL)) {
        RCC_CFGR = 0;
        return;
    }
    clocks_core_hz = FULL_HZ;
    farm_board_timer_hz = clocks_usart_hz = FULL_HZ / 2;
}
