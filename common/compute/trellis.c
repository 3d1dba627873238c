/* trellis.c - Viterbi's search from the last step to the first, tail-biting.
 *
 * Neighbouring states share an overlap, the lower bits of the later one: state - bits of them. The cost of an overlap
 * is that of all steps from there on, with the best codes. */
#include "compute/trellis.h"
#include "base/memory.h"
#include "base/number.h"
#include "compute/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAD = 32,                    /* costs that vectors may read behind the last */
    UNITS = 8192,                /* of numbers and values */
    SEAM = TRELLIS_WEIGHTS / 4,  /* weights searched on each side of the seam: many times what a state remembers */
};

struct trellis_search {
    const struct kernels *kernels;
    struct dtype dtype;
    int overlaps;
    int16_t *value[2], *square;  /* [2^state]; value[1] NULL: one weight per step */
    int16_t *first;              /* of two weights, the square of the first: a last step may have only one */
};

/* From units of 2^-12 to 2^-10. */
static int16_t square_of(int sum)
{
    return (int16_t)least((sum + 2) / 4, INT16_MAX);
}

struct trellis_search *trellis_search_new(struct dtype dtype, const struct kernels *kernels)
{
    struct trellis_search *search = xmalloc(sizeof *search);
    size_t states = (size_t)1 << dtype.state;

    *search = (struct trellis_search){kernels ? kernels : kernels_best(), dtype, 1 << (dtype.state - dtype.bits),
                                      {NULL}, NULL, NULL};
    search->square = xaligned(states, sizeof *search->square);
    if (dtype.step > 1)
        search->first = xaligned(states, sizeof *search->first);
    for (int v = 0; v < dtype.step; v++)
        search->value[v] = xaligned(states, sizeof *search->value[v]);
    for (uint32_t s = 0; s < states; s++) {
        int square = 0;

        for (int v = 0; v < dtype.step; v++) {
            int value = trellis_value(dtype, s, v);

            search->value[v][s] = (int16_t)(value * (UNITS / TRELLIS_ONE));
            square += value * value;
            if (v == 0 && search->first)
                search->first[s] = square_of(square);
        }
        search->square[s] = square_of(square);
    }
    return search;
}

void trellis_search_free(struct trellis_search *search)
{
    if (!search)
        return;
    free(search->value[0]);
    free(search->value[1]);
    free(search->square);
    free(search->first);
    free(search);
}

/* Costs of two steps, then choices of all. */
static size_t costs_bytes(const struct trellis_search *search)
{
    return ((size_t)(search->overlaps + PAD) * sizeof(int16_t) + 63) / 64 * 64;
}

size_t trellis_search_room(const struct trellis_search *search)
{
    return 2 * costs_bytes(search) + (size_t)search->overlaps * (size_t)(TRELLIS_WEIGHTS / search->dtype.step) + PAD;
}

static int16_t units_of(float x)
{
    float units = rintf(x * UNITS);

    return (int16_t)(units >= INT16_MAX ? INT16_MAX : units > -INT16_MAX ? units : -INT16_MAX);
}

/* Numbers of a tile in units, and costs of the end of them. */
struct path {
    const struct trellis_search *search;
    int16_t x[TRELLIS_WEIGHTS + 1];      /* 0 for a last step's second weight that isn't there */
    int steps;
    bool odd;                    /* it isn't there */
    int16_t *ahead, *cost;
    unsigned char *choice;       /* [steps][overlaps] */
    int least;                   /* of ahead */
};

static struct path path_new(const struct trellis_search *search, const float *x, int count, void *room)
{
    size_t bytes = costs_bytes(search);
    char *at = room;
    struct path path = {.search = search, .steps = (count + search->dtype.step - 1) / search->dtype.step,
                        .odd = count % search->dtype.step, .ahead = (void *)at, .cost = (void *)(at + bytes),
                        .choice = (unsigned char *)(at + 2 * bytes), .least = INT16_MIN};

    for (int i = 0; i < count; i++)
        path.x[i] = units_of(x[i]);
    return path;
}

/* What gives costs so far room for the next step: the least becomes INT16_MIN + x^2, since a distance is never below
 * -x^2. */
static int16_t level_for(const struct path *path, const int16_t x[2])
{
    int square = x[0] * x[0] / 65536 + x[1] * x[1] / 65536 + 2, level = INT16_MIN + square - path->least;

    return (int16_t)(level > INT16_MAX ? INT16_MAX : level < INT16_MIN ? INT16_MIN : level);
}

/* Searches `steps` steps from `first` on, in a circle; end: the overlap behind the last, or -1. Afterwards path->ahead
 * are the costs of overlaps before the first. */
static void search_back(struct path *path, int first, int steps, int64_t end)
{
    const struct trellis_search *s = path->search;

    for (int p = 0; p < s->overlaps; p++)
        path->ahead[p] = end >= 0 && p != end ? INT16_MAX : INT16_MIN;
    path->least = INT16_MIN;
    for (int t = steps - 1; t >= 0; t--) {
        int here = (first + t) % path->steps;
        const int16_t *at = path->x + here * s->dtype.step;
        int16_t *swap = path->ahead;
        struct trellis_step one = {.value = {s->value[0], s->value[1]}, .square = s->square, .state = s->dtype.state,
                                   .bits = s->dtype.bits, .ahead = path->ahead, .x = {at[0], s->value[1] ? at[1] : 0},
                                   .cost = path->cost, .choice = path->choice + (size_t)t * (size_t)s->overlaps};

        if (path->odd && here == path->steps - 1)
            one.square = s->first;
        one.level = level_for(path, one.x);
        path->least = s->kernels->trellis_step(&one);
        path->ahead = path->cost;
        path->cost = swap;
    }
}

/* Forwards along the choices, from an overlap on; returns the one behind the last of `steps`. */
static uint32_t follow(const struct path *path, uint32_t overlap, int steps, uint32_t *state)
{
    const struct trellis_search *s = path->search;

    for (int t = 0; t < steps; t++) {
        uint32_t at = overlap + path->choice[(size_t)t * (size_t)s->overlaps + overlap] * (uint32_t)s->overlaps;

        if (state)
            state[t] = at;
        overlap = at >> s->dtype.bits;
    }
    return overlap;
}

static uint32_t best_overlap(const struct path *path)
{
    uint32_t best = 0;

    for (int p = 1; p < path->search->overlaps; p++)
        if (path->ahead[p] < path->ahead[best])
            best = (uint32_t)p;
    return best;
}

static double error_of(const struct trellis_search *search, const float *x, int count, const uint32_t *state)
{
    double sum = 0;

    for (int i = 0; i < count; i++) {
        int value = trellis_value(search->dtype, state[i / search->dtype.step], i % search->dtype.step);
        double d = x[i] - (double)value / TRELLIS_ONE;

        sum += d * d;
    }
    return sum;
}

/* All codes of a tile that has fewer bits than a state: at most 2^15 of them. */
static void try_all(const struct trellis_search *search, const float *x, int count, int steps, uint32_t *state)
{
    int bits = steps * search->dtype.bits;
    uint32_t trial[TRELLIS_STATE_MOST];
    double least = INFINITY;

    for (uint32_t codes = 0; codes < 1u << bits; codes++) {
        unsigned char packed[4] = {(unsigned char)codes, (unsigned char)(codes >> 8)};
        double error;

        trellis_states(search->dtype, steps, packed, trial);
        error = error_of(search, x, count, trial);
        if (error < least || codes == 0) {
            least = error;
            memcpy(state, trial, (size_t)steps * sizeof *state);
        }
    }
}

void trellis_search_free_ends(const struct trellis_search *search, const float *x, int count, void *room,
                              uint32_t *state)
{
    struct path path = path_new(search, x, count, room);

    search_back(&path, 0, path.steps, -1);
    follow(&path, best_overlap(&path), path.steps, state);
}

void trellis_search(const struct trellis_search *search, const float *x, int count, void *room, uint32_t *state)
{
    struct path path = path_new(search, x, count, room);
    struct dtype dtype = search->dtype;
    unsigned char packed[TRELLIS_WEIGHTS];
    int steps = path.steps, side = SEAM / dtype.step;    /* in short tiles several times round */
    uint32_t seam;

    if (steps * dtype.bits < dtype.state) {
        try_all(search, x, count, steps, state);
        return;
    }
    search_back(&path, steps - side % steps, 2 * side, -1);
    seam = follow(&path, best_overlap(&path), side, NULL);
    search_back(&path, 0, steps, seam);
    follow(&path, seam, steps, state);
    trellis_pack(dtype, steps, state, packed);   /* the last states are what the first bits make of them */
    trellis_states(dtype, steps, packed, state);
}
