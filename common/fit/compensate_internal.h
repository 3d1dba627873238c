/* compensate_internal.h - between the files of compensate.h.
 *
 * Everything is laid out with the rows of W as the lanes of vectors: row j of an array [n, lanes] is column j of W, for
 * all its rows. Rows don't know each other, so inner work is cut into tiles of LANES of them. */
#ifndef FIT_COMPENSATE_INTERNAL_H
#define FIT_COMPENSATE_INTERNAL_H

#include "fit/compensate.h"

enum { LANES = 32 };             /* rows of a tile */
enum { COLUMNS = 64 };           /* columns of a block */

/* The inner loops are compiled for several instruction sets, the best is chosen when the program starts. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif

/* Of the mean diagonal: as usual for this method. */
#define DAMPING .01

struct feedback {
    const struct moments *h;     /* borrowed */
    int64_t n;
    float *weight;               /* [n] damped diagonal over its mean: for the scale search */
    int64_t block;               /* columns that follow on one another in order */
    int64_t *order;              /* [n] the k-th column to be rounded */
    float *factor;               /* [n, n] row k: U[i, k], i < k, of H + damping = (U + 1) D (U + 1)' in that order */
};

/* A matrix on its way to codes. A value is scale * code + offset, as stored. */
struct rounding {
    struct dtype dtype;
    int64_t rows, n, lanes;      /* lanes: rows rounded up to whole tiles; what is beyond is zero */
    int64_t group, groups;
    float most;                  /* the largest code */
    float *w;                    /* [n, lanes] */
    float *difference;           /* [n, lanes] W - W' */
    unsigned char *code;         /* [n, lanes] */
    float *scale, *offset;       /* [groups, lanes] */
    float *scale_factor, *offset_factor;     /* [supers, lanes] of integer scales; else NULL */
};

/* The code whose value is nearest. */
static inline float nearest_code(float value, float inverse, float offset, float most)
{
    float code = (value - offset) * inverse;

    code = code > 0 ? code : 0;
    code = code < most ? code : most;
    return (float)(int)(code + 0.5f);
}

static inline float inverse_scale(float scale)
{
    return scale != 0 ? 1 / scale : 0;
}

/* The numbers that a scale or an offset can be: f16, or with a factor 0..most times that. */
struct grid {
    float factor, most;          /* most 0: f16 */
};

struct grid scale_grid(const struct rounding *r, int64_t group, int64_t lane);
struct grid offset_grid(const struct rounding *r, int64_t group, int64_t lane);
float grid_round(struct grid grid, float value);

/* The offset that goes with a scale: zero points of ZERO_INT and the fixed one of ZERO_NONE are whole codes. */
static inline float zero_of(const struct rounding *r, float scale, float offset)
{
    if (r->dtype.zero == ZERO_NONE)
        return (float)(1 << (r->dtype.bits - 1));
    return scale != 0 ? __builtin_rintf(-offset / scale) : 0;
}

/* compensate() with so many refining passes. */
int compensate_passes(const float *w, const struct feedback *feedback, int passes, struct dtype dtype, int rank,
                      const int64_t *shape, const char *name, struct tensor *to, struct compensated *result);

/* Scales and offsets of all groups: the least squared error of single values, weighted by weight [n]. False where one
 * can't be stored. */
bool compensate_search(struct rounding *r, const float *weight);

/* Codes and difference: nearest to W. */
void compensate_nearest(struct rounding *r);

/* Codes and difference with feedback. */
void compensate_feedback(struct rounding *r, const struct feedback *feedback);

/* Passes over all columns that re-choose codes, scales and offsets where tr(D H D') falls. */
void compensate_refine(struct rounding *r, const struct moments *h, int passes);

/* tr(X H X') of x [n, lanes]; h NULL stands for the identity. */
double compensate_error(const struct rounding *r, const struct moments *h, const float *x);

/* weight [n] = diagonal / its mean + damping; returns the mean, or 1 where that is 0. */
double moments_weight(const struct moments *h, double damping, float *weight);

#endif
