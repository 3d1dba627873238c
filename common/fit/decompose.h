/* decompose.h - an operator that is a matrix becomes one of several cores, where that saves bytes. */
#ifndef FIT_DECOMPOSE_H
#define FIT_DECOMPOSE_H

#include "base/file.h"
#include "fit/moments.h"
#include "fit/mpo.h"
#include "operator/difference.h"

struct decomposition {
    struct mpo_budget budget;
    int sites;                   /* of a free shape */
    struct mpo_shape shape;      /* n_site 0: free, the best of several (mpo_fit_any()) */
    struct dtype dtype;          /* of the cores: f32, f16, bf16 */
    bool force;                  /* also where it doesn't save bytes, and where the operator is compressed already */
    /* What the layer sees: outputs are to change least (fit/aware.h). NULL: the weights are. With cross moments and
     * held-out ones the sequential target is tried too, and taken where it does better held out. */
    const struct moment_set *moments;
};

/* What became of it. */
struct decomposed {
    bool done;                   /* false: left as it is, and said so by note() */
    struct mpo_shape shape;
    int64_t parameters;          /* stored in the cores */
    struct difference difference;    /* of W and what the rounded cores give */
    double error, norm;          /* tr((W - W') H (W - W')') of the rounded cores, tr(W H W'); H = 1 without moments */
    bool sequential;             /* the sequential target was taken; error is to W all the same */
};

/* Decomposes op in place. Bytes are compared with the smaller of its payload and 2 bytes per weight. A tolerance, of
 * the weighted error where there are moments, holds for the cores as stored, or op is kept. Memory: W in f32 once (in
 * place of a plain payload), and what the fit takes (see mpo.h, aware.h). EX_DATAERR after a message where the shape
 * isn't its shape, values aren't finite or the dtype can't hold the cores; EX_SOFTWARE. Then op is as it was. */
int decompose(struct operator *op, const struct decomposition *how, struct decomposed *result);

/* Adds a term to op: a fit of what dense W [out, in] is above it, in the coordinates between its transforms. Budgets
 * are those of the term alone; a tolerance is one of the whole, relative to W. Nothing is added, and note() says so,
 * where a tolerance holds already or can't be held, or (unless forced) the term would be as large as W at 2 bytes. In
 * result parameters are those of the term, errors those of the whole. Memory: dense, W twice more, with a transform
 * moments in full. Exit codes as above. */
int decompose_residual(struct operator *op, const float *dense, const struct decomposition *how,
                       struct decomposed *result);

/* Lines of a curve (fit/curve.h): what decompose() in the matrix grouping with each of the budgets would lead to, and
 * op kept as it is; one eigenproblem gives all. Budgets are chi or keep; errors are those before rounding to the cores'
 * dtype. Lines are fixed ones where op would be left alone. */
int decompose_curve(const struct operator *op, const struct decomposition *how, const struct mpo_budget *budgets,
                    int count, struct output *output);

#endif
