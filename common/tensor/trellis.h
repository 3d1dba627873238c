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
 *     w = scale / 64 * trellis_level[the 7 highest of the `state` lowest bits of s * trellis_factor(v)]
 *
 * with the f16 scale of its row. The levels are the quantiles of a normal distribution, so the values of all states
 * are nearly normal; a state's lower bits choose among near levels, its newest bits, which are the highest, move it by
 * halves, quarters, eighths of the 128: the codes of a step are spread over the levels, whatever came before.
 *
 * Source of the trellis: QTIP, Tseng et al. 2024, arXiv:2406.11235, section 3.1, with a small table as in its section
 * 3.2; levels that the newest bits partition evenly: Ungerboeck 1982, IEEE Trans. Inf. Theory 28, and Marcellin and
 * Fischer 1990, IEEE Trans. Commun. 38. The factors are those of all odd ones (of some hundred random
 * ones or more where there are many) that gave normal numbers the least error, in rounds of fewer factors and more
 * numbers, the last of which no factor was chosen by: so measured, the errors are below those of a table of 2^state
 * normal numbers. 16-bit products and one look-up of bytes decode 64 weights in ten AVX-512 instructions. */
#ifndef TENSOR_TRELLIS_H
#define TENSOR_TRELLIS_H

#include "tensor/tensor.h"

enum {
    TRELLIS_TILE = 16,           /* rows and columns of a tile */
    TRELLIS_WEIGHTS = 256,       /* of a whole tile: the most steps, too */
    TRELLIS_STATE_LEAST = 8,     /* bits of a state */
    TRELLIS_STATE_MOST = 16,
    TRELLIS_STATES = TRELLIS_STATE_MOST - TRELLIS_STATE_LEAST + 1,
    TRELLIS_ONE = 64,            /* values are multiples of scale / TRELLIS_ONE */
    TRELLIS_LEVELS = 128, TRELLIS_INDEX = 7,     /* bits of the number of a level */
};

/* By rate in half bits, 2 to 8, and bits of a state, from 8 on; odd, below 2^state; the second where a step has two
 * weights. */
extern const uint16_t trellis_factors[9][TRELLIS_STATES][2];

static inline uint16_t trellis_factor(struct dtype dtype, int v)
{
    return trellis_factors[2 * dtype.bits / dtype.step][dtype.state - TRELLIS_STATE_LEAST][v];
}

/* Odd numbers from -255 to 255, ascending; the deviation of all is that of TRELLIS_SPREAD. */
extern const int16_t trellis_level[TRELLIS_LEVELS];
#define TRELLIS_SPREAD 95.55

/* The value of weight v of a step of state `state`, times TRELLIS_ONE. */
static inline int trellis_value(struct dtype dtype, uint32_t state, int v)
{
    uint32_t h = state * trellis_factor(dtype, v) & ((1u << dtype.state) - 1);

    return trellis_level[h >> (dtype.state - TRELLIS_INDEX)];
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

/* What scales_get_units() and scales_get() do for one: weights of scale 1, and the scales of all rows. */
void trellis_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit);
void trellis_get_scales(const struct tensor *tensor, float *scale);

#endif
