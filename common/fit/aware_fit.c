/* aware_fit.c - a chain of a given or of the best shape within a budget, for the outputs of a layer. */
#include "fit/aware_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 7 };             /* fits to a tolerance, at most */

struct task {
    float *w;
    int64_t out, in;
    const char *name;
    const struct mpo_budget *budget;
    const struct moments *h;
    double *norm;                /* tr(W H W'), once a fit knows it; below 0: not yet */
};

bool aware_is_exact(const struct mpo_shape *shape)
{
    return shape->n_site == 2 && shape->in[0] == 1 && shape->out[1] == 1;
}

void aware_balance(float *u, float *v, int64_t out, int64_t in, int64_t rank)
{
    for (int64_t r = 0; r < rank; r++) {
        double left = 0, right = 0;
        int shift;

        for (int64_t i = 0; i < out; i++)
            left += (double)u[i * rank + r] * u[i * rank + r] / (double)out;
        for (int64_t j = 0; j < in; j++)
            right += (double)v[r * in + j] * v[r * in + j] / (double)in;
        if (!(left > 0 && right > 0))
            continue;
        shift = (int)lrint(log2(right / left) / 4);
        for (int64_t i = 0; i < out; i++)
            u[i * rank + r] = ldexpf(u[i * rank + r], shift);
        for (int64_t j = 0; j < in; j++)
            v[r * in + j] = ldexpf(v[r * in + j], -shift);
    }
}

/* The rank that a budget gives. */
static int rank_of(const struct task *t, const struct mpo_shape *shape, bool free_shape, int64_t *rank)
{
    int64_t side = least(t->out, t->in);
    double *error, most;
    int rc;

    if (t->budget->limit != MPO_TOLERANCE) {
        *rank = mpo_chi(shape, t->budget, free_shape);
        return EX_OK;
    }
    error = xmallocarray((size_t)side + 1, sizeof *error);
    rc = aware_errors(t->w, t->out, t->in, t->h, t->name, error);
    most = t->budget->part * t->budget->part * error[0];
    for (*rank = 1; !rc && *rank < side && error[*rank] > most; ++*rank)
        continue;
    free(error);
    return rc;
}

static int fit_low_rank(const struct task *t, const struct mpo_shape *shape, bool free_shape, struct mpo *mpo,
                        double *error)
{
    int64_t side = least(t->out, t->in), rank;
    float *u, *v;
    int rc = rank_of(t, shape, free_shape, &rank);

    if (rc)
        return rc;
    *mpo = (struct mpo){.shape = *shape, .bond = {1, least(rank, side), 1}, .clipped = rank > side, .tried = 1};
    mpo->core[0] = tensor_new(DTYPE(F32), 4, (int64_t[]){1, t->out, 1, mpo->bond[1]});
    mpo->core[1] = tensor_new(DTYPE(F32), 4, (int64_t[]){mpo->bond[1], 1, t->in, 1});
    u = (float *)(void *)mpo->core[0].data;
    v = (float *)(void *)mpo->core[1].data;
    rc = aware_low_rank_norm(t->w, t->out, t->in, t->h, t->name, mpo->bond[1], u, v, error, t->norm);
    if (rc)
        mpo_free(mpo);
    else
        aware_balance(u, v, t->out, t->in, mpo->bond[1]);
    return rc;
}

static int fit_chain(const struct task *t, const struct mpo_shape *shape, const struct mpo_budget *budget,
                     struct mpo *mpo, double *error)
{
    struct als als = {0};
    int rc = mpo_fit(t->w, t->name, shape, budget, mpo);

    if (!rc && (rc = aware_als(t->w, t->h, t->name, mpo, &als)))
        mpo_free(mpo);
    if (*t->norm < 0)
        *t->norm = t->h ? moments_error(t->h, t->w, t->out) : linalg_sum_squares(t->w, t->out * t->in);
    *error = als.after;
    return rc;
}

/* A TT-SVD knows the plain error alone: its tolerance is moved until the weighted error comes near the one asked for
 * from below. Where it never does, the last fit stands. */
static int fit_within(const struct task *t, const struct mpo_shape *shape, struct mpo *best, double *error)
{
    struct mpo_budget budget = *t->budget;
    double part = budget.part, holds = 0, fails = 1;        /* plain tolerances that do */
    bool good = false;

    for (int round = 0; round < ROUNDS; round++) {
        struct mpo mpo;
        double now, relative;
        int rc = fit_chain(t, shape, &budget, &mpo, &now);

        if (rc) {
            mpo_free(best);
            return rc;
        }
        relative = *t->norm > 0 ? sqrt(now / *t->norm) : 0;
        if (!good || (relative <= part && mpo_parameters(&mpo) < mpo_parameters(best))) {
            mpo_free(best);
            *best = mpo;
            *error = now;
            good = relative <= part;
        } else
            mpo_free(&mpo);
        if (relative <= part && (relative > 0.97 * part || budget.part >= 1))
            break;
        *(relative <= part ? &holds : &fails) = budget.part;
        budget.part *= fmax(0.99 * part / fmax(relative, 1e-30), 0.25);
        if (budget.part <= holds || budget.part >= fails)
            budget.part = (holds + fails) / 2;
    }
    return EX_OK;
}

static int fit_shape(const struct task *t, const struct mpo_shape *shape, bool free_shape, struct mpo *mpo,
                     double *error)
{
    struct mpo_budget budget = *t->budget;

    *mpo = (struct mpo){0};
    if (aware_is_exact(shape))
        return fit_low_rank(t, shape, free_shape, mpo, error);
    if (budget.limit == MPO_TOLERANCE)
        return fit_within(t, shape, mpo, error);
    budget.chi = mpo_chi(shape, &budget, free_shape);
    budget.limit = MPO_CHI;
    return fit_chain(t, shape, &budget, mpo, error);
}

/* Whether even the smallest bonds are above the budget. */
static bool exceeds(const struct task *t, const struct mpo_shape *shape)
{
    const struct mpo_budget *budget = t->budget;
    double all = budget->limit == MPO_CHI ? (double)budget->chi * (double)(t->out + t->in)
                                          : budget->part * (double)t->out * (double)t->in;

    return budget->limit != MPO_TOLERANCE && (double)shape_parameters(shape, 1) > all;
}

static bool better(const struct task *t, const struct mpo *a, double a_error, const struct mpo *b, double b_error)
{
    double most = t->budget->part * t->budget->part * *t->norm;

    if (t->budget->limit != MPO_TOLERANCE || a_error > most || b_error > most)
        return a_error < b_error;
    return mpo_parameters(a) < mpo_parameters(b);
}

static int fit_any(const struct task *t, int n_site, struct mpo *best, double *error)
{
    struct mpo_shape candidate[SHAPE_CANDIDATES];
    int count = n_site == 2 ? 1 : 0, rc = EX_OK;

    *best = (struct mpo){0};
    if (n_site == 2)                        /* of two sites the matrix grouping is nearly always the best, and exact */
        candidate[0] = (struct mpo_shape){2, {t->out, 1}, {1, t->in}};
    else
        count = shape_candidates(t->out, t->in, n_site, candidate);
    for (int i = 0; i < count && !rc; i++) {
        struct mpo mpo = {0};
        double now = 0;

        if (i > 0 && exceeds(t, &candidate[i]))
            continue;
        rc = fit_shape(t, &candidate[i], true, &mpo, &now);
        if (!rc && (!best->shape.n_site || better(t, &mpo, now, best, *error))) {
            mpo_free(best);
            *best = mpo;
            *error = now;
        } else
            mpo_free(&mpo);
    }
    if (rc)
        mpo_free(best);
    else
        best->tried = count;
    return rc;
}

int aware_fit(float *w, int64_t out, int64_t in, const char *name, const struct mpo_shape *shape, int n_site,
              const struct mpo_budget *budget, const struct moments *h, struct mpo *mpo, double *error, double *norm)
{
    struct task t = {w, out, in, name, budget, h, norm};

    *norm = -1;
    return shape->n_site ? fit_shape(&t, shape, false, mpo, error) : fit_any(&t, n_site, mpo, error);
}
