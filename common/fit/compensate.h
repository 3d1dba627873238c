/* compensate.h - rounding to a packed format that minimises the change of a layer's output: scale and offset of each
 * group by a search on the weighted squared error, then rounding column by column, each rounding error made up for by
 * the columns that are still to come (Frantar et al., GPTQ, arXiv:2210.17323; as LDL feedback: Chee et al., QuIP,
 * arXiv:2307.13304, theorem 6), columns of large moments first, then passes that re-choose codes and scales where
 * that lowers the error.
 *
 * Trellis formats: the same with blocks of 16 columns (Tseng et al., QuIP#, arXiv:2402.04396, section 4.2), each tile
 * by Viterbi's search (compute/trellis.h), then the scale of each row of least error for its codes. */
#ifndef FIT_COMPENSATE_H
#define FIT_COMPENSATE_H

#include "fit/moments.h"
#include "tensor/tensor.h"

/* What H gives to all matrices that see the same input: made once. */
struct feedback;

/* The factor of H + damping * mean diagonal * I, columns in the order of descending diagonal, or, with a block of
 * more than 1, blocks of so many neighbours in the order of its descending sum: a Cholesky factor in place, in
 * double, n^2 doubles beside H; n^3 / 3 operations in parallel tiles. damping 0: the default (.01). EX_DATAERR where
 * H isn't finite, EX_SOFTWARE where it can't be factored with the damping. */
int feedback_new(const struct moments *h, double damping, struct feedback **feedback);
int feedback_new_blocks(const struct moments *h, double damping, int64_t block, struct feedback **feedback);

/* The block that compensate() needs for a format: TRELLIS_TILE for a trellis. Any block will do for groups. */
int64_t feedback_block(struct dtype dtype);
void feedback_free(struct feedback *feedback);           /* NULL is allowed */

struct compensated {
    double error;                /* tr((W - W') H (W - W')') of what is stored */
    double norm;                 /* tr(W H W') */
};

/* w [rows, n] f32 (only read) into the packed tensor *to, allocated here with this dtype and shape (rank 2 to 4, its
 * rows along the last axis longer than 1 being the rows of w). Scales and offsets are those of the format, as stored
 * (f16, or super-blocks). EX_DATAERR where a value isn't finite or a scale overflows. Results don't depend on
 * threads. About 2 rows n^2 operations for rounding, and about as many per refining pass. */
int compensate(const float *w, const struct feedback *feedback, struct dtype dtype, int rank, const int64_t *shape,
               const char *name, struct tensor *to, struct compensated *result);

/* The same for a trellis format, with feedback by blocks; NULL: none, and error and norm are plain squares. */
int compensate_trellis(const float *w, const struct feedback *feedback, struct dtype dtype, int rank,
                       const int64_t *shape, const char *name, struct tensor *to, struct compensated *result);

/* Scale search alone, weighted by the diagonal of H (NULL: plain squared error); round to nearest. Same otherwise;
 * feedback may be NULL, then error and norm are plain squares. */
int search_nearest(const float *w, const struct moments *h, struct dtype dtype, int rank, const int64_t *shape,
                   const char *name, struct tensor *to, struct compensated *result);

#endif
