/* decompose_fit.c - fits a matrix, rounds the cores, measures what they give. */
#include "fit/decompose_internal.h"
#include "base/memory.h"
#include "compute/linalg.h"
#include "fit/aware.h"

#include <math.h>
#include <stdlib.h>

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

void attempt_free(struct attempt *a)
{
    mpo_free(&a->mpo);
    operator_free(&a->fitted);
}

double weighted_size(const struct moments *h, const float *w, int64_t out, int64_t in)
{
    return sqrt(h ? moments_error(h, w, out) : linalg_sum_squares(w, out * in));
}

/* How far the stored cores are from w. */
static void measure(const struct task *task, struct attempt *a)
{
    int64_t count = task->out * task->in;
    float *given;

    if (!task->h) {
        a->difference = operator_difference_from(task->w, &a->fitted);
        a->error = a->difference.squares;
        return;
    }
    given = xaligned((size_t)count, sizeof *given);
    operator_dense(&a->fitted, given);
    a->difference = (struct difference){0};
    difference_add(&a->difference, task->w, given, count, 0);
    for (int64_t i = 0; i < count; i++)
        given[i] = task->w[i] - given[i];
    a->error = moments_error(task->h, given, task->out);
    free(given);
}

/* The fit itself; *error and *norm are squares. */
static int fit(struct attempt *a, const struct task *task, double *error, double *norm)
{
    const struct decomposition *how = task->how;
    struct mpo_budget budget = a->budget;
    double size = budget.limit == MPO_TOLERANCE && task->scale > 0
                  ? weighted_size(task->h, task->w, task->out, task->in) : 0;
    int rc;

    if (size > 0)
        budget.part *= task->scale / size;
    if (task->h)
        return aware_fit(task->w, task->out, task->in, task->name, &how->shape, how->sites, &budget, task->h, &a->mpo,
                         error, norm);
    rc = how->shape.n_site ? mpo_fit(task->w, task->name, &how->shape, &budget, &a->mpo)
                           : mpo_fit_any(task->w, task->out, task->in, task->name, how->sites, &budget, &a->mpo);
    *norm = a->mpo.norm * a->mpo.norm;
    *error = mpo_error(&a->mpo) * mpo_error(&a->mpo) * *norm;
    return rc;
}

static double relative(double error, double scale)
{
    return scale > 0 ? sqrt(error) / scale : error > 0 ? INFINITY : 0;
}

/* Fits within a->budget and rounds. */
static int attempt(struct attempt *a, const struct task *task)
{
    const struct decomposition *how = task->how;
    double error = 0, norm = 0;
    int rc;

    attempt_free(a);
    if ((rc = fit(a, task, &error, &norm)))
        return rc;
    a->scale = task->scale > 0 ? task->scale : sqrt(norm);
    a->before = relative(error, a->scale);
    a->fitted = rounded(&a->mpo, how->dtype, task->name);
    measure(task, a);
    a->reached = relative(a->error, a->scale);
    return EX_OK;
}

/* Rounding each core to f16 adds 2^-12 of it at most; much more means that numbers fell off either end of f16. */
static int check_f16(const struct attempt *a, const struct task *task)
{
    if (task->how->dtype.kind != DTYPE_F16 || a->reached <= a->before + 0x1p-6)
        return EX_OK;
    return fail(EX_DATAERR, "'%s': f16 can't hold its cores, which give an error of %.3g instead of %.3g: use "
                "--dtype bf16 or f32", task->name, a->reached, a->before);
}

enum { ATTEMPTS = 4 };

/* A tolerance holds for the cores as they are stored: what rounding adds is taken off it and the fit done again. */
static int attempt_within(struct attempt *a, const struct task *task)
{
    const struct mpo_budget *budget = &task->how->budget;
    int rc = attempt(a, task);

    for (int i = 1; i < ATTEMPTS && !rc && budget->limit == MPO_TOLERANCE; i++) {
        double error = a->reached, part = budget->part;
        double left = part * part - 1.1 * (error * error - a->before * a->before);

        if (error <= part || left <= 0)
            break;
        /* A Gram matrix ends at about 1e-6. */
        a->budget.exact = a->budget.exact || (task->how->dtype.kind == DTYPE_F32 && !task->h);
        a->budget.part = sqrt(fmin(left, a->budget.part * a->budget.part * 0.99));
        rc = attempt(a, task);
    }
    if (rc)
        attempt_free(a);
    return rc;
}

/* What the layer gives beside the dense one, over the held-out sequences. */
static double held_out(const struct task *task, const struct attempt *a)
{
    int64_t count = task->out * task->in;
    float *given = xaligned((size_t)count, sizeof *given);
    double error;

    operator_dense(&a->fitted, given);
    transform_rows_inverse(task->input, given, task->out, task->in);
    transform_columns_inverse(task->output, task->out, given, task->out, task->in);
    for (int64_t i = 0; i < count && task->stored; i++)
        given[i] += task->stored[i];
    error = aware_held_out(task->dense, given, task->out, task->how->moments);
    free(given);
    return error;
}

/* The same fit to the sequential target. That may have large numbers where the layer sees little, which f16 can't hold:
 * whether it is of use is for the held-out error to say, of the cores as they are stored. */
static int attempt_sequential(const struct task *task, struct attempt *a)
{
    int64_t count = task->out * task->in;
    struct task other = *task;
    int rc;

    other.w = xaligned((size_t)count, sizeof *other.w);
    rc = aware_target(task->dense, task->out, task->how->moments, aware_damping, other.w);
    for (int64_t i = 0; i < count && !rc && task->stored; i++)
        other.w[i] -= task->stored[i];
    if (!rc) {
        transform_rows(task->input, other.w, task->out, task->in);
        transform_columns(task->output, task->out, other.w, task->out, task->in);
        rc = attempt_within(a, &other);
    }
    if (!rc)
        measure(task, a);
    free(other.w);
    return rc;
}

bool attempt_holds(const struct attempt *a, const struct decomposition *how)
{
    return how->budget.limit != MPO_TOLERANCE || a->reached <= how->budget.part;
}

int attempt_best(const struct task *task, struct attempt *a)
{
    struct attempt other = {.budget = task->how->budget, .sequential = true};
    int rc;

    *a = (struct attempt){.budget = task->how->budget};
    if (!(rc = attempt_within(a, task)) && (rc = check_f16(a, task)))
        attempt_free(a);
    if (rc || !aware_has_reference(task->how->moments))
        return rc;
    rc = attempt_sequential(task, &other);
    other.scale = a->scale;                 /* W's: a tolerance is one of the error against W */
    other.reached = relative(other.error, other.scale);
    if (!rc && attempt_holds(&other, task->how) && held_out(task, &other) < held_out(task, a)) {
        attempt_free(a);
        *a = other;
        other = (struct attempt){0};
    }
    attempt_free(&other);
    if (rc)
        attempt_free(a);
    return rc;
}
