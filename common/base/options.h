/* options.h - the one option parser: glibc's argp with the options that all programs share.
 *
 * A program gives one table and one parse function; --help, --usage, --version, -v, -q and abbreviations behave
 * the same everywhere, and misuse ends with one line and exit 64. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#define LAPIDARY_VERSION "0.1.0"

enum {
    OPTION_OUTPUT = 1 << 0,      /* -o, --output FILE */
    OPTION_THREADS = 1 << 1,     /* --threads N */
    OPTION_SEED = 1 << 2,        /* --seed N */
    OPTION_MATCH = 1 << 3,       /* -m, --match GLOB, repeatable */
    OPTION_INPUT = 1 << 4,       /* one operand: a model, standard input where it is missing */
    OPTION_DEVICE = 1 << 5,      /* --device NAME: of programs that run models */
    OPTION_ACTIVATIONS = 1 << 6, /* --activations TYPE */
};

/* Where the keys of a table of more than 31 options begin: a key that is a character would be a short option. */
enum { OPTION_KEYS = 0x2000 };

struct program {
    const char *name;            /* "mpo-decompose" */
    const char *operands;        /* "[MODEL]" */
    const char *purpose;         /* one sentence */
    const char *details;         /* behind the options; may be NULL */
    const char *example;         /* one or more command lines that work as they stand */
    const struct argp_option *table;
    /* Gets each option of the table and each operand (ARGP_KEY_ARG), and ARGP_KEY_END; ARGP_ERR_UNKNOWN for
     * others. */
    error_t (*parse)(int key, char *value, struct argp_state *state);
    unsigned common;             /* OPTION_... that mean something here */
};

/* Patterns of a repeatable option; the words are the caller's, the list is allocated. */
struct globs {
    const char **glob;
    int count;
};

struct common_options {
    const char *input;           /* NULL: standard input */
    const char *output;          /* NULL: standard output */
    uint64_t seed;
    bool seeded;                 /* --seed was given */
    struct globs match;
    const char *device;          /* "cpu" */
    int activations;             /* index in activations_names, enum activations of compute/device.h */
};

/* NULL-terminated: "f32", "int8". */
extern const char *const activations_names[];

extern struct common_options common_options;

/* Parses the command line; exits on --help, --version and misuse. Sets the program's name, verbosity and threads. */
void options_parse(const struct program *program, int argc, char **argv);

/* Values, range-checked; a bad one ends the program with 64 and names the option. */
int64_t option_int(const char *option, const char *value, int64_t least, int64_t most);
double option_real(const char *option, const char *value, double least, double most);

/* Bytes, with an optional K, M, G or T (powers of 1024). */
int64_t option_size(const char *option, const char *value, int64_t least);

/* The index of value in a NULL-terminated list of words. */
int option_word(const char *option, const char *value, const char *const *words);

/* True where the list is empty or one of its patterns matches (fnmatch; '*' also matches '.'). */
bool globs_match(const struct globs *globs, const char *name);

#endif
