/* decompose.c - decides whether an operator is to be decomposed, fits, rounds the cores and measures what they
 * give. */
#include "fit/decompose_internal.h"
#include "fit/moments_turn.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t least_bytes(const struct operator *op)
{
    int64_t stored = operator_bytes(op), two_each = 2 * op->out * op->in;

    return stored < two_each ? stored : two_each;
}

bool decompose_saves(const struct operator *op, const struct decomposition *how, int64_t parameters)
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

static void tell(const struct operator *op, const struct decomposition *how, const struct decomposed *result,
                 const struct mpo *mpo)
{
    char shape[SHAPE_TEXT], tried[48] = "", weighted[48] = "";
    double budget = how->budget.part * (double)op->out * (double)op->in;

    if (mpo->tried > 1)
        snprintf(tried, sizeof tried, " (best of %d shapes)", mpo->tried);
    if (how->moments)
        snprintf(weighted, sizeof weighted, ", weighted %.6g",
                 result->norm > 0 ? sqrt(result->error / result->norm) : 0);
    inform("'%s': %s%s, %lld parameters of %lld, relative error %.4f%s%s", op->name, shape_print(&mpo->shape, shape),
           tried, (long long)result->parameters, (long long)(op->out * op->in), difference_error(&result->difference),
           weighted, result->sequential ? ", sequential target" : "");
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

/* What misses the tolerance; NULL where it holds. The caller frees. */
static char *misses(const struct attempt *a, const struct decomposition *how)
{
    char dtype[DTYPE_NAME];

    if (attempt_holds(a, how))
        return NULL;
    return xasprintf("cores of %s come to an error of %.3g, more than %g, kept%s", dtype_name(how->dtype, dtype),
                     a->reached, how->budget.part, how->dtype.kind == DTYPE_F32 ? "" : " (see --dtype f32)");
}

/* Why the operator stays as it is; NULL where it doesn't. The caller frees. */
static char *reason_to_keep(const struct attempt *a, const struct operator *op, const struct decomposition *how)
{
    int64_t parameters = operator_parameters(&a->fitted);

    return decompose_saves(op, how, parameters) ? misses(a, how) : too_large(op, how, parameters);
}

static struct decomposed result_of(const struct attempt *a)
{
    return (struct decomposed){true, a->mpo.shape, operator_parameters(&a->fitted), a->difference, a->error,
                               a->scale * a->scale, a->sequential};
}

static int decompose_matrix(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    struct task task = {.name = op->name, .out = op->out, .in = op->in, .how = how,
                        .h = how->moments ? &how->moments->h : NULL, .w = open_matrix(op)};
    struct attempt a;
    char *reason;
    int rc;

    task.dense = task.w;
    rc = attempt_best(&task, &a);
    reason = rc ? NULL : reason_to_keep(&a, op, how);
    close_matrix(op, task.w, rc || reason);
    if (reason)
        note("'%s': %s", op->name, reason);
    if (!rc && !reason) {
        *result = result_of(&a);
        tell(op, how, result, &a.mpo);
        operator_free(op);
        *op = a.fitted;
        a.fitted = (struct operator){0};
    }
    attempt_free(&a);
    free(reason);
    return rc;
}

/* Whether a matrix can be decomposed at all. */
static int check(const struct operator *op, const struct decomposition *how)
{
    char text[SHAPE_TEXT];

    if (how->shape.n_site && !shape_fits(&how->shape, op->out, op->in))
        return fail(EX_DATAERR, "'%s': shape %s isn't one of a %lld x %lld matrix", op->name,
                    shape_print(&how->shape, text), (long long)op->out, (long long)op->in);
    return EX_OK;
}

int decompose(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    char *reason;
    int64_t parameters;
    int rc;

    *result = (struct decomposed){0};
    if (!how->force && !operator_is_dense(op)) {
        note("'%s': compressed already, kept (--force decomposes what it multiplies out to)", op->name);
        return EX_OK;
    }
    if (!op->out || !op->in) {
        note("'%s': empty, kept", op->name);
        return EX_OK;
    }
    if ((rc = check(op, how)))
        return rc;
    parameters = expected_parameters(op, how);
    if (decompose_saves(op, how, parameters))
        return decompose_matrix(op, how, result);
    reason = too_large(op, how, parameters);
    note("'%s': %s", op->name, reason);
    free(reason);
    return EX_OK;
}

/* Puts the chain of one operator behind the terms of another. */
static void add_term(struct operator *op, struct operator *more)
{
    op->term = xreallocarray(op->term, (size_t)op->n_term + 1, sizeof *op->term);
    op->term[op->n_term++] = more->term[0];
    more->n_term = 0;
    operator_free(more);
}

/* Why no term is to be added; NULL where one is. The caller frees. */
static char *reason_to_leave(const struct task *task, const struct attempt *a)
{
    const struct decomposition *how = task->how;
    int64_t parameters = operator_parameters(&a->fitted);

    if (!how->force && parameters * dtype_size(how->dtype) >= 2 * task->out * task->in)
        return xasprintf("%lld numbers in cores would take as much as the matrix itself, none added (--force adds)",
                         (long long)parameters);
    return misses(a, how);
}

static int add_residual(struct operator *op, const struct task *task, struct decomposed *result)
{
    struct attempt a;
    char *reason;
    int rc = attempt_best(task, &a);

    if (rc)
        return rc;
    reason = reason_to_leave(task, &a);
    if (reason) {
        note("'%s': %s", op->name, reason);
    } else {
        *result = result_of(&a);
        add_term(op, &a.fitted);
        result->difference = operator_difference_from(task->dense, op);
        tell(op, task->how, result, &a.mpo);
    }
    attempt_free(&a);
    free(reason);
    return EX_OK;
}

/* What is still to be fitted, in the coordinates of the terms; stored [out, in] becomes what they give. */
static void remainder_of(const struct operator *op, const float *dense, float *stored, float *w)
{
    operator_dense(op, stored);
    for (int64_t i = 0; i < op->out * op->in; i++)
        w[i] = dense[i] - stored[i];
    transform_rows(op->input, w, op->out, op->in);
    transform_columns(op->output, op->out, w, op->out, op->in);
}

int decompose_residual(struct operator *op, const float *dense, const struct decomposition *how,
                       struct decomposed *result)
{
    size_t count = (size_t)(op->out * op->in);
    float *stored, *w;
    struct moments turned = {0};
    struct task task = {.name = op->name, .out = op->out, .in = op->in, .how = how, .dense = dense,
                        .h = how->moments ? &how->moments->h : NULL, .input = op->input,
                        .output = op->output};
    double size;
    int rc;

    *result = (struct decomposed){0};
    if ((rc = check(op, how)) || !count)
        return rc;
    stored = xaligned(count, sizeof *stored);
    w = xaligned(count, sizeof *w);
    remainder_of(op, dense, stored, w);
    task.scale = weighted_size(task.h, dense, task.out, task.in);
    if (task.h && op->input.block) {
        moments_turn(task.h, op->input, op->in, &turned);
        task.h = &turned;
    }
    task.w = w;
    task.stored = stored;
    size = weighted_size(task.h, w, task.out, task.in);
    if (size <= (how->budget.limit == MPO_TOLERANCE ? how->budget.part * task.scale : 0))
        note("'%s': within an error of %.3g already, no term added", op->name,
             task.scale > 0 ? size / task.scale : 0);
    else
        rc = add_residual(op, &task, result);
    free(turned.packed);
    free(stored);
    free(w);
    return rc;
}
