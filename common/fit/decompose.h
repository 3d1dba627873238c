/* decompose.h - an operator that is a matrix becomes one of several cores, where that saves bytes. */
#ifndef FIT_DECOMPOSE_H
#define FIT_DECOMPOSE_H

#include "fit/mpo.h"
#include "operator/difference.h"

struct decomposition {
    struct mpo_budget budget;
    int sites;                   /* of a free shape */
    struct mpo_shape shape;      /* n_site 0: free, the best of several (mpo_fit_any()) */
    struct dtype dtype;          /* of the cores: f32, f16, bf16 */
    bool force;                  /* also where it doesn't save bytes, and where the operator is compressed already */
};

/* What became of it. */
struct decomposed {
    bool done;                   /* false: left as it is, and said so by note() */
    struct mpo_shape shape;
    int64_t parameters;          /* stored in the cores */
    struct difference difference;    /* of W and what the rounded cores give */
};

/* Decomposes op in place. Bytes are compared with the smaller of its payload and 2 bytes per weight. A tolerance
 * holds for the cores as stored, or op is kept. Memory: W in f32 once (in place of a plain payload), and what the
 * fit takes (see mpo.h). EX_DATAERR after a message where the shape isn't its shape, values aren't finite or the
 * dtype can't hold the cores; EX_SOFTWARE. Then op is as it was. */
int decompose(struct operator *op, const struct decomposition *how, struct decomposed *result);

#endif
