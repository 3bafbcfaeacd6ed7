/* The pin that is wired to a meter's logic input: one output line of a GPIO chip. */
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runner.h"

static _Noreturn void cannot_use(const char *pin, int reason)
{
    const char *told = reason == ENOENT ? "there is no such chip"
        : reason == EACCES ? "no right to use the chip: add the user to its group, often 'gpio'"
        : reason == EPERM  ? "no right to use the line"
        : reason == ENOTTY ? "that is no GPIO chip"
        : reason == EINVAL ? "the chip has no such line, or its kernel is older than 5.10"
        : reason == EBUSY  ? "somebody else uses the line"
                           : strerror(reason);
    give_up(STATUS_UNFIT, "cannot use the pin %s: %s", pin, told);
}

#ifdef GPIO_V2_GET_LINE_IOCTL

struct pin open_pin(const char *text)
{
    if (!text)
        return (struct pin){0};
    struct gpio_v2_line_request request = {
        .consumer = "farm", .num_lines = 1, .config.flags = GPIO_V2_LINE_FLAG_OUTPUT};
    char *chip = format_text("%s", text), *end, *line = strrchr(chip, ':');
    if (!line)
        give_up(STATUS_USAGE, "'%s' is no pin", text);
    *line++ = '\0';
    if (*line == '!') {
        request.config.flags |= GPIO_V2_LINE_FLAG_ACTIVE_LOW;
        line++;
    }
    request.offsets[0] = (uint32_t)strtoul(line, &end, 10);
    if (end == line || *end)
        give_up(STATUS_USAGE, "'%s' is no pin", text);
    int file = open(chip, O_RDWR | O_CLOEXEC);
    if (file < 0 || ioctl(file, GPIO_V2_GET_LINE_IOCTL, &request))
        cannot_use(text, errno);
    close(file);
    free(chip);
    return (struct pin){.text = text, .line = request.fd};
}

void set_pin(const struct pin *pin, bool high)
{
    struct gpio_v2_line_values values = {.bits = high, .mask = 1};
    if (pin->text && ioctl(pin->line, GPIO_V2_LINE_SET_VALUES_IOCTL, &values))
        cannot_use(pin->text, errno);
}

#else /* headers of a kernel before 5.10, as in the older NDKs */

struct pin open_pin(const char *text)
{
    if (text)
        cannot_use(text, EINVAL);
    return (struct pin){0};
}

void set_pin(const struct pin *pin, bool high) { (void)pin, (void)high; }

#endif
