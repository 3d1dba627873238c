/* decompose.c - decides whether an operator is to be decomposed, fits, rounds the cores and measures what they give. */
#include "fit/decompose.h"
#include "base/memory.h"
#include "operator/difference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double decomposed_error(const struct decomposed *result)
{
    return result->squares == 0 ? 0 : sqrt(result->squares / result->norm);
}

static int64_t least_bytes(const struct operator *op)
{
    int64_t stored = operator_bytes(op), two_each = 2 * op->out * op->in;

    return stored < two_each ? stored : two_each;
}

static bool saves(const struct operator *op, const struct decomposition *how, int64_t parameters)
{
    return how->force ? op->out * op->in > 0 : parameters <= (least_bytes(op) - 1) / dtype_size(how->dtype);
}

/* The parameters that the budget leads to, known before any work; 0 for a tolerance. */
static int64_t expected_parameters(const struct operator *op, const struct decomposition *how)
{
    const struct mpo_budget *budget = &how->budget;
    struct mpo_shape candidate[SHAPE_CANDIDATES];

    if (budget->limit == MPO_TOLERANCE)
        return 0;
    if (how->shape.n_site)
        return shape_parameters(&how->shape, mpo_chi(&how->shape, budget, false));
    shape_candidates(op->out, op->in, how->sites, candidate);
    return shape_parameters(&candidate[0], mpo_chi(&candidate[0], budget, true));
}

static void load(void *context, float *w)
{
    operator_dense(context, w);
}

static int fit(struct operator *op, const struct decomposition *how, struct mpo *mpo)
{
    struct mpo_source source = {load, op, op->out, op->in};
    float *w;
    int rc;

    if (!how->shape.n_site)
        return mpo_fit_any(&source, op->name, how->sites, &how->budget, mpo);
    w = xaligned((size_t)(op->out * op->in), sizeof *w);
    operator_dense(op, w);
    rc = mpo_fit(w, op->name, &how->shape, &how->budget, mpo);
    free(w);
    return rc;
}

/* Rounds the cores to the dtype; the largest magnitude that it holds may not be exceeded. */
static int round_cores(struct mpo *mpo, struct dtype dtype, const char *name)
{
    const float most = dtype.kind == DTYPE_F16 ? 65504.0f : INFINITY;

    for (int k = 0; k < mpo->shape.n_site && dtype.kind != DTYPE_F32; k++) {
        struct tensor *core = &mpo->core[k], rounded = tensor_new(dtype, core->rank, core->shape);
        const float *values = (const float *)core->data;

        for (int64_t i = 0; i < tensor_count(core); i++)
            if (fabsf(values[i]) > most) {
                tensor_free(&rounded);
                return fail(EX_DATAERR, "'%s': a core holds %g, f16 reaches 65504 only: use --dtype bf16 or f32", name,
                            (double)values[i]);
            }
        tensor_set(&rounded, values);
        tensor_free(core);
        *core = rounded;
    }
    return EX_OK;
}

static void tell(const struct operator *op, const struct decomposition *how, const struct decomposed *result,
                 const struct mpo *mpo)
{
    char shape[SHAPE_TEXT], tried[48] = "";

    if (mpo->tried > 1)
        snprintf(tried, sizeof tried, " (best of %d shapes)", mpo->tried);
    inform("'%s': %s%s, %lld parameters of %lld, relative error %.4f", op->name, shape_print(&mpo->shape, shape), tried,
           (long long)result->parameters, (long long)(op->out * op->in), decomposed_error(result));
    if (mpo->clipped && how->shape.n_site && how->budget.limit == MPO_CHI)
        note("'%s': chi %lld is more than the rank of a cut, which is taken instead", op->name,
             (long long)how->budget.chi);
}

/* Puts the cores in place of op's terms. */
static void replace(struct operator *op, struct mpo *mpo, struct decomposed *result)
{
    struct operator fitted = operator_from_cores(op->name, mpo->shape.n_site, mpo->core);
    struct difference difference;

    memset(mpo->core, 0, sizeof mpo->core);          /* they moved */
    difference = operator_difference(op, &fitted);
    result->done = true;
    result->shape = mpo->shape;
    result->parameters = operator_parameters(&fitted);
    result->squares = difference.squares;
    result->norm = difference.norm;
    operator_free(op);
    *op = fitted;
}

int decompose(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    char text[SHAPE_TEXT];
    struct mpo mpo = {0};
    int64_t parameters;
    int rc;

    *result = (struct decomposed){0};
    if (!how->force && !operator_is_dense(op)) {
        note("'%s': compressed already, kept (--force decomposes what it multiplies out to)", op->name);
        return EX_OK;
    }
    if (how->shape.n_site && !shape_fits(&how->shape, op->out, op->in))
        return fail(EX_DATAERR, "'%s': shape %s isn't one of a %lld x %lld matrix", op->name,
                    shape_print(&how->shape, text), (long long)op->out, (long long)op->in);
    parameters = expected_parameters(op, how);
    if (saves(op, how, parameters)) {
        if ((rc = fit(op, how, &mpo)) || (rc = round_cores(&mpo, how->dtype, op->name))) {
            mpo_free(&mpo);
            return rc;
        }
        parameters = mpo_parameters(&mpo);
    }
    if (mpo.shape.n_site && saves(op, how, parameters)) {
        replace(op, &mpo, result);
        tell(op, how, result, &mpo);
    } else
        note("'%s': %lld numbers in cores would take %lld bytes against %lld, kept (--force decomposes)", op->name,
             (long long)parameters, (long long)(parameters * dtype_size(how->dtype)), (long long)least_bytes(op));
    mpo_free(&mpo);
    return EX_OK;
}
