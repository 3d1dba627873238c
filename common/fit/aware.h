/* aware.h - low-rank and MPO fits that minimise the change of a layer's output, tr((W - W') H (W - W')') with the
 * second moments H = E[x x'] of its input. */
#ifndef FIT_AWARE_H
#define FIT_AWARE_H

#include "fit/moments.h"
#include "fit/mpo.h"

/* The matrix grouping, exact: W' = U V of the rank asked for (clipped to min(out, in)), u [out, rank], v [rank, in] =
 * U' W. Columns of U are orthonormal and in the order of what they explain, so that a smaller rank is a prefix.
 * Singular H is no problem; where no input goes the plain error decides. (Wang et al., SVD-LLM, arXiv:2403.07378, by
 * another way: see aware.c.) *error is tr((W - W')H(W - W')') in double. h NULL stands for the identity. 2 out in^2
 * operations in double and an eigenproblem of size min(out, in); besides w and h, W in double (of a tall W, 16 in^2
 * bytes), 40 min(out, in)^2 bytes and some bands of H. EX_DATAERR where W isn't finite, EX_SOFTWARE. */
int aware_low_rank(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name, int64_t rank,
                   float *u, float *v, double *error);

/* error[r] for r = 0..min(out, in): of the best rank r, from one decomposition without vectors. */
int aware_errors(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name, double *error);

/* Any number of sites and any shape: starts from *mpo (a TT-SVD fit of w) and sweeps alternating least squares over its
 * cores, each solved directly where that is small, otherwise by conjugate gradients matrix-free, each step about
 * 2 out in^2 operations. The objective never rises. Before and after are stored. Bonds stay; mpo->eps isn't kept.
 * Besides w, H in full and five times W. h NULL: the identity. EX_DATAERR where numbers aren't finite, EX_SOFTWARE. */
struct als {
    int sweeps;                  /* the most of them; 0: until one gains less than 2e-3 of the objective, at most 8 */
    double before, after;        /* tr((W - W') H (W - W')') */
};
int aware_als(const float *w, const struct moments *h, const char *name, struct mpo *mpo, struct als *als);

/* Whether a shape is the matrix grouping. */
bool aware_is_exact(const struct mpo_shape *shape);

/* Moves powers of two between column r of u [out, rank] and row r of v [rank, in], so that both have about the same
 * mean square: no digit changes, and neither end of f16 is near. */
void aware_balance(float *u, float *v, int64_t out, int64_t in, int64_t rank);

/* What mpo_fit() and, with n_site 0 in shape, mpo_fit_any() do, for the outputs of the layer: the matrix grouping
 * exactly (and balanced), other shapes by TT-SVD and aware_als(). A free shape of two sites is the matrix grouping; of
 * more, the candidate with the least weighted error. A tolerance is one of sqrt(tr((W - W') H (W - W')') / tr(W H W'));
 * other shapes than the matrix grouping come to it by some fits with plain tolerances. mpo->eps isn't set; *error is
 * tr((W - W') H (W - W')'), *norm tr(W H W'). w is as it was at the end. h NULL: the identity. */
int aware_fit(float *w, int64_t out, int64_t in, const char *name, const struct mpo_shape *shape, int n_site,
              const struct mpo_budget *budget, const struct moments *h, struct mpo *mpo, double *error, double *norm);

/* Whether a set has what the sequential target and the choice by held-out error need: cross moments of both kinds. NULL
 * is allowed. */
bool aware_has_reference(const struct moment_set *set);

/* The damping that the fits use for it. */
extern const double aware_damping;

/* Sequential target, for inputs x~ of a compressed prefix and x of the dense model: target [out, in] = W C (H +
 * lambda)^-1, which makes up for what the prefix changed; lambda = damping * mean diagonal of H, damping where that is
 * 0. w may be target. 8 in^2 bytes. EX_DATAERR where H + lambda can't be inverted. */
int aware_target(const float *w, int64_t out, const struct moment_set *set, double damping, float *target);

/* E |W x - W' x~|^2 over the held-out sequences of a set with a reference, less what doesn't depend on W' (so it may be
 * negative): for comparing fits. */
double aware_held_out(const float *w, const float *fitted, int64_t out, const struct moment_set *set);

#endif
