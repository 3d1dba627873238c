/* trellis.h - tiles of trellis codes: where they lie in a payload, and what they stand for.
 *
 * A format "t2-12" has a rate in bits per weight (1, 1.5, 2, 2.5, 3, 3.5, 4) and a state of 8 to 16 bits. The tensor,
 * seen as a matrix of rows as for groups, is cut into tiles of TRELLIS_TILE rows and columns (less at the lower and
 * the right edge). A tile's weights, column by column, are coded step by step: a step takes `bits` bits of the
 * payload and gives `step` weights, 1, or 2 where the rate isn't whole (the last step of an odd number of weights
 * gives 1). The codes of all steps are one number after the other, lowest bits first; the state of step t is the
 * window of `state` bits that begins at bit t * bits, and goes on with the tile's first bits behind its last ones
 * (also several times, in a very small tile). So a tile costs its rate exactly, and every weight can be had by
 * itself.
 *
 * The weight number v (0 or 1) of a step of state s is
 *
 *     w = scale / 128 * (sum of the four bytes of (s * trellis_factor[v] mod 2^32) - 510)
 *
 * with the f16 scale of its row: a sum of four nearly uniform numbers is nearly normal.
 *
 * Source of the code: the bitshift trellis and the "1MAD" values of QTIP, Tseng et al. 2024, arXiv:2406.11235,
 * sections 3.1, 3.2. Here the newest bits are the highest, so that windows are little-endian, nothing is added to the
 * product, and the factors were searched for: of random ones those with the least error, which is below that of
 * random normal values. */
#ifndef TENSOR_TRELLIS_H
#define TENSOR_TRELLIS_H

#include "tensor/tensor.h"

enum {
    TRELLIS_TILE = 16,           /* rows and columns of a tile */
    TRELLIS_WEIGHTS = 256,       /* of a whole tile: the most steps, too */
    TRELLIS_STATE_LEAST = 8,     /* bits of a state */
    TRELLIS_STATE_MOST = 16,
    TRELLIS_ONE = 128,           /* values are multiples of scale / TRELLIS_ONE */
};

extern const uint32_t trellis_factor[2];

/* The value of weight v of a step, times TRELLIS_ONE: -510 to 510. */
static inline int trellis_value(uint32_t state, int v)
{
    uint32_t h = state * trellis_factor[v];

    return (int)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510;
}

/* Where things lie: tiles in order of their rows, within these of their columns, each from a whole byte on; then, at a
 * multiple of 64 bytes, the f16 scales of all rows. */
struct trellis_layout {
    int64_t rows, length;        /* of the tensor, rows along its last axis longer than 1 */
    int64_t tile_rows, tile_columns;
    int64_t row_bytes;           /* of a row of tiles of full height */
    int64_t codes;               /* bytes of all tiles */
    int64_t scale, total;        /* offset of the scales; bytes of the payload */
};

/* False where the shape overflows. */
bool trellis_layout(struct dtype dtype, int rank, const int64_t *shape, struct trellis_layout *layout);

/* A tile: weight i of `count` is in row i % height, column i / height of it. */
struct trellis_tile {
    int height, width, count, steps;
    int64_t at;                  /* its offset in the payload */
};

struct trellis_tile trellis_tile(struct dtype dtype, const struct trellis_layout *layout, int64_t row, int64_t column);

/* state [steps]: the states of all steps, at most TRELLIS_WEIGHTS, from a tile's bytes. */
void trellis_states(struct dtype dtype, int steps, const unsigned char *packed, uint32_t *state);

/* The way back: a step's code is its state's lowest bits. Unused bits are written as zero. */
void trellis_pack(struct dtype dtype, int steps, const uint32_t *state, unsigned char *packed);

/* value [steps * step] f32: those of trellis_value(). */
void trellis_values(struct dtype dtype, int steps, const uint32_t *state, float *value);

/* What tensor_get_rows() does for a trellis format. */
void trellis_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out);

#endif
