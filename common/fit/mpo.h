/* mpo.h - fits a matrix product operator to a matrix by successive truncated SVDs (TT-SVD). */
#ifndef FIT_MPO_H
#define FIT_MPO_H

#include "fit/shape.h"
#include "tensor/tensor.h"

/* What limits the bonds. */
enum mpo_limit {
    MPO_CHI,                     /* chi; with a free shape: chi * (out + in) parameters in all */
    MPO_KEEP,                    /* part * out * in parameters in all */
    MPO_TOLERANCE,               /* |W - W'|_F <= part * |W|_F, the fewest bonds that do, or nearly (large W) */
};

struct mpo_budget {
    enum mpo_limit limit;
    int64_t chi;                 /* of MPO_CHI, 1 or more */
    double part;                 /* of MPO_KEEP and MPO_TOLERANCE, above 0 */
    bool exact;                  /* LAPACK's SVD in double */
    uint64_t seed;
};

/* The chi that a budget gives a shape, 1 or more: free for a shape that stands among others in mpo_fit_any(). Not for
 * MPO_TOLERANCE. */
int64_t mpo_chi(const struct mpo_shape *shape, const struct mpo_budget *budget, bool free);

struct mpo {
    struct mpo_shape shape;
    int64_t bond[MPO_SITES + 1]; /* bond[0] = bond[n_site] = 1 */
    struct tensor core[MPO_SITES];   /* f32 [bond[k], out[k], in[k], bond[k+1]], owned */
    double norm;                 /* |W|_F */
    double eps[MPO_SITES];       /* eps[k], k = 1..n_site-1: what the cut before site k discards, absolute */
    bool clipped;                /* a bond is smaller than asked for, since its cut has no higher rank */
    int tried;                   /* shapes that were tried */
};

/* Factors w [prod out, prod in] f32 row-major into n_site cores; w is put into site order for the time of the fit,
 * and is as it was at the end. All cores but the last are left-canonical (orthonormal columns seen as [bond[k]
 * out[k] in[k], bond[k+1]]). What the cuts discard is mutually orthogonal, so |W - W'|^2 = sum_k eps[k]^2 up to
 * rounding, and at most that in theory. name stands in messages. EX_DATAERR where w isn't finite, EX_SOFTWARE
 * where an SVD doesn't converge; then *mpo is empty. Memory besides w: see svd.h and reorder.h.  Oseledets, SIAM
 * J. Sci. Comput. 33 (2011), algorithm 1. */
int mpo_fit(float *w, const char *name, const struct mpo_shape *shape, const struct mpo_budget *budget,
            struct mpo *mpo);

/* The same for w [out, in] with n_site sites of the shape that fits best among shape_candidates(): the least error
 * within the budget, or for MPO_TOLERANCE the fewest parameters. Shapes are compared by a quick look at each, and
 * the best is fitted: about 2.5 times the time of one fit. */
int mpo_fit_any(float *w, int64_t out, int64_t in, const char *name, int n_site, const struct mpo_budget *budget,
                struct mpo *mpo);

int64_t mpo_parameters(const struct mpo *mpo);

/* sqrt(sum_k eps_k^2) / norm; 0 for a zero matrix. */
double mpo_error(const struct mpo *mpo);

void mpo_free(struct mpo *mpo);

#endif
