/* The command line. Pairs are separate arguments, so that a name may hold anything. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static const char USAGE[] =
    "usage: ort_runner facts|measure|infer|profile|compile --library FILE [--model FILE]\n"
    "  --accelerator NAME            cpu, cuda, tensorrt+cpu, ...\n"
    "  --input NAME FILE TYPE:SHAPE  all items of an input, raw; the shape is that of one item\n"
    "  --dim NAME SIZE               a free dimension of a seeded input\n"
    "  --ep-option NAME VALUE        for the first execution provider\n"
    "  --config NAME VALUE           an entry of the session's configuration\n"
    "  --threads N --optimisation 0|1|2|99 --cpus 2-3,5\n"
    "  --warmup S --min-duration S --min-queries N --max-duration S --quiet-pace-ns NS\n"
    "  --idle S --chip S             beside a power meter: rests, and the length of a mark's element\n"
    "  --gpio CHIP:LINE              the pin wired to it; CHIP:!LINE if it is low when it is set";

enum {
    LIBRARY = 256, MODEL, ACCELERATOR, CPUS, INPUT, DIM, EP_OPTION, CONFIG, THREADS, OPTIMISATION,
    WARMUP, MIN_DURATION, MIN_QUERIES, MAX_DURATION, QUIET_PACE, IDLE, CHIP, GPIO
};

static const struct option KNOWN[] = {
    {"library", required_argument, NULL, LIBRARY},
    {"model", required_argument, NULL, MODEL},
    {"accelerator", required_argument, NULL, ACCELERATOR},
    {"cpus", required_argument, NULL, CPUS},
    {"input", required_argument, NULL, INPUT},
    {"dim", required_argument, NULL, DIM},
    {"ep-option", required_argument, NULL, EP_OPTION},
    {"config", required_argument, NULL, CONFIG},
    {"threads", required_argument, NULL, THREADS},
    {"optimisation", required_argument, NULL, OPTIMISATION},
    {"warmup", required_argument, NULL, WARMUP},
    {"min-duration", required_argument, NULL, MIN_DURATION},
    {"min-queries", required_argument, NULL, MIN_QUERIES},
    {"max-duration", required_argument, NULL, MAX_DURATION},
    {"quiet-pace-ns", required_argument, NULL, QUIET_PACE},
    {"idle", required_argument, NULL, IDLE},
    {"chip", required_argument, NULL, CHIP},
    {"gpio", required_argument, NULL, GPIO},
    {NULL, 0, NULL, 0},
};

static double number(const char *text)
{
    char *rest;
    errno = 0;
    double value = strtod(text, &rest);
    if (errno || rest == text || *rest || !(value >= 0))
        give_up(STATUS_USAGE, "'%s' is no number from 0 on", text);
    return value;
}

static int64_t whole_number(const char *text)
{
    char *rest;
    errno = 0;
    long long value = strtoll(text, &rest, 10);
    if (errno || rest == text || *rest || value < 0)
        give_up(STATUS_USAGE, "'%s' is no whole number from 0 on", text);
    return value;
}

/* The further words of an option that takes more than one. */
static const char *next_word(int argc, char **argv)
{
    if (optind >= argc)
        give_up(STATUS_USAGE, "%s", USAGE);
    return argv[optind++];
}

static void add_pair(struct pairs *pairs, const char *name, const char *value)
{
    pairs->items[pairs->count++] = (struct pair){name, value};
}

/* Options of one word; false if it is none of them. */
static bool read_single(struct options *options, int option, const char *word)
{
    switch (option) {
    case LIBRARY: options->library = word; return true;
    case MODEL: options->model = word; return true;
    case ACCELERATOR: options->accelerator = word; return true;
    case CPUS: options->cpus = word; return true;
    case THREADS: options->threads = (int)whole_number(word); return true;
    case OPTIMISATION: options->optimisation = (int)whole_number(word); return true;
    case WARMUP: options->warmup_s = number(word); return true;
    case MIN_DURATION: options->min_duration_s = number(word); return true;
    case MIN_QUERIES: options->min_queries = whole_number(word); return true;
    case MAX_DURATION: options->max_duration_s = number(word); return true;
    case QUIET_PACE: options->quiet_pace_ns = number(word); return true;
    case IDLE: options->metered = true; options->idle_s = number(word); return true;
    case CHIP: options->chip_s = number(word); return true;
    case GPIO: options->gpio = word; return true;
    default: return false;
    }
}

static void read_one(struct options *options, int option, int argc, char **argv)
{
    const char *word = optarg;
    if (read_single(options, option, word))
        return;
    if (option == '?')
        give_up(STATUS_USAGE, "%s", USAGE);
    const char *second = next_word(argc, argv);
    if (option == DIM) {
        whole_number(second);
        add_pair(&options->dimensions, word, second);
    } else if (option == EP_OPTION) {
        add_pair(&options->provider_options, word, second);
    } else if (option == CONFIG) {
        add_pair(&options->configs, word, second);
    } else {
        const char *form = next_word(argc, argv);
        options->inputs[options->input_count++] = (struct input_file){word, second, form};
    }
}

struct options read_options(int argc, char **argv)
{
    size_t most = (size_t)argc; /* no list can be longer than the command line */
    struct options options = {
        .mode = argc > 1 ? argv[1] : "",
        .accelerator = "cpu",
        .threads = 1,
        .optimisation = ORT_ENABLE_ALL,
        .warmup_s = 1,
        .min_duration_s = 1,
        .min_queries = 64,
        .max_duration_s = 60,
        .dimensions.items = allocate(most, sizeof(struct pair)),
        .provider_options.items = allocate(most, sizeof(struct pair)),
        .configs.items = allocate(most, sizeof(struct pair)),
        .inputs = allocate(most, sizeof(struct input_file)),
    };
    int option;
    optind = 2;
    while ((option = getopt_long(argc, argv, "+", KNOWN, NULL)) != -1)
        read_one(&options, option, argc, argv);
    bool complete = options.library && (options.model || strcmp(options.mode, "facts") == 0);
    if (!complete || optind < argc)
        give_up(STATUS_USAGE, "%s", USAGE);
    return options;
}
