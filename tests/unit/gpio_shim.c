/* Stands between a program and the kernel and plays a GPIO chip behind any file: writes down what
 * it is asked for into the file PIN_LOG, or refuses lines with the error number PIN_REFUSES. */
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int request(struct gpio_v2_line_request *asked, FILE *log)
{
    const char *refuses = getenv("PIN_REFUSES");
    if (refuses) {
        errno = atoi(refuses);
        return -1;
    }
    fprintf(log, "line %u of %u flags %llu attributes %u for %s\n", asked->offsets[0],
        asked->num_lines, (unsigned long long)asked->config.flags, asked->config.num_attrs,
        asked->consumer);
    asked->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return 0;
}

int ioctl(int file, unsigned long number, ...)
{
    va_list more;
    va_start(more, number);
    void *argument = va_arg(more, void *);
    va_end(more);
    int done = 0;
    if (number != GPIO_V2_GET_LINE_IOCTL && number != GPIO_V2_LINE_SET_VALUES_IOCTL)
        return (int)syscall(SYS_ioctl, file, number, argument);
    FILE *log = fopen(getenv("PIN_LOG"), "a");
    if (number == GPIO_V2_GET_LINE_IOCTL) {
        done = request(argument, log);
    } else {
        const struct gpio_v2_line_values *values = argument;
        fprintf(log, "set %llu of %llu at %lld\n", (unsigned long long)values->bits,
            (unsigned long long)values->mask, now_ns());
    }
    int reason = errno; /* of the refusal, not of closing */
    fclose(log);
    errno = reason;
    return done;
}
