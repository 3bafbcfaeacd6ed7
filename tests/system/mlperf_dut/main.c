/* A firmware that speaks the text protocol of MLPerf Tiny and runs its keyword model.
 *
 * Written for the tests; nothing of it is the benchmark's own code. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"

#define INPUT_BYTES 490
#define CLASSES 12
#define BUFFER_BYTES (96 * 96 * 3)
#define COMMAND_CHARACTERS 80

void farm_model(const int8_t *input, int8_t *output);

static uint8_t buffer[BUFFER_BYTES];
static size_t expected, loaded;
static int8_t input[INPUT_BYTES], output[CLASSES];

static void print(const char *format, ...) {
  char text[128];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  board_write(text);
}

static void print_lap(void) {
  unsigned long now = board_microseconds(); /* before it is printed: the printing takes time */
  print("m-lap-us-%lu\r\n", now);
}

/* Digit by digit and without fractions; the output means (number + 128) / 256. */
static void print_results(void) {
  board_write("m-results-[");
  for (int i = 0; i < CLASSES; i++) {
    int thousandths = (output[i] + 128) * 1000 / 256;
    print("0.%03d%s", thousandths, i < CLASSES - 1 ? "," : "");
  }
  board_write("]\r\n");
}

static void load_tensor(void) {
  if (loaded < INPUT_BYTES) { /* and the input of before stays */
    print("Input db has %u elemented, expected %d\n", (unsigned)loaded, INPUT_BYTES);
    return;
  }
  memcpy(input, buffer, INPUT_BYTES);
}

static void infer(const char *count_text, const char *warmup_text) {
  int count = count_text ? atoi(count_text) : 1;
  int warmup = warmup_text ? atoi(warmup_text) : 10;
  if (count <= 0 || warmup < 0) {
    board_write("e-[Inference iterations must be >0]\r\n");
    return;
  }
  load_tensor();
  print("m-warmup-start-%d\r\n", warmup);
  while (warmup-- > 0) {
    farm_model(input, output);
  }
  print("m-warmup-done\r\nm-infer-start-%d\r\n", count);
  print_lap();
  while (count-- > 0) {
    farm_model(input, output);
  }
  print_lap();
  board_write("m-infer-done\r\n");
  print_results();
}

static void expect(const char *size) {
  expected = size ? (size_t)atoi(size) : 0;
  if (expected == 0) {
    board_write("e-[Command 'db load' must be >0 bytes]\r\n");
    return;
  }
  loaded = 0;
  if (expected > BUFFER_BYTES) {
    print("Supplied buffer size %u exceeds maximum of %d\n", (unsigned)expected, BUFFER_BYTES);
    return;
  }
  print("m-[Expecting %u bytes]\r\n", (unsigned)expected);
}

static void take(const char *digits) {
  if (strlen(digits) % 2) {
    board_write("e-[Insufficent number of hex digits]\r\n");
    return;
  }
  for (; *digits; digits += 2) {
    char pair[3] = {digits[0], digits[1], 0};
    char *end;
    unsigned long value = strtoul(pair, &end, 16);
    if (end != pair + 2) {
      print("e-[Invalid hex digit '%s']\r\n", pair);
      return;
    }
    if (loaded < BUFFER_BYTES) {
      buffer[loaded++] = (uint8_t)value;
    }
    if (loaded == expected) {
      board_write("m-load-done\r\n");
      return;
    }
  }
}

static void load(const char *word) {
  if (!word) {
    board_write("e-[Command 'db' requires a subcommand]\r\n");
  } else if (!strcmp(word, "load")) {
    expect(strtok(NULL, " "));
  } else {
    take(word);
  }
}

static void obey(char *command) {
  const char *word = strtok(command, " ");
  if (!word) {
    board_write("e-[Unknown command: ]\r\n");
  } else if (!strcmp(word, "name")) {
    board_write("m-name-dut-[farm test]\r\n");
  } else if (!strcmp(word, "profile")) {
    board_write("m-profile-[test firmware of the farm]\r\nm-model-[kws01]\r\n");
  } else if (!strcmp(word, "timestamp")) {
    print_lap();
  } else if (!strcmp(word, "db")) {
    load(strtok(NULL, " "));
  } else if (!strcmp(word, "infer")) {
    const char *count = strtok(NULL, " ");
    infer(count, count ? strtok(NULL, " ") : NULL);
  } else if (!strcmp(word, "results")) {
    print_results();
  } else {
    print("e-[Unknown command: %s]\r\n", word);
  }
  board_write("m-ready\r\n");
}

int main(void) {
  static char command[COMMAND_CHARACTERS + 1];
  size_t length = 0;
  board_start();
  board_write("m-timestamp-mode-performance\r\n");
  print_lap();
  board_write("m-init-done\r\nm-ready\r\n");
  for (;;) {
    char character = board_read();
    if (character == '%') {
      command[length] = 0;
      length = 0;
      obey(command);
    } else if (length < COMMAND_CHARACTERS) { /* what is longer is cut off */
      command[length++] = character;
    }
  }
}
