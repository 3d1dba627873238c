/* ranks_alone.c - one process, and one of many for plans: sums are what is there. */
#include "train/ranks.h"

#include <stdlib.h>

static void sum_start(struct ranks *ranks, float *x, int64_t n, bool everywhere)
{
    (void)ranks, (void)x, (void)n, (void)everywhere;
}

static void gather_start(struct ranks *ranks, float *x, int64_t n)
{
    (void)ranks, (void)x, (void)n;
}

static void nothing(struct ranks *ranks)
{
    (void)ranks;
}

static void sum(struct ranks *ranks, double *x, int64_t n)
{
    (void)ranks, (void)x, (void)n;
}

static void broadcast(struct ranks *ranks, void *data, size_t bytes)
{
    (void)ranks, (void)data, (void)bytes;
}

static _Noreturn void end(struct ranks *ranks, int code)
{
    (void)ranks;
    exit(code);
}

#define ALONE {.count = 1, .local = 1, .sum_start = sum_start, .gather_start = gather_start, \
               .wait = nothing, .sum = sum, .broadcast = broadcast, .abort = end, .close = nothing}

struct ranks *ranks_alone(void)
{
    static struct ranks alone = ALONE;

    return &alone;
}

struct ranks *ranks_imagine(int count)
{
    static struct ranks imagined = ALONE;

    imagined.count = count;
    imagined.imagined = true;
    return &imagined;
}
