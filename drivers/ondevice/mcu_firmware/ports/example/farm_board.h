/* A board with one built-in model and no slots. */
#ifndef FARM_BOARD_H
#define FARM_BOARD_H

#define FARM_BOARD "my-board"
#define FARM_CPU 2 /* FARM_CORTEX_M4F of farm_image.h */
#define FARM_CLOCK_HZ 1000000u
#define FARM_MAX_PAYLOAD 1024
#define FARM_MAX_INPUT 1024
#define FARM_MAX_OUTPUT 64
#define FARM_SLOTS 0

#endif
