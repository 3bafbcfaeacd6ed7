#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define UART_DATA REGISTER(0x40004000)
#define UART_STATE REGISTER(0x40004004)
#define UART_CONTROL REGISTER(0x40004008)
#define UART_INTERRUPT REGISTER(0x4000400C)
#define UART_DIVIDER REGISTER(0x40004010)
#define UART_TX_FULL 1u
#define UART_RX_FULL 2u

#define TIMER_CONTROL REGISTER(0x40000000)
#define TIMER_VALUE REGISTER(0x40000004)
#define TIMER_RELOAD REGISTER(0x40000008)
#define TICKS_PER_MICROSECOND 25u

/* A second timer, 256 times slower: it tells how often the first one, which is exact, went round. */
#define SLOW_LOAD REGISTER(0x40002000)
#define SLOW_VALUE REGISTER(0x40002004)
#define SLOW_CONTROL REGISTER(0x40002008)
#define SLOW_ENABLE 0x80u
#define SLOW_BY_256 0x08u
#define SLOW_32_BITS 0x02u

#define NVIC_ENABLE REGISTER(0xE000E100)
#define CPACR REGISTER(0xE000ED88)

#define RECEIVED_SIZE 256u /* a power of two */

extern uint32_t data_load, data_start, data_end, bss_start, bss_end, stack_top;
int main(void);
void reset(void); /* the linker script knows it */

static volatile uint8_t received[RECEIVED_SIZE];
static volatile uint32_t received_count;
static uint32_t read_count;

/* A fault or an interrupt that nobody wants: stay here, where the host runs into its deadline. */
static void stop(void) {
  for (;;) {
  }
}

static void receive(void) {
  UART_INTERRUPT = UART_RX_FULL;
  while (UART_STATE & UART_RX_FULL) {
    received[received_count % RECEIVED_SIZE] = (uint8_t)UART_DATA;
    received_count++;
  }
}

void reset(void) {
  CPACR |= 0xFu << 20; /* the floating-point unit, before any code may use it */
  __asm volatile("dsb\n isb");
  uint32_t *from = &data_load;
  for (uint32_t *to = &data_start; to < &data_end;) {
    *to++ = *from++;
  }
  for (uint32_t *to = &bss_start; to < &bss_end;) {
    *to++ = 0;
  }
  main();
  stop();
}

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) static const vector vectors[16 + 32] = {
    (vector)&stack_top,
    reset,
    [2 ... 15] = stop,
    [16] = receive,
    [17 ... 47] = stop,
};

void board_start(void) {
  TIMER_RELOAD = UINT32_MAX;
  TIMER_VALUE = UINT32_MAX;
  SLOW_LOAD = UINT32_MAX;
  TIMER_CONTROL = 1;
  SLOW_CONTROL = SLOW_ENABLE | SLOW_BY_256 | SLOW_32_BITS;
  UART_DIVIDER = 16;
  UART_CONTROL = 1u | 2u | 8u; /* send, receive, interrupt when something was received */
  NVIC_ENABLE = 1;
}

char board_read(void) {
  while (received_count == read_count) {
    __asm volatile("cpsid i"); /* else the interrupt could come between the look and the sleep */
    if (received_count == read_count) {
      __asm volatile("wfi");
    }
    __asm volatile("cpsie i\n isb");
  }
  return (char)received[read_count++ % RECEIVED_SIZE];
}

void board_write(const char *text) {
  for (; *text; text++) {
    while (UART_STATE & UART_TX_FULL) {
    }
    UART_DATA = (uint8_t)*text;
  }
}

uint32_t board_microseconds(void) {
  uint32_t ticks = UINT32_MAX - TIMER_VALUE; /* both count down */
  uint64_t about = (uint64_t)(UINT32_MAX - SLOW_VALUE) << 8;
  uint64_t rounds = (about - ticks + (UINT64_C(1) << 31)) >> 32;
  return (uint32_t)(((rounds << 32) + ticks) / TICKS_PER_MICROSECOND);
}
