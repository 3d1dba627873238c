/* device_cpu_permute.c - axes in another order. */
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <string.h>

enum { EDGE = 16, BAND = 64, PIECE = 1 << 14 };

/* Axes in y's order, those that stay together joined. */
struct axes {
    int count;
    int64_t size[TENSOR_RANK], step[TENSOR_RANK];        /* step: in x */
};

/* The axis that is innermost in x (b) is turned against the innermost of y (a). Where that is one and the same, runs
 * of a are copied, and b is the next one of y. The others are outer. */
struct permutation {
    const float *x;
    float *y;
    struct axes outer;
    int64_t to[TENSOR_RANK];                             /* steps of the outer axes in y */
    int64_t a, a_step, b, b_step, b_to, bands;           /* step: in x, to: in y */
    int64_t planes, piece;                               /* bands of planes, and how many of them are an item */
};

static struct axes join(int rank, const int64_t *shape, const int *axes)
{
    int64_t stride[TENSOR_RANK] = {0}, product = 1;
    struct axes joined = {0};

    for (int axis = rank - 1; axis >= 0; axis--) {
        stride[axis] = product;
        product *= shape[axis];
    }
    for (int i = 0; i < rank; i++) {
        int64_t size = shape[axes[i]], step = stride[axes[i]];
        int last = joined.count - 1;

        if (size == 1)
            continue;
        if (last >= 0 && joined.step[last] == size * step) {
            joined.size[last] *= size;
            joined.step[last] = step;
        } else {
            joined.size[joined.count] = size;
            joined.step[joined.count++] = step;
        }
    }
    return joined;
}

/* Rows b of y from columns of x, in squares that fit the first-level cache. */
static void turn(const struct permutation *p, const float *x, float *y, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i += EDGE)
        for (int64_t j = 0; j < p->a; j += EDGE)
            for (int64_t b = i; b < end && b < i + EDGE; b++)
                for (int64_t a = j; a < p->a && a < j + EDGE; a++)
                    y[b * p->b_to + a] = x[a * p->a_step + b];
}

static void permute_band(const struct permutation *p, int64_t item)
{
    int64_t band = item % p->bands * BAND, end = band + BAND < p->b ? band + BAND : p->b;
    const float *x = p->x;
    float *y = p->y;

    item /= p->bands;
    for (int axis = p->outer.count - 1; axis >= 0; axis--) {
        x += item % p->outer.size[axis] * p->outer.step[axis];
        y += item % p->outer.size[axis] * p->to[axis];
        item /= p->outer.size[axis];
    }
    if (p->a_step == 1)
        for (int64_t b = band; b < end; b++)
            memcpy(y + b * p->b_to, x + b * p->b_step, (size_t)p->a * sizeof *y);
    else
        turn(p, x, y, band, end);
}

static void permute_item(void *context, int64_t item, int thread)
{
    const struct permutation *p = context;
    int64_t end = (item + 1) * p->piece < p->planes ? (item + 1) * p->piece : p->planes;

    (void)thread;
    for (int64_t i = item * p->piece; i < end; i++)
        permute_band(p, i);
}

void cpu_permute(float *y, const float *x, int rank, const int64_t *shape, const int *axes)
{
    struct axes joined = join(rank, shape, axes);
    struct permutation p = {.x = x, .y = y, .a = 1, .b = 1, .bands = 1, .planes = 1};
    int64_t to = 1;

    for (int axis = 0; axis < rank; axis++)
        if (shape[axis] == 0)
            return;
    for (int i = joined.count - 1; i >= 0; to *= joined.size[i--]) {
        if (i == joined.count - 1) {
            p.a = joined.size[i];
            p.a_step = joined.step[i];
        } else if (joined.step[i] == 1 || (p.a_step == 1 && i == joined.count - 2)) {
            p.b = joined.size[i];
            p.b_step = joined.step[i];
            p.b_to = to;
            p.bands = (p.b + BAND - 1) / BAND;
        } else {
            p.outer.size[p.outer.count] = joined.size[i];
            p.outer.step[p.outer.count] = joined.step[i];
            p.to[p.outer.count++] = to;
            p.planes *= joined.size[i];
        }
    }
    p.planes *= p.bands;
    p.piece = p.planes * PIECE / to + 1;
    if (p.piece < p.planes)
        parallel_for((p.planes + p.piece - 1) / p.piece, permute_item, &p);
    else
        for (int64_t i = 0; i < p.planes; i++)
            permute_band(&p, i);
}
