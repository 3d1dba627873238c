/* store.c - rounds what was trained to what is stored. */
#include "train/store.h"
#include "base/memory.h"
#include "fit/round.h"
#include "tensor/scales.h"

#include <stdlib.h>
#include <string.h>

bool store_wants(const struct parameters *parameters, const char *name)
{
    for (int i = 0; i < parameters->count; i++)
        if (!strcmp(parameters->list[i].name, name))
            return true;
    return false;
}

static float *host_values(const struct parameters *parameters, const struct parameter *parameter)
{
    float *host = xaligned((size_t)parameter->trainable.count, sizeof *host);

    parameter_download(parameters, parameter, parameter->trainable.values, host);
    return host;
}

/* The tensor becomes these values, in its own dtype or another. */
static int store_values(struct tensor *tensor, float *values, const struct dtype *dtype, const char *name)
{
    struct dtype wanted = dtype ? *dtype : tensor->dtype;
    struct difference difference = {0};
    struct tensor plain;

    if (wanted.kind == DTYPE_F64)                    /* was trained in f32 */
        wanted = DTYPE(F32);
    plain = tensor_new(dtype_is_packed(wanted) ? DTYPE(F32) : wanted, tensor->rank, tensor->shape);
    tensor_set(&plain, values);
    tensor_free(tensor);
    *tensor = plain;
    if (!tensor_is_finite(tensor))
        return fail(EX_DATAERR, "'%s': a trained number is not finite, or too large for the dtype", name);
    return dtype_is_packed(wanted) ? round_nearest(tensor, wanted, name, &difference) : EX_OK;
}

/* The parameter of an operator's core, by its place; NULL where that isn't trained. */
static const struct parameter *find(const struct parameters *parameters, const char *name, int term, int site,
                                    enum numbers which)
{
    for (int i = 0; i < parameters->count; i++) {
        const struct parameter *p = &parameters->list[i];

        if (!strcmp(p->name, name) && p->trainable.term == term && p->trainable.site == site
            && p->trainable.which == which)
            return p;
    }
    return NULL;
}

static int store_core(const struct parameters *parameters, const char *name, int term, int site, struct tensor *core,
                      const struct dtype *dtype)
{
    const struct parameter *values = find(parameters, name, term, site, NUMBERS_VALUES);
    const struct parameter *scales = find(parameters, name, term, site, NUMBERS_SCALES);
    const struct parameter *minima = find(parameters, name, term, site, NUMBERS_MINIMA);
    float *host = values ? host_values(parameters, values) : scales ? host_values(parameters, scales) : NULL;
    float *more = minima ? host_values(parameters, minima) : NULL;
    int rc = EX_OK;

    if (values)
        rc = store_values(core, host, dtype, name);
    else if (scales && !scales_replace(core, host, more))
        rc = fail(EX_DATAERR, "'%s': a trained scale is not finite, or too large for the format", name);
    free(host);
    free(more);
    return rc;
}

int store_operator(const struct parameters *parameters, struct operator *op, const struct dtype *dtype)
{
    int term = 0, rc = EX_OK;    /* the network counts terms that have numbers */

    for (int t = 0; t < op->n_term && !rc; t++) {
        struct chain *chain = &op->term[t];
        bool empty = false;

        for (int s = 0; s < chain->n_site; s++)
            empty |= tensor_count(&chain->core[s]) == 0;
        for (int s = 0; s < chain->n_site && !rc && !empty; s++)
            rc = store_core(parameters, op->name, term, s, &chain->core[s], dtype);
        term += !empty;
    }
    return rc;
}

int store_vector(const struct parameters *parameters, const char *name, struct tensor *tensor,
                 const struct dtype *dtype)
{
    const struct parameter *values = find(parameters, name, 0, 0, NUMBERS_VALUES);
    float *host = host_values(parameters, values);
    int rc = store_values(tensor, host, dtype, name);

    free(host);
    return rc;
}
