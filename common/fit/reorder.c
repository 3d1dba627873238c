/* reorder.c - the permutation to site order, in place.
 *
 * For fixed o1 the rows (o1, all o2...) and the destinations (o1, all i1, ...) are the same contiguous memory. So
 * site 1 needs only a transposition [O, i1] -> [i1, O] of runs of I elements within each of o1 blocks (O and I:
 * the products of what follows); then each (o1, i1) is a contiguous [O, I] block of its own, and site 2 is handled
 * alike. */
#include "fit/reorder.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <stdlib.h>
#include <string.h>

/* blocks blocks of [rows, columns, run], each to become [columns, rows, run]. */
struct level {
    float *w, *space;
    int64_t blocks, rows, columns, run;
    int64_t block;                          /* the one under way, where the threads share one */
};

static int64_t block_size(const struct level *level)
{
    return level->rows * level->columns * level->run;
}

/* out = column c of a block: its rows * run elements. */
static void gather(const struct level *level, const float *block, int64_t c, float *out)
{
    int64_t step = level->columns * level->run;

    if (level->run == 1)
        for (int64_t r = 0; r < level->rows; r++)
            out[r] = block[c + r * step];
    else
        for (int64_t r = 0; r < level->rows; r++)
            memcpy(out + r * level->run, block + c * level->run + r * step, (size_t)level->run * sizeof *out);
}

static void block_item(void *context, int64_t item, int thread)
{
    const struct level *level = context;
    float *block = level->w + item * block_size(level), *space = level->space + (int64_t)thread * block_size(level);

    for (int64_t c = 0; c < level->columns; c++)
        gather(level, block, c, space + c * level->rows * level->run);
    memcpy(block, space, (size_t)block_size(level) * sizeof *block);
}

static void shared_gather(void *context, int64_t c, int thread)
{
    const struct level *level = context;

    (void)thread;
    gather(level, level->w + level->block * block_size(level), c, level->space + c * level->rows * level->run);
}

static void shared_store(void *context, int64_t c, int thread)
{
    const struct level *level = context;
    int64_t length = level->rows * level->run;

    (void)thread;
    memcpy(level->w + level->block * block_size(level) + c * length, level->space + c * length,
           (size_t)length * sizeof(float));
}

/* Follows each cycle of the permutation with one run in hand: no temporary of the block's size. */
static void follow_cycles(const struct level *level)
{
    int64_t rows = level->rows, columns = level->columns, count = rows * columns;
    size_t size = (size_t)level->run * sizeof(float);
    unsigned char *seen = xcalloc((size_t)(count / 8 + 1), 1);
    float *hand = xmalloc(size), *at = level->w;

    for (int64_t start = 0; start < count; start++) {
        int64_t to = start;

        if (seen[to / 8] >> to % 8 & 1)
            continue;
        memcpy(hand, at + start * level->run, size);
        for (;;) {
            int64_t from = to % rows * columns + to / rows;        /* place (c, r) takes the run (r, c) */

            seen[to / 8] |= (unsigned char)(1 << to % 8);
            if (from == start)
                break;
            memcpy(at + to * level->run, at + from * level->run, size);
            to = from;
        }
        memcpy(at + to * level->run, hand, size);
    }
    free(seen);
    free(hand);
}

static void transpose(struct level *level)
{
    int64_t threads = parallel_threads();

    if (level->rows == 1 || level->columns == 1)
        return;
    if (level->blocks == 1) {
        follow_cycles(level);
        return;
    }
    if (threads * 4 <= level->blocks) {
        level->space = xaligned((size_t)(threads * block_size(level)), sizeof(float));
        parallel_for(level->blocks, block_item, level);
    } else {
        level->space = xaligned((size_t)block_size(level), sizeof(float));
        for (level->block = 0; level->block < level->blocks; level->block++) {
            parallel_for(level->columns, shared_gather, level);
            parallel_for(level->columns, shared_store, level);
        }
    }
    free(level->space);
    level->space = NULL;
}

/* The transposition of site k; back is the inverse one. */
static void transpose_site(float *w, const struct mpo_shape *shape, int k, bool back)
{
    struct level level = {.w = w, .blocks = 1, .rows = 1, .run = 1};

    for (int s = 0; s < k; s++)
        level.blocks *= shape->out[s] * shape->in[s];
    level.blocks *= shape->out[k];
    for (int s = k + 1; s < shape->n_site; s++) {
        level.rows *= shape->out[s];
        level.run *= shape->in[s];
    }
    level.columns = shape->in[k];
    if (back) {
        level.columns = level.rows;
        level.rows = shape->in[k];
    }
    transpose(&level);
}

void reorder_sites(float *w, const struct mpo_shape *shape)
{
    for (int k = 0; k < shape->n_site - 1; k++)
        transpose_site(w, shape, k, false);
}

void reorder_matrix(float *w, const struct mpo_shape *shape)
{
    for (int k = shape->n_site - 2; k >= 0; k--)
        transpose_site(w, shape, k, true);
}
