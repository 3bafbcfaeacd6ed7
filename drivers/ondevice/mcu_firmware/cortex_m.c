#include "cortex_m.h"

#include "farm_core.h"
#include "freestanding.h"

enum {
    CPACR = 0xE000ED88,
    CPUID = 0xE000ED00,
    VTOR = 0xE000ED08,
    AIRCR = 0xE000ED0C,
    CFSR = 0xE000ED28,
    MPU_TYPE = 0xE000ED90,
    MPU_CTRL = 0xE000ED94,
    MPU_RNR = 0xE000ED98,
    MPU_RBAR = 0xE000ED9C,
    MPU_RASR = 0xE000EDA0,
    DEMCR = 0xE000EDFC,
    DWT_CTRL = 0xE0001000,
    DWT_CYCCNT = 0xE0001004,
    NVIC_ISER = 0xE000E100,
};

extern uint32_t farm_guard_low[], farm_stack_low[];
extern uint32_t farm_data_low[], farm_data_high[], farm_data_source[];
extern uint32_t farm_bss_low[], farm_bss_high[];
extern const farm_handler farm_vectors[];
int main(void);

/* ---- Start ---- */

void farm_nothing_handler(void) { }

/* A stack that grows beyond its end faults. Nothing else is protected from a model. */
static void guard_stack(void)
{
#if __ARM_ARCH >= 8
    __asm volatile("msr msplim, %0" ::"r"(farm_stack_low));
#else
    if (FARM_REGISTER(MPU_TYPE) == 0)
        return; /* some chips have none */
    FARM_REGISTER(MPU_RNR) = 0;
    FARM_REGISTER(MPU_RBAR) = (uint32_t)(uintptr_t)farm_guard_low;
    FARM_REGISTER(MPU_RASR) = 1u << 28 | 9 << 1 | 1; /* no access, 1 KiB, on */
    FARM_REGISTER(MPU_CTRL) = 5;                     /* on, and all else as without it */
#endif
    farm_cortex_barrier();
}

void farm_reset_handler(void)
{
    FARM_REGISTER(CPACR) |= 0xFu << 20; /* the floating-point unit, nothing where there is none */
    FARM_REGISTER(VTOR) = (uint32_t)(uintptr_t)farm_vectors;
    guard_stack();
    memcpy(farm_data_low, farm_data_source, (uintptr_t)farm_data_high - (uintptr_t)farm_data_low);
    memset(farm_bss_low, 0, (uintptr_t)farm_bss_high - (uintptr_t)farm_bss_low);
    main();
    farm_cortex_restart(FARM_RESET);
}

/* ---- What a start leaves to the next one ---- */

/* In memory that nobody clears. After power-on it holds anything, so the magic word tells. */
static __attribute__((section(".noinit"))) struct {
    uint32_t magic;
    struct farm_start next;
} left;

enum { LEFT_MAGIC = 0x4C454654 };

struct farm_start farm_cortex_start(void)
{
    if (left.magic != LEFT_MAGIC || left.next.cause > FARM_FAULT) {
        memset(&left, 0, sizeof left);
        left.next.cause = FARM_POWER;
    }
    struct farm_start start = left.next;
    start.boots++;
    left.magic = LEFT_MAGIC;
    /* A restart that nobody announces came through the reset pin or a probe. */
    left.next = (struct farm_start) { .cause = FARM_RESET, .boots = start.boots };
    return start;
}

void farm_cortex_restart(enum farm_cause cause)
{
    left.next.cause = cause;
    farm_cortex_barrier();
    FARM_REGISTER(AIRCR) = 0x05FA0004;
    farm_cortex_barrier();
    for (;;)
        ;
}

/* ---- Faults ---- */

static enum farm_fault_cause fault_cause(uint32_t cfsr)
{
    if (cfsr & 0x000000FF)
        return FARM_MEMORY;
    if (cfsr & 0x0000FF00)
        return FARM_BUS;
    return cfsr ? FARM_USAGE : FARM_HARD;
}

/* `frame` is where the processor put its registers; after an overflow of the stack it points
 * outside of it, and nothing is known but the reason. */
__attribute__((used)) _Noreturn static void fault(const uint32_t *frame)
{
    bool known = frame >= farm_stack_low && frame + 8 <= farm_stack_top;
    uint32_t cfsr = FARM_REGISTER(CFSR);
    left.next.fault = (struct farm_fault) {
        .pc = known ? frame[6] : 0,
        .lr = known ? frame[5] : 0,
        .cfsr = cfsr,
        .cause = fault_cause(cfsr),
    };
    left.next.cause = FARM_FAULT;
    farm_tell_fault(&left.next.fault);
    farm_port_restart();
}

/* The handler needs a stack, which may be what is broken: it takes it from the top again. */
__attribute__((naked)) void farm_fault_handler(void)
{
    __asm volatile("tst lr, #4\n"
                   "ite eq\n"
                   "mrseq r0, msp\n"
                   "mrsne r0, psp\n"
                   "movw r1, #:lower16:farm_stack_top\n"
                   "movt r1, #:upper16:farm_stack_top\n"
                   "mov sp, r1\n"
                   "b %c0\n" ::"i"(fault));
}

bool farm_cortex_in_handler(void)
{
    uint32_t number;
    __asm volatile("mrs %0, ipsr" : "=r"(number));
    return number != 0;
}

void farm_cortex_enable_irq(uint32_t number)
{
    FARM_REGISTER(NVIC_ISER + 4 * (number / 32)) = 1u << (number % 32);
}

/* ---- Identity, cycles and stack ---- */

uint32_t farm_port_cpuid(void) { return FARM_REGISTER(CPUID); }

bool farm_cortex_start_cycles(void)
{
    FARM_REGISTER(DEMCR) |= 1u << 24;
    FARM_REGISTER(DWT_CTRL) |= 1;
    uint32_t before = farm_cortex_cycles();
    for (volatile int i = 0; i < 16; i++)
        ;
    return farm_cortex_cycles() != before;
}

uint32_t farm_cortex_cycles(void) { return FARM_REGISTER(DWT_CYCCNT); }

enum { PAINT = 0x5AC3A53C, OWN_BYTES = 64 };
static uint32_t *painted_to;

uint32_t farm_port_stack_bytes(void)
{
    return (uint32_t)((uintptr_t)farm_stack_top - (uintptr_t)farm_stack_low);
}

/* Up to shortly below where the stack is now; that is where the model's part begins. */
void farm_port_stack_paint(void)
{
    uint32_t here;
    __asm volatile("mov %0, sp" : "=r"(here));
    painted_to = (uint32_t *)(uintptr_t)(here - OWN_BYTES);
    for (uint32_t *word = farm_stack_low; word < painted_to; word++)
        *word = PAINT;
}

uint32_t farm_port_stack_peak(void)
{
    const uint32_t *word = farm_stack_low;
    while (word < painted_to && *word == PAINT)
        word++;
    return (uint32_t)((uintptr_t)painted_to - (uintptr_t)word);
}

#if FARM_SLOTS > 0
uint8_t *farm_port_memory(uint32_t address) { return (uint8_t *)(uintptr_t)address; }

farm_infer farm_port_function(uint32_t address)
{
    farm_cortex_barrier(); /* code was written there as data */
    return (farm_infer)(uintptr_t)address;
}
#endif
