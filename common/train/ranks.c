/* ranks.c - who is there, parts and trees of sums, and agreement. */
#include "train/ranks.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINGER = 200 * 1000 * 1000 };             /* nanoseconds */

/* How many processes a launcher says that it started; 0: it doesn't say, or there is none. A Slurm batch script has the
 * variables of its job, those of a step only srun sets. */
static int started(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        long number = value ? strtol(value, NULL, 10) : 0;

        if (number > 0 && number < 1 << 20)
            return (int)number;
    }
    return 0;
}

int ranks_open(struct ranks **ranks)
{
    int expected = started();

    if (expected > 1 || (!expected && getenv("PMIX_RANK")))
        return ranks_open_mpi(ranks, expected);
    *ranks = ranks_alone();
    return EX_OK;
}

/* ---- messages and ends ---- */

static char message[2048];       /* the last one of a rank other than 0 */
static bool hushed;
static bool spoke;               /* of what was agreed */
static int agreed;

void ranks_hush(int rank)
{
    static char name[64];

    snprintf(name, sizeof name, "%s, rank %d", error_program_name(), rank);
    error_program(name);
    error_verbosity = QUIET;
    error_capture(message, sizeof message);
    hushed = true;
}

void ranks_speak(void)
{
    if (hushed && *message)
        fprintf(stderr, "%s\n", message);
    *message = '\0';
}

void ranks_close(struct ranks *ranks, int code)
{
    bool others = ranks->count > 1;

    if (code && code != agreed)
        ranks->abort(ranks, code);
    ranks->close(ranks);
    /* A launcher ends all with the first one that ends with an error: that is to be the one that says what it was. */
    if (code && !spoke && others)
        nanosleep(&(struct timespec){.tv_nsec = LINGER}, NULL);
}

int ranks_agree(struct ranks *ranks, int code)
{
    double *codes = xcalloc((size_t)ranks->count, sizeof *codes);
    int result = EX_OK, first = 0;

    codes[ranks->rank] = code;
    ranks->sum(ranks, codes, ranks->count);
    for (int r = ranks->count; r-- > 0;)
        if (codes[r] != 0)
            result = (int)codes[first = r];
    free(codes);
    spoke = first == ranks->rank;
    if (result && spoke)
        ranks_speak();
    return agreed = result;
}

char *ranks_text(struct ranks *ranks, const char *text)
{
    size_t length = text ? strlen(text) : 0;
    char *copy;

    ranks->broadcast(ranks, &length, sizeof length);
    copy = xcalloc(length + 1, 1);
    if (text)
        memcpy(copy, text, length);
    ranks->broadcast(ranks, copy, length);
    return copy;
}

/* ---- parts and sums ---- */

int64_t ranks_cell(int64_t n, int i)
{
    return n / RANKS_LINE * i / RANKS_CELLS * RANKS_LINE;
}

int64_t ranks_part(int64_t n, int r, int count)
{
    return ranks_cell(n, RANKS_CELLS * r / count);
}

/* The tree goes up a piece at a time that stays in the cache. */
enum { PIECE = 2048 };

#define ADD(name, type)                                                                                              \
    void name(type *const *row, int count, int64_t n)                                                                \
    {                                                                                                                \
        for (int64_t at = 0; at < n; at += PIECE)                                                                    \
            for (int stride = 1; stride < count; stride *= 2)                                                        \
                for (int r = 0; r + stride < count; r += 2 * stride) {                                               \
                    type *restrict to = row[r] + at;                                                                 \
                    const type *restrict from = row[r + stride] + at;                                                \
                                                                                                                     \
                    for (int64_t i = 0; i < least(PIECE, n - at); i++)                                               \
                        to[i] += from[i];                                                                            \
                }                                                                                                    \
    }

ADD(ranks_add, float)
ADD(ranks_add_doubles, double)
