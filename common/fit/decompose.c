/* decompose.c - decides whether an operator is to be decomposed, fits, rounds the cores and measures what they
 * give. */
#include "fit/decompose.h"
#include "base/memory.h"
#include "operator/difference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* W in f32. A plain payload gives way to it, so that W is there once: f32 is W as it stands, and 16 bits convert
 * there and back without loss. */
static float *open_matrix(struct operator *op)
{
    struct tensor *core = &op->term[0].core[0];
    bool plain = operator_is_dense(op) && core->dtype.kind <= DTYPE_BF16;
    float *w = (float *)(void *)core->data;

    if (!plain || core->dtype.kind != DTYPE_F32) {
        w = xaligned((size_t)(op->out * op->in), sizeof *w);
        operator_dense(op, w);
    }
    if (plain && core->dtype.kind != DTYPE_F32)
        free(core->data);
    if (plain)
        core->data = NULL;
    return w;
}

/* Ends that; with keep, op is as it was. */
static void close_matrix(struct operator *op, float *w, bool keep)
{
    struct tensor *core = &op->term[0].core[0];

    if (!keep || core->data) {
        free(w);
    } else if (core->dtype.kind == DTYPE_F32) {
        core->data = (unsigned char *)w;
    } else {
        core->data = xaligned((size_t)core->bytes, 1);
        tensor_set(core, w);
        free(w);
    }
}

static float largest(const struct tensor *core)
{
    const float *values = (const float *)(const void *)core->data;
    float most = 0;

    for (int64_t i = 0; i < tensor_count(core); i++)
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

/* f16 has little room at either end. Where a core leaves the middle of it, powers of two move from core to core,
 * which changes no digit and not their product. */
static void balance(struct mpo *mpo)
{
    int n = mpo->shape.n_site, exponent[MPO_SITES], least = 0, most = 0, total = 0;

    for (int k = 0; k < n; k++) {
        float size = largest(&mpo->core[k]);

        exponent[k] = size > 0 ? ilogbf(size) : 0;
        least = exponent[k] < least ? exponent[k] : least;
        most = exponent[k] > most ? exponent[k] : most;
        total += exponent[k];
    }
    if (least > -7 && most < 14)
        return;
    for (int k = 0; k < n; k++) {
        float *values = (float *)(void *)mpo->core[k].data;
        int share = total / (n - k), shift = share - exponent[k];

        total -= share;
        for (int64_t i = 0; i < tensor_count(&mpo->core[k]); i++)
            values[i] = ldexpf(values[i], shift);
    }
}

/* The cores, rounded to the dtype, as an operator; they leave mpo. */
static struct operator rounded(struct mpo *mpo, struct dtype dtype, const char *name)
{
    if (dtype.kind == DTYPE_F16)
        balance(mpo);
    for (int k = 0; k < mpo->shape.n_site && dtype.kind != DTYPE_F32; k++) {
        struct tensor *core = &mpo->core[k], small = tensor_new(dtype, core->rank, core->shape);

        tensor_set(&small, (const float *)(const void *)core->data);
        tensor_free(core);
        *core = small;
    }
    return operator_from_cores(name, mpo->shape.n_site, mpo->core);
}

/* One attempt: what was fitted within budget, as it is stored, and how far that is from W. */
struct attempt {
    struct mpo_budget budget;
    struct mpo mpo;
    struct operator fitted;
    struct difference difference;
};

static void attempt_free(struct attempt *a)
{
    mpo_free(&a->mpo);
    operator_free(&a->fitted);
}

static double attempt_error(const struct attempt *a)
{
    return difference_error(&a->difference);
}

static int attempt(struct attempt *a, const struct operator *op, const struct decomposition *how, float *w)
{
    double error, fitted;
    int rc;

    attempt_free(a);
    rc = how->shape.n_site ? mpo_fit(w, op->name, &how->shape, &a->budget, &a->mpo)
                           : mpo_fit_any(w, op->out, op->in, op->name, how->sites, &a->budget, &a->mpo);
    if (rc)
        return rc;
    a->fitted = rounded(&a->mpo, how->dtype, op->name);
    a->difference = operator_difference_from(w, &a->fitted);
    /* Rounding each core to f16 adds 2^-12 of it at most; much more means that numbers fell off either end of f16. */
    error = attempt_error(a);
    fitted = mpo_error(&a->mpo);
    if (how->dtype.kind == DTYPE_F16 && !(error <= fitted + 0x1p-6))
        return fail(EX_DATAERR, "'%s': f16 can't hold its cores, which give an error of %.3g instead of %.3g: use "
                    "--dtype bf16 or f32", op->name, error, fitted);
    return EX_OK;
}

enum { ATTEMPTS = 4 };

/* A tolerance holds for the cores as they are stored: what rounding adds is taken off it and the fit done again. */
static int fit(struct attempt *a, const struct operator *op, const struct decomposition *how, float *w)
{
    int rc = attempt(a, op, how, w);

    for (int i = 1; i < ATTEMPTS && !rc && how->budget.limit == MPO_TOLERANCE; i++) {
        double error = attempt_error(a), fitted = mpo_error(&a->mpo), part = how->budget.part;
        double left = part * part - 1.1 * (error * error - fitted * fitted);

        if (error <= part || left <= 0)
            break;
        a->budget.exact = a->budget.exact || how->dtype.kind == DTYPE_F32;   /* a Gram matrix ends at about 1e-6 */
        a->budget.part = sqrt(fmin(left, a->budget.part * a->budget.part * 0.99));
        rc = attempt(a, op, how, w);
    }
    return rc;
}

static void tell(const struct operator *op, const struct decomposition *how, const struct decomposed *result,
                 const struct mpo *mpo)
{
    char shape[SHAPE_TEXT], tried[48] = "";
    double budget = how->budget.part * (double)op->out * (double)op->in;

    if (mpo->tried > 1)
        snprintf(tried, sizeof tried, " (best of %d shapes)", mpo->tried);
    inform("'%s': %s%s, %lld parameters of %lld, relative error %.4f", op->name, shape_print(&mpo->shape, shape), tried,
           (long long)result->parameters, (long long)(op->out * op->in), difference_error(&result->difference));
    if (mpo->clipped && how->shape.n_site && how->budget.limit == MPO_CHI)
        note("'%s': chi %lld is more than the rank of a cut, which is taken instead", op->name,
             (long long)how->budget.chi);
    if (how->budget.limit == MPO_KEEP && (double)result->parameters > budget)
        note("'%s': chi 1 already takes %lld parameters, more than the %.0f to be kept", op->name,
             (long long)result->parameters, budget);
}

static char *too_large(const struct operator *op, const struct decomposition *how, int64_t parameters)
{
    return xasprintf("%lld numbers in cores would take %lld bytes against %lld, kept (--force decomposes)",
                     (long long)parameters, (long long)(parameters * dtype_size(how->dtype)),
                     (long long)least_bytes(op));
}

/* Why the operator stays as it is; NULL where it doesn't. The caller frees. */
static char *reason_to_keep(const struct attempt *a, const struct operator *op, const struct decomposition *how)
{
    int64_t parameters = operator_parameters(&a->fitted);
    char dtype[DTYPE_NAME];

    if (!saves(op, how, parameters))
        return too_large(op, how, parameters);
    if (how->budget.limit == MPO_TOLERANCE && attempt_error(a) > how->budget.part)
        return xasprintf("cores of %s come to an error of %.3g, more than %g, kept%s", dtype_name(how->dtype, dtype),
                         attempt_error(a), how->budget.part, how->dtype.kind == DTYPE_F32 ? "" : " (see --dtype f32)");
    return NULL;
}

static int decompose_matrix(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    struct attempt a = {.budget = how->budget};
    float *w = open_matrix(op);
    int rc = fit(&a, op, how, w);
    char *reason = rc ? NULL : reason_to_keep(&a, op, how);

    close_matrix(op, w, rc || reason);
    if (reason)
        note("'%s': %s", op->name, reason);
    if (!rc && !reason) {
        *result = (struct decomposed){true, a.mpo.shape, operator_parameters(&a.fitted), a.difference};
        tell(op, how, result, &a.mpo);
        operator_free(op);
        *op = a.fitted;
        a.fitted = (struct operator){0};
    }
    attempt_free(&a);
    free(reason);
    return rc;
}

int decompose(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    char text[SHAPE_TEXT], *reason;
    int64_t parameters;

    *result = (struct decomposed){0};
    if (!how->force && !operator_is_dense(op)) {
        note("'%s': compressed already, kept (--force decomposes what it multiplies out to)", op->name);
        return EX_OK;
    }
    if (!op->out || !op->in) {
        note("'%s': empty, kept", op->name);
        return EX_OK;
    }
    if (how->shape.n_site && !shape_fits(&how->shape, op->out, op->in))
        return fail(EX_DATAERR, "'%s': shape %s isn't one of a %lld x %lld matrix", op->name,
                    shape_print(&how->shape, text), (long long)op->out, (long long)op->in);
    parameters = expected_parameters(op, how);
    if (saves(op, how, parameters))
        return decompose_matrix(op, how, result);
    reason = too_large(op, how, parameters);
    note("'%s': %s", op->name, reason);
    free(reason);
    return EX_OK;
}
