/* What a port need not write; each is replaced by a function of the same name. */
#include "farm_port.h"

#define WEAK __attribute__((weak))

WEAK uint32_t farm_port_ticks(void) { return farm_port_clock(); }
WEAK uint32_t farm_port_tick_hz(void) { return FARM_CLOCK_HZ; }
WEAK bool farm_port_ticks_are_cycles(void) { return false; }
WEAK void farm_port_watchdog(uint32_t ms) { (void)ms; }
WEAK void farm_port_sync(bool high) { (void)high; }
WEAK uint32_t farm_port_cpuid(void) { return 0; }
WEAK uint32_t farm_port_stack_bytes(void) { return 0; }
WEAK void farm_port_stack_paint(void) { }
WEAK uint32_t farm_port_stack_peak(void) { return 0; }

WEAK size_t farm_port_unit(uint8_t unit[FARM_UNIT_BYTES])
{
    (void)unit;
    return 0;
}
