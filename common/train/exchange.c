/* exchange.c - segments on their way, the norm, and the update. */
#include "train/exchange.h"
#include "base/clock.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

void exchange_send(struct trainer *t, int64_t block)
{
    struct parameters *p = t->parameters;
    struct ranks *ranks = t->training.ranks;
    int end = p->block_segment[t->unsent];

    for (int i = p->block_segment[block]; i < end; i++) {
        const struct segment *s = &p->segment[i];

        parameters_add(p, s->first, s->count);
        ranks->sum_start(ranks, p->gradient + s->first, s->count, !t->training.shard);
    }
    if (block < t->unsent)
        t->unsent = block;
}

/* Squares of the cells of this rank's part of each segment; the others are zero. */
static void square(const struct trainer *t, double *cells)
{
    const struct parameters *p = t->parameters;
    const struct ranks *ranks = t->training.ranks;
    int first = RANKS_CELLS * ranks->rank / ranks->count, end = RANKS_CELLS * (ranks->rank + 1) / ranks->count;

    for (int s = 0; s < p->segments; s++) {
        const struct segment *segment = &p->segment[s];

        for (int i = first; i < end; i++) {
            int64_t from = ranks_cell(segment->count, i), to = ranks_cell(segment->count, i + 1);

            if (from < to)
                cells[s * RANKS_CELLS + i] = p->device->sum_squares(p->gradient + segment->first + from, to - from);
        }
    }
}

double exchange_finish(struct trainer *t)
{
    enum { COUNTS = 4 };         /* before the cells */
    struct ranks *ranks = t->training.ranks;
    int64_t n = COUNTS + (int64_t)t->parameters->segments * RANKS_CELLS;
    double *sums = xcalloc((size_t)n, sizeof *sums), start = clock_seconds(), squares = 0;

    exchange_send(t, 0);
    ranks->wait(ranks);
    t->seconds.waited += clock_seconds() - start;
    parameters_added(t->parameters);
    t->unsent = t->parameters->n_layer + 1;
    square(t, sums + COUNTS);
    sums[0] = t->cross;
    sums[1] = t->divergence;
    sums[2] = (double)t->counted;
    sums[3] = (double)t->tokens;
    start = clock_seconds();
    ranks->sum(ranks, sums, n);
    t->seconds.waited += clock_seconds() - start;
    t->cross = sums[0];
    t->divergence = sums[1];
    t->counted = (int64_t)sums[2];
    t->tokens = (int64_t)sums[3];
    for (int64_t i = COUNTS; i < n; i++)
        squares += sums[i];
    free(sums);
    return sqrt(squares);
}

/* Values to or from the places of their gradients. */
static void move(struct parameters *p, int64_t first, int64_t end, bool back)
{
    struct stretch s;

    for (int at = 0; parameters_stretch(p, first, end, &at, &s);) {
        float *value = s.parameter->trainable.values + s.from, *place = p->gradient + s.first;

        parameters_copy(p->device, back ? value : place, back ? place : value, s.count);
    }
}

static void update(struct trainer *t, const struct segment *segment, double rate, struct adamw *step)
{
    struct parameters *p = t->parameters;
    struct stretch s;

    for (int at = 0; parameters_stretch(p, segment->mine, segment->mine + segment->mine_count, &at, &s);) {
        int64_t moments = segment->moments + s.first - segment->mine;

        step->rate = rate * s.parameter->unit;
        step->decay = s.parameter->class & (TRAIN_CORES | TRAIN_MATRICES) ? t->training.decay : 0;
        p->device->adamw(s.parameter->trainable.values + s.from, p->gradient + s.first, p->mean + moments,
                         p->square + moments, step, s.count);
    }
}

/* New values go round in the places of gradients, which nobody needs any more. */
void exchange_update(struct trainer *t, double factor)
{
    struct parameters *p = t->parameters;
    struct ranks *ranks = t->training.ranks;
    bool shared = t->training.shard && ranks->count > 1;
    struct adamw step = {.beta1 = t->training.beta1, .beta2 = t->training.beta2, .epsilon = t->training.epsilon,
                         .factor = factor, .step = t->updates};
    double rate = training_rate(&t->training, t->step - 1), start;

    parameters_moments(p);
    for (int i = 0; i < p->segments; i++) {
        const struct segment *s = &p->segment[i];

        update(t, s, rate, &step);
        if (shared) {
            move(p, s->mine, s->mine + s->mine_count, false);
            ranks->gather_start(ranks, p->gradient + s->first, s->count);
        }
    }
    if (!shared || ranks->imagined)      /* those that are imagined send nothing */
        return;
    start = clock_seconds();
    ranks->wait(ranks);
    t->seconds.waited += clock_seconds() - start;
    for (int i = 0; i < p->segments; i++) {
        const struct segment *s = &p->segment[i];

        move(p, s->first, s->mine, true);
        move(p, s->mine + s->mine_count, s->first + s->count, true);
    }
}
