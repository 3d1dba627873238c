/* difference.c - compares operators in bands of rows, each summed by itself and then in order. */
#include "operator/difference.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double difference_error(const struct difference *d)
{
    return d->squares == 0 ? 0 : sqrt(d->squares / d->norm);
}

static void note_worst(struct difference *d, double gap, int64_t index, float a, float b)
{
    double known = fabs((double)d->worst_a - d->worst_b);

    if (d->unequal > 1 && (isnan(known) || !(isnan(gap) || gap > known)))
        return;
    d->worst = index;
    d->worst_a = a;
    d->worst_b = b;
}

void difference_add(struct difference *d, const float *a, const float *b, int64_t count, int64_t first)
{
    double norm = 0, squares = 0;

    for (int64_t i = 0; i < count; i++) {
        norm += (double)a[i] * a[i];
        if (a[i] != b[i] && memcmp(a + i, b + i, sizeof *a)) {
            double gap = fabs((double)a[i] - b[i]);

            squares += gap * gap;
            d->unequal++;
            note_worst(d, gap, first + i, a[i], b[i]);
        }
    }
    d->norm += norm;
    d->squares += squares;
}

static void join(struct difference *sum, const struct difference *part)
{
    sum->norm += part->norm;
    sum->squares += part->squares;
    if (!part->unequal)
        return;
    sum->unequal += part->unequal;
    if (sum->unequal == part->unequal)
        sum->worst = part->worst, sum->worst_a = part->worst_a, sum->worst_b = part->worst_b;
    else
        note_worst(sum, fabs((double)part->worst_a - part->worst_b), part->worst, part->worst_a, part->worst_b);
}

struct comparison {
    const struct operator *a, *b;
    const float *whole_a, *whole_b;      /* W in full where the operator isn't a matrix */
    int64_t band;
    struct difference *part;
};

static const float *band_of(const struct operator *op, const float *whole, int64_t first, int64_t rows, float *room)
{
    if (whole)
        return whole + first * op->in;
    operator_rows(op, first, rows, room);
    return room;
}

static void compare_band(void *context, int64_t item, int thread)
{
    struct comparison *c = context;
    int64_t first = item * c->band, rows = c->a->out - first < c->band ? c->a->out - first : c->band;
    float *room = xaligned((size_t)(2 * rows * c->a->in), sizeof *room);

    (void)thread;
    difference_add(&c->part[item], band_of(c->a, c->whole_a, first, rows, room),
                   band_of(c->b, c->whole_b, first, rows, room + rows * c->a->in), rows * c->a->in, first * c->a->in);
    free(room);
}

static float *whole_of(const struct operator *op)
{
    float *w = operator_is_matrix(op) ? NULL : xaligned((size_t)(op->out * op->in), sizeof *w);

    if (w)
        operator_dense(op, w);
    return w;
}

struct difference operator_difference(const struct operator *a, const struct operator *b)
{
    struct difference sum = {0};
    struct comparison c = {.a = a, .b = b, .band = a->in > 65536 ? 1 : 65536 / (a->in ? a->in : 1) + 1};
    int64_t bands = (a->out + c.band - 1) / c.band;
    float *whole_a = whole_of(a), *whole_b = whole_of(b);

    c.whole_a = whole_a;
    c.whole_b = whole_b;
    c.part = xcalloc((size_t)bands, sizeof *c.part);
    parallel_for(bands, compare_band, &c);
    for (int64_t i = 0; i < bands; i++)
        join(&sum, &c.part[i]);
    free(c.part);
    free(whole_a);
    free(whole_b);
    return sum;
}
