/* mpo.c - TT-SVD, and the choice among shapes. */
#include "fit/mpo.h"
#include "fit/reorder.h"
#include "fit/svd.h"
#include "base/memory.h"
#include "compute/linalg.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void mpo_free(struct mpo *mpo)
{
    for (int k = 0; k < MPO_SITES; k++)
        tensor_free(&mpo->core[k]);
    *mpo = (struct mpo){0};
}

int64_t mpo_parameters(const struct mpo *mpo)
{
    int64_t sum = 0;

    for (int k = 0; k < mpo->shape.n_site; k++)
        sum += mpo->bond[k] * mpo->shape.out[k] * mpo->shape.in[k] * mpo->bond[k + 1];
    return sum;
}

double mpo_error(const struct mpo *mpo)
{
    double sum = 0;

    for (int k = 1; k < mpo->shape.n_site; k++)
        sum += mpo->eps[k] * mpo->eps[k];
    return mpo->norm > 0 ? sqrt(sum) / mpo->norm : 0;
}

/* One fit: what it is asked for, and how far it has come. */
struct fit {
    struct mpo *mpo;
    const char *name;
    const struct mpo_budget *budget;
    int64_t bond[MPO_SITES + 1]; /* the bonds allowed */
    double left;                 /* of a tolerance: the sum of squares that may still be discarded */
    bool draft, drafted;         /* asked for a quick look; got one: no cores, or not the best ones */
    float *rest;                 /* what the cuts so far left: R of the last one, or NULL: w itself */
};

static struct tensor core_of(const struct mpo *mpo, int k, const float *values)
{
    int64_t shape[4] = {mpo->bond[k], mpo->shape.out[k], mpo->shape.in[k], mpo->bond[k + 1]};
    struct tensor core = tensor_new(DTYPE(F32), 4, shape);

    memcpy(core.data, values, (size_t)core.bytes);
    return core;
}

/* Cuts site k off: what is left is [bond[k] * out[k] * in[k], rest] before and [bond[k+1], rest] after. */
static int cut(struct fit *fit, const float *w, int k, int64_t rest)
{
    struct mpo *mpo = fit->mpo;
    const struct mpo_shape *shape = &mpo->shape;
    int64_t rows = mpo->bond[k] * shape->out[k] * shape->in[k];
    char *stream = xasprintf("%s, cut %d", fit->name, k + 1);
    bool tolerance = fit->budget->limit == MPO_TOLERANCE;
    struct svd svd;
    struct svd_target target = {
        .rank = tolerance ? 0 : fit->bond[k + 1],
        .discard = tolerance ? fit->left / (shape->n_site - 1 - k) : 0,
        .exact = fit->budget->exact,
        .draft = fit->draft,
        .numbers = fit->draft && shape->n_site == 2,
        .random = random_named(fit->budget->seed, stream),
    };
    int rc = svd_truncate(fit->rest ? fit->rest : w, rows, rest, &target, &svd);

    free(stream);
    if (rc)
        return rc;
    /* A row of zeros as in a matrix of low rank is kept where chi asks for it: sizes follow from the options
     * alone. */
    mpo->bond[k + 1] = svd.rank;
    mpo->eps[k + 1] = sqrt(svd.discarded);
    fit->left -= svd.discarded;
    fit->drafted = fit->drafted || target.numbers || (fit->draft && svd.method == SVD_KRYLOV);
    if (!target.numbers)
        mpo->core[k] = core_of(mpo, k, svd.u);
    free(fit->rest);
    fit->rest = svd.r;
    svd.r = NULL;
    svd_free(&svd);
    return EX_OK;
}

static int64_t product(const int64_t *factor, int count)
{
    int64_t product = 1;

    for (int k = 0; k < count; k++)
        product *= factor[k];
    return product;
}

/* The same, or 0 where no chi keeps to the budget. */
static int64_t chi_within(const struct mpo_shape *shape, const struct mpo_budget *budget, bool free)
{
    double out = (double)product(shape->out, shape->n_site), in = (double)product(shape->in, shape->n_site), most;

    if (budget->limit == MPO_TOLERANCE)
        return 1;                           /* not looked at */
    if (budget->limit == MPO_CHI && !free)
        return budget->chi;
    most = budget->limit == MPO_CHI ? (double)budget->chi * (out + in) : budget->part * out * in;
    return shape_chi(shape, most < 0x1p62 ? (int64_t)most : INT64_MAX - 1);
}

int64_t mpo_chi(const struct mpo_shape *shape, const struct mpo_budget *budget, bool free)
{
    int64_t chi = chi_within(shape, budget, free);

    return chi > 0 ? chi : 1;
}

static int cut_sites(struct fit *fit, const float *w)
{
    struct mpo *mpo = fit->mpo;
    const struct mpo_shape *shape = &mpo->shape;
    int64_t rest = product(shape->out, shape->n_site) * product(shape->in, shape->n_site);
    int rc = EX_OK;

    mpo->bond[0] = mpo->bond[shape->n_site] = 1;
    for (int k = 0; k < shape->n_site - 1 && !rc; k++) {
        rest /= shape->out[k] * shape->in[k];
        rc = cut(fit, w, k, rest);
    }
    mpo->bond[shape->n_site] = 1;
    if (!rc && (fit->rest || shape->n_site == 1))
        mpo->core[shape->n_site - 1] = core_of(mpo, shape->n_site - 1, fit->rest ? fit->rest : w);
    free(fit->rest);
    fit->rest = NULL;
    return rc;
}

/* w is put into site order, and back when the cuts are done. */
static int fit_matrix(struct fit *fit, float *w, const struct mpo_shape *shape, int64_t chi)
{
    struct mpo *mpo = fit->mpo;
    int64_t count = product(shape->out, shape->n_site) * product(shape->in, shape->n_site);
    double size;
    int rc;

    *mpo = (struct mpo){.shape = *shape, .tried = 1};
    mpo->norm = sqrt(linalg_sum_squares(w, count));
    if (!isfinite(mpo->norm)) {
        mpo_free(mpo);
        return fail(EX_DATAERR, "'%s': holds values that are not finite", fit->name);
    }
    /* Beyond this, products of two numbers leave f32 on the way. No weight of a model is anywhere near. */
    size = mpo->norm / sqrt((double)count);
    if (mpo->norm > 0 && (size < 1e-18 || size > 1e18)) {
        mpo_free(mpo);
        return fail(EX_DATAERR, "'%s': holds values of about %.2g, expected 1e-18..1e18", fit->name, size);
    }
    if (fit->budget->limit == MPO_TOLERANCE)
        fit->left = fit->budget->part * fit->budget->part * mpo->norm * mpo->norm;
    else
        mpo->clipped = shape_bonds(shape, chi, fit->bond);
    reorder_sites(w, shape);
    rc = cut_sites(fit, w);
    reorder_matrix(w, shape);
    if (rc)
        mpo_free(mpo);
    return rc;
}

int mpo_fit(float *w, const char *name, const struct mpo_shape *shape, const struct mpo_budget *budget,
            struct mpo *mpo)
{
    struct fit fit = {.mpo = mpo, .name = name, .budget = budget};

    assert(shape->n_site >= 1 && shape->n_site <= MPO_SITES);
    return fit_matrix(&fit, w, shape, mpo_chi(shape, budget, false));
}

/* Whether a is better than b. */
static bool better(const struct mpo *a, const struct mpo *b, enum mpo_limit limit)
{
    if (limit == MPO_TOLERANCE)
        return mpo_parameters(a) < mpo_parameters(b);
    return mpo_error(a) < mpo_error(b);
}

int mpo_fit_any(float *w, int64_t out, int64_t in, const char *name, int n_site, const struct mpo_budget *budget,
                struct mpo *mpo)
{
    struct mpo_shape candidate[SHAPE_CANDIDATES];
    int count = shape_candidates(out, in, n_site, candidate), best = 0, rc = EX_OK;
    bool drafted = false;

    *mpo = (struct mpo){0};
    for (int i = 0; i < count && !rc; i++) {
        struct mpo now = {0};
        struct fit fit = {.mpo = &now, .name = name, .budget = budget, .draft = count > 1};

        if (i > 0 && chi_within(&candidate[i], budget, true) == 0)      /* the first is tried in any case */
            continue;
        rc = fit_matrix(&fit, w, &candidate[i], mpo_chi(&candidate[i], budget, true));
        if (!rc && (mpo->shape.n_site == 0 || better(&now, mpo, budget->limit))) {
            mpo_free(mpo);
            *mpo = now;
            best = i;
            drafted = fit.drafted;
        } else
            mpo_free(&now);
    }
    if (!rc && drafted) {
        struct fit fit = {.mpo = mpo, .name = name, .budget = budget};

        mpo_free(mpo);
        rc = fit_matrix(&fit, w, &candidate[best], mpo_chi(&candidate[best], budget, true));
    }
    if (rc)
        mpo_free(mpo);
    else
        mpo->tried = count;
    return rc;
}
