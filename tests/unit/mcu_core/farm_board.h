/* A board that is a process: small memories, so that their ends are soon reached. */
#ifndef FARM_BOARD_H
#define FARM_BOARD_H

#define FARM_BOARD "host"
#define FARM_CPU 2
#define FARM_CLOCK_HZ 1000000u
#define FARM_MAX_PAYLOAD 2048
#define FARM_MAX_INPUT 3000
#define FARM_MAX_OUTPUT 3000
#define FARM_SLOTS 2
#define FARM_SLOT_BYTES 8192u
#define FARM_SLOT_ADDRESS(slot) (0x10000u + (slot) * FARM_SLOT_BYTES)
#define FARM_STATE_ADDRESS 0x20000u
#define FARM_STATE_BANK_BYTES 1024u
#define FARM_RAM_ADDRESS 0x30000u
#define FARM_RAM_BYTES 4096u

#endif
