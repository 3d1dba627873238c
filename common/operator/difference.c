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

void difference_join(struct difference *sum, const struct difference *part)
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

/* A band of rows, cut into pieces of about this many numbers. */
enum { PIECE = 1 << 16 };

struct comparison {
    const float *a, *b;
    int64_t count, first;
    struct difference *part;
};

static void compare_piece(void *context, int64_t item, int thread)
{
    const struct comparison *c = context;
    int64_t at = item * PIECE;

    (void)thread;
    difference_add(&c->part[item], c->a + at, c->b + at, c->count - at < PIECE ? c->count - at : PIECE, c->first + at);
}

/* The sums of the pieces are joined in order, so they don't depend on the number of threads. */
static void compare_band(struct difference *sum, const float *a, const float *b, int64_t count, int64_t first)
{
    int64_t pieces = (count + PIECE - 1) / PIECE;
    struct comparison c = {a, b, count, first, xcalloc((size_t)pieces, sizeof *c.part)};

    parallel_for(pieces, compare_piece, &c);
    for (int64_t i = 0; i < pieces; i++)
        difference_join(sum, &c.part[i]);
    free(c.part);
}

struct difference operator_difference(const struct operator *a, const struct operator *b)
{
    struct difference sum = {0};
    struct contraction ca, cb;
    int64_t step, step_b;
    float *room;

    contraction_begin(&ca, a);
    contraction_begin(&cb, b);
    step = contraction_step(&ca);
    step_b = contraction_step(&cb);
    /* Both must get whole bands: the larger step if it is made of the other's bands, all rows otherwise. */
    step = step % cb.band == 0 ? step : step_b % ca.band == 0 ? step_b : a->out;
    room = xaligned((size_t)(2 * step * a->in), sizeof *room);
    for (int64_t first = 0; first < a->out; first += step) {
        int64_t rows = a->out - first < step ? a->out - first : step;

        contraction_rows(&ca, first, rows, room);
        contraction_rows(&cb, first, rows, room + rows * a->in);
        compare_band(&sum, room, room + rows * a->in, rows * a->in, first * a->in);
    }
    free(room);
    contraction_end(&ca);
    contraction_end(&cb);
    return sum;
}

struct difference operator_difference_from(const float *w, const struct operator *op)
{
    struct difference sum = {0};
    struct contraction c;
    int64_t step;
    float *room;

    contraction_begin(&c, op);
    step = contraction_step(&c);
    room = xaligned((size_t)(step * op->in), sizeof *room);
    for (int64_t first = 0; first < op->out; first += step) {
        int64_t rows = op->out - first < step ? op->out - first : step;

        contraction_rows(&c, first, rows, room);
        compare_band(&sum, w + first * op->in, room, rows * op->in, first * op->in);
    }
    free(room);
    contraction_end(&c);
    return sum;
}
