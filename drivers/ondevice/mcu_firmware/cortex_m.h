/* What all Cortex-M boards share: start, faults, restarts, stack and the cycle counter.
 *
 * cortex_m.ld has the symbols that it needs. The stack lies at the low end of the memory, behind a
 * guard: one that overflows faults, and runs into nobody's data. */
#ifndef FARM_CORTEX_M_H
#define FARM_CORTEX_M_H

#include "farm_port.h"

#define FARM_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

typedef void (*farm_handler)(void);

extern uint32_t farm_stack_top[];

void farm_reset_handler(void);
void farm_fault_handler(void);
void farm_nothing_handler(void);

/* The first 16 vectors. The NMI is the watchdog's where a board has wired it so. */
#define FARM_CORE_VECTORS(nmi) \
    (farm_handler)farm_stack_top, farm_reset_handler, nmi, farm_fault_handler, farm_fault_handler, \
        farm_fault_handler, farm_fault_handler, farm_fault_handler, 0, 0, 0, farm_nothing_handler, \
        farm_nothing_handler, 0, farm_nothing_handler, farm_nothing_handler

/* What the last start left in memory; counts this one. Call it once. */
struct farm_start farm_cortex_start(void);

/* Restart at once; the next start tells this cause. */
_Noreturn void farm_cortex_restart(enum farm_cause cause);

/* In a handler nothing wakes the processor: what waits there must count its turns. */
bool farm_cortex_in_handler(void);

/* Whether the cycle counter is there and counts; it does not under emulation. */
bool farm_cortex_start_cycles(void);
uint32_t farm_cortex_cycles(void);

void farm_cortex_enable_irq(uint32_t number);

static inline void farm_cortex_irqs_off(void) { __asm volatile("cpsid i" ::: "memory"); }
static inline void farm_cortex_irqs_on(void) { __asm volatile("cpsie i\n isb" ::: "memory"); }
/* An interrupt ends this also while interrupts are off; its handler runs when they are on again. */
static inline void farm_cortex_sleep(void) { __asm volatile("dsb\n wfi" ::: "memory"); }
static inline void farm_cortex_barrier(void) { __asm volatile("dsb\n isb" ::: "memory"); }

#endif
