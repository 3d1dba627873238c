/* decompose_curve.c - all ranks of a matrix from its spectrum. */
#include "fit/decompose_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "fit/aware.h"
#include "fit/curve.h"

#include <stdlib.h>

/* A core each: no setting changes them. */
static int write_fixed(const struct operator *op, struct output *output)
{
    int rc = EX_OK;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site && !rc; s++) {
            struct record record = record_core(op->name, t, op->n_term, s, op->term[t].n_site, &op->term[t].core[s]);

            rc = curve_write_fixed(output, &record);
            record_free(&record);
        }
    return rc;
}

static char *plan_of(const struct mpo_budget *budget, struct dtype dtype)
{
    char name[DTYPE_NAME];
    char *limit = budget->limit == MPO_CHI ? xasprintf("chi=%lld", (long long)budget->chi)
                                           : xasprintf("keep=%g", budget->part);
    char *plan = dtype.kind == DTYPE_F16 ? xstrdup(limit) : xasprintf("%s dtype=%s", limit, dtype_name(dtype, name));

    free(limit);
    return plan;
}

/* Budgets that decompose() would leave op alone for give no line. */
static int write_points(const struct operator *op, const struct decomposition *how, const struct mpo_budget *budgets,
                        int count, const double *error, struct output *output)
{
    struct mpo_shape shape = {2, {op->out, 1}, {1, op->in}};
    struct curve_point point = {(char[]){""}, operator_bytes(op), operator_parameters(op), 0};
    int rc = curve_write(output, op->name, op->out, op->in, error[0], &point);

    for (int i = 0; i < count && !rc; i++) {
        int64_t rank = least(mpo_chi(&shape, &budgets[i], true), least(op->out, op->in));

        point.parameters = rank * (op->out + op->in);
        if (!decompose_saves(op, how, point.parameters))
            continue;
        point.bytes = point.parameters * dtype_size(how->dtype);
        point.error = error[rank];
        point.plan = plan_of(&budgets[i], how->dtype);
        rc = curve_write(output, op->name, op->out, op->in, error[0], &point);
        free(point.plan);
    }
    return rc;
}

int decompose_curve(const struct operator *op, const struct decomposition *how, const struct mpo_budget *budgets,
                    int count, struct output *output)
{
    double *error;
    float *w;
    int rc;

    if (!op->out || !op->in || (!how->force && !operator_is_dense(op)))
        return write_fixed(op, output);
    error = xmallocarray((size_t)least(op->out, op->in) + 1, sizeof *error);
    w = xaligned((size_t)(op->out * op->in), sizeof *w);
    operator_dense(op, w);
    rc = aware_errors(w, op->out, op->in, how->moments ? &how->moments->h : NULL, op->name, error);
    if (!rc)
        rc = write_points(op, how, budgets, count, error, output);
    free(error);
    free(w);
    return rc;
}
