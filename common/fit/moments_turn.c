/* moments_turn.c - T H T' from both sides. */
#include "fit/moments_turn.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"

#include <stdlib.h>

enum { TILE = 64 };

struct square {
    float *full;
    int64_t n;
};

/* Tile row item against all tiles behind it: each pair of tiles belongs to one item. */
static void transpose_tiles(void *context, int64_t item, int thread)
{
    const struct square *s = context;
    int64_t from = item * TILE, to = least(from + TILE, s->n);

    (void)thread;
    for (int64_t i = from; i < to; i++)
        for (int64_t j = i + 1; j < s->n; j++) {
            float *a = &s->full[i * s->n + j], *b = &s->full[j * s->n + i], kept = *a;

            *a = *b;
            *b = kept;
        }
}

struct packing {
    const float *full;
    float *packed;
    int64_t n;
};

/* Turned from both sides the two triangles differ by rounding: their mean. */
static void pack_rows(void *context, int64_t item, int thread)
{
    const struct packing *p = context;
    int64_t from = item * TILE, to = least(from + TILE, p->n);

    (void)thread;
    for (int64_t i = from; i < to; i++)
        for (int64_t j = 0; j <= i; j++)
            p->packed[i * (i + 1) / 2 + j] = (p->full[i * p->n + j] + p->full[j * p->n + i]) / 2;
}

void moments_turn(const struct moments *h, struct transform transform, int64_t width, struct moments *turned)
{
    int64_t n = h->n, tiles = divide_up(n, TILE);
    float *full = xaligned((size_t)(n * n), sizeof *full);

    *turned = (struct moments){.n = n, .tokens = h->tokens};
    turned->packed = xaligned((size_t)(n * (n + 1) / 2), sizeof *turned->packed);
    moments_full(h, full);
    for (int side = 0; side < 2; side++) {
        transform_rows(transform, full, n * (n / width), width);
        if (side == 0)
            parallel_for(tiles, transpose_tiles, &(struct square){full, n});
    }
    parallel_for(tiles, pack_rows, &(struct packing){full, turned->packed, n});
    free(full);
}
