/* als_internal.h - what the sweeps of als.c and the solvers of als_solve.c share. */
#ifndef FIT_ALS_INTERNAL_H
#define FIT_ALS_INTERNAL_H

#include "fit/aware.h"

/* A chain in the middle of a sweep. With M rows of the chain left of site k and N columns right of it, W' in site order
 * is left[k] [M, bond k] times core k [bond k, out k, in k, bond k+1] times right[k] [bond k+1, N]. */
struct sweep {
    const float *w;
    const struct moments *h;     /* NULL: the identity */
    struct mpo *mpo;
    int64_t out, in;
    float *full;                 /* H [in, in] */
    float *left[MPO_SITES], *right[MPO_SITES];
    float *gap;                  /* (W - W') H in matrix order [out, in] */
    float *work[2];              /* [out, in] */
    double objective;            /* tr((W - W') H (W - W')') */
};

/* The sizes around site k. */
struct site {
    int64_t before, after;       /* M and N */
    int64_t a, o, i, b;          /* the core's shape */
    int64_t count;               /* of numbers in it */
    bool left_first;             /* the order of contraction that costs less */
};

struct site site_of(const struct sweep *s, int k);

/* to [out, in] in matrix order: W' with x in place of core k. */
void als_build(const struct sweep *s, int k, const float *x, float *to);

/* x, of the core's shape: the derivative of <z, W'> by core k; z [out, in] in matrix order is destroyed. */
void als_project(const struct sweep *s, int k, float *z, float *x);

/* step, of the core's shape: about what minimises the objective when it is added to core k, with gradient that of the
 * objective (halved, negative). */
void als_solve(const struct sweep *s, int k, const float *gradient, float *step);

#endif
