/* options.c - argp with our common children, our exit codes and one-line complaints. */
#include "base/options.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const activations_names[] = {"f32", "int8", NULL};

struct common_options common_options = {.device = "cpu"};

static const struct program *running;

enum { KEY_THREADS = 0x1000, KEY_SEED, KEY_DEVICE, KEY_ACTIVATIONS };

static error_t parse_general(int key, char *value, struct argp_state *state)
{
    (void)value;
    (void)state;
    switch (key) {
    case 'v':
        error_verbosity = VERBOSE;
        return 0;
    case 'q':
        error_verbosity = QUIET;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_output(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key != 'o')
        return ARGP_ERR_UNKNOWN;
    common_options.output = value;
    return 0;
}

static error_t parse_threads(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key != KEY_THREADS)
        return ARGP_ERR_UNKNOWN;
    parallel_set((int)option_int("--threads", value, 1, 1024));
    return 0;
}

static error_t parse_seed(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key != KEY_SEED)
        return ARGP_ERR_UNKNOWN;
    common_options.seed = (uint64_t)option_int("--seed", value, 0, INT64_MAX);
    common_options.seeded = true;
    return 0;
}

static error_t parse_match(int key, char *value, struct argp_state *state)
{
    struct globs *match = &common_options.match;

    (void)state;
    if (key != 'm')
        return ARGP_ERR_UNKNOWN;
    match->glob = xreallocarray(match->glob, (size_t)match->count + 1, sizeof *match->glob);
    match->glob[match->count++] = value;
    return 0;
}

static error_t parse_device(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key != KEY_DEVICE)
        return ARGP_ERR_UNKNOWN;
    common_options.device = value;
    return 0;
}

static error_t parse_activations(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key != KEY_ACTIVATIONS)
        return ARGP_ERR_UNKNOWN;
    common_options.activations = option_word("--activations", value, activations_names);
    return 0;
}

static const struct argp_option general_table[] = {
    {"verbose", 'v', NULL, 0, "say more of what is done", -2},
    {"quiet", 'q', NULL, 0, "say errors only", -2},
    {0},
};
static const struct argp_option output_table[] = {
    {"output", 'o', "FILE", 0, "write to FILE, which appears whole or not at all, instead of standard output", -3},
    {0},
};
static const struct argp_option threads_table[] = {
    {"threads", KEY_THREADS, "N", 0, "use N threads (default: as many as processors); "
     "the result doesn't depend on it", -3},
    {0},
};
static const struct argp_option seed_table[] = {
    {"seed", KEY_SEED, "N", 0, "seed of the random numbers (default: 0)", -3},
    {0},
};

static const struct argp_option match_table[] = {
    {"match", 'm', "GLOB", 0, "only weights whose names match, '*.q_proj.*' say (may be repeated)", -4},
    {0},
};

static const struct argp_option device_table[] = {
    {"device", KEY_DEVICE, "NAME", 0, "run on this device: cpu (the default), or reference, the plain and slow "
     "definition of each operation", -3},
    {0},
};
static const struct argp_option activations_table[] = {
    {"activations", KEY_ACTIVATIONS, "TYPE", 0, "what packed matrices are multiplied with: f32 (the default), or int8, "
     "which is faster and rounds each token to 8 bits in groups of 32", -3},
    {0},
};

static const struct argp general = {.options = general_table, .parser = parse_general};
static const struct argp output = {.options = output_table, .parser = parse_output};
static const struct argp threads = {.options = threads_table, .parser = parse_threads};
static const struct argp seed = {.options = seed_table, .parser = parse_seed};
static const struct argp match = {.options = match_table, .parser = parse_match};
static const struct argp device = {.options = device_table, .parser = parse_device};
static const struct argp activations = {.options = activations_table, .parser = parse_activations};

/* getopt has said its line by the time argp wants to add "Try ... --help": without a stream it stays at the one
 * line. */
static error_t parse_program(int key, char *value, struct argp_state *state)
{
    error_t result = running->parse(key, value, state);

    if (result == ARGP_ERR_UNKNOWN && key == ARGP_KEY_ARG && running->common & OPTION_INPUT && !common_options.input) {
        common_options.input = value;
        return 0;
    }
    if (key == ARGP_KEY_INIT) {
        state->err_stream = NULL;
        return 0;
    }
    if (result == ARGP_ERR_UNKNOWN && key == ARGP_KEY_ARG)
        die(EX_USAGE, "unexpected operand '%s'", value);
    return result;
}

static void print_version(FILE *stream, struct argp_state *state)
{
    (void)state;
    fprintf(stream, "%s (Lapidary) %s\n", running->name, LAPIDARY_VERSION);
}

/* Where a standard stream is closed, the next file opened would take its place, and messages would go into it.
 * What stands in for it fails when it is used. */
static void occupy_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            exit(EX_OSERR);
}

/* What was printed must have arrived, --help and --version included. On a full device an error shows up in ferror
 * or only in fclose, by how much was printed. */
static void close_stdout(void)
{
    bool bad = ferror(stdout), pending = __fpending(stdout) > 0;

    /* A program whose data went out by descriptor has closed it: then nothing is pending, and that's no error. */
    if ((fclose(stdout) && (pending || errno != EBADF)) || bad) {
        fail(EX_IOERR, "cannot write 'standard output':");
        _exit(EX_IOERR);
    }
}

void options_parse(const struct program *program, int argc, char **argv)
{
    struct argp_child children[8] = {{.argp = &general}};
    int n = 1;
    char *doc = xasprintf("%s\v%s%sExample:\n\n%s", program->purpose, program->details ? program->details : "",
                          program->details ? "\n\n" : "", program->example);
    struct argp argp = {program->table, parse_program, program->operands, doc, children, NULL, NULL};
    error_t error;

    occupy_standard_streams();
    atexit(close_stdout);
    if (program->common & OPTION_OUTPUT)
        children[n++].argp = &output;
    if (program->common & OPTION_THREADS)
        children[n++].argp = &threads;
    if (program->common & OPTION_SEED)
        children[n++].argp = &seed;
    if (program->common & OPTION_MATCH)
        children[n++].argp = &match;
    if (program->common & OPTION_DEVICE)
        children[n++].argp = &device;
    if (program->common & OPTION_ACTIVATIONS)
        children[n++].argp = &activations;
    running = program;
    error_program(program->name);
    argp_program_version_hook = print_version;
    argp_err_exit_status = EX_USAGE;
    argv[0] = (char *)(uintptr_t)program->name;
    error = argp_parse(&argp, argc, argv, 0, NULL, NULL);
    if (error)
        exit(EX_USAGE);
    free(doc);
}

int64_t option_int(const char *option, const char *value, int64_t least, int64_t most)
{
    char *end = NULL;
    long long number;

    errno = 0;
    number = strtoll(value, &end, 10);
    if (end == value || *end)
        die(EX_USAGE, "%s: '%s' is not a whole number", option, value);
    if (errno || number < least || number > most)
        die(EX_USAGE, "%s: %s is outside %lld..%lld", option, value, (long long)least, (long long)most);
    return number;
}

double option_real(const char *option, const char *value, double least, double most)
{
    char *end = NULL;
    double number = strtod(value, &end);

    if (end == value || *end || !isfinite(number))
        die(EX_USAGE, "%s: '%s' is not a number", option, value);
    if (number < least || number > most)
        die(EX_USAGE, "%s: %s is outside %g..%g", option, value, least, most);
    return number;
}

int64_t option_size(const char *option, const char *value, int64_t least)
{
    static const char units[] = "KMGT";
    char *end = NULL;
    const char *unit;
    long long number;
    int64_t size;

    errno = 0;
    number = strtoll(value, &end, 10);
    unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (end == value || errno || (*end && (!unit || end[1])))
        die(EX_USAGE, "%s: '%s' is not a size (a whole number, then K, M, G or T)", option, value);
    if (!size_multiply(number, (int64_t)1 << (unit ? 10 * (unit - units + 1) : 0), &size) || size < least)
        die(EX_USAGE, "%s: %s is outside %lld..%lld bytes", option, value, (long long)least, (long long)INT64_MAX);
    return size;
}

int option_word(const char *option, const char *value, const char *const *words)
{
    struct text list = {0};

    for (int i = 0; words[i]; i++) {
        if (!strcmp(value, words[i])) {
            text_free(&list);
            return i;
        }
        text_format(&list, "%s%s", i ? ", " : "", words[i]);
    }
    die(EX_USAGE, "%s: '%s' is not one of %s", option, value, list.data);
}

bool globs_match(const struct globs *globs, const char *name)
{
    for (int i = 0; i < globs->count; i++)
        if (!fnmatch(globs->glob[i], name, 0))
            return true;
    return globs->count == 0;
}
