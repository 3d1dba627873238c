/* quantize.c - one operator: turned, rounded, measured. */
#include "fit/quantize.h"
#include "base/memory.h"
#include "base/number.h"
#include "fit/aware.h"
#include "fit/quantize_internal.h"
#include "fit/round.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the sequential target, times the mean diagonal of H. */
static const double damping = .01;

int64_t quantize_block(const struct quantization *how, int64_t in)
{
    int64_t block = how->rotate ? transform_block(how->rotate, how->fold_input ? how->fold_input : in) : 1;

    return block > 1 ? block : 0;
}

/* The turn of an operator's input: its own, or a new one. */
static struct transform turn_of(const struct operator *op, const struct quantization *how)
{
    struct transform new = {.block = quantize_block(how, op->in), .seed = how->seed};

    if (op->input.block || new.block)
        return op->input.block ? op->input : new;
    if (how->rotate)
        inform("'%s': no block of a turn divides %lld, not turned", op->name, (long long)op->in);
    return (struct transform){0};
}

static int64_t width_of(const struct operator *op, const struct quantization *how)
{
    return how->fold_input ? how->fold_input : op->in;
}

/* Whether a core is plain and would get smaller. */
static bool to_be_rounded(const struct tensor *core, struct dtype dtype, const char *name)
{
    int64_t bytes = dtype_payload(dtype, core->rank, core->shape);

    if (dtype_is_packed(core->dtype))
        inform("'%s': packed already, kept", name);
    else if (bytes >= core->bytes)
        inform("'%s': %lld bytes packed against %lld, kept", name, (long long)bytes, (long long)core->bytes);
    else
        return true;
    return false;
}

/* The values of a tensor in f32; it has none left. */
static float *take_floats(struct tensor *tensor)
{
    float *w = (float *)(void *)tensor->data;

    if (tensor->dtype.kind != DTYPE_F32) {
        w = xaligned((size_t)tensor_count(tensor), sizeof *w);
        tensor_get(tensor, w);
        free(tensor->data);
    }
    tensor->data = NULL;
    return w;
}

/* w [out, in] becomes T w, with T turning pieces of size numbers each. */
static void turn_output(struct transform transform, int64_t size, float *w, int64_t out, int64_t in)
{
    float *turned = xaligned((size_t)(out * in), sizeof *turned);

    for (int64_t i = 0; i < out * in; i++)
        turned[i % in * out + i / in] = w[i];
    transform_rows(transform, turned, in * (out / size), size);
    for (int64_t i = 0; i < out * in; i++)
        w[i] = turned[i % in * out + i / in];
    free(turned);
}

/* An operator of the mixture's tensors, which move; without a transform. */
static struct operator operator_of(struct mixture *m, const char *name)
{
    struct operator op = operator_from_cores(name, 1, &m->q);
    struct operator product;

    if (!m->u.data)
        return op;
    product = operator_from_cores(name, 2, (struct tensor[]){m->u, m->v});
    m->u = m->v = (struct tensor){0};
    op.term = xreallocarray(op.term, 2, sizeof *op.term);
    op.term[op.n_term++] = product.term[0];
    product.n_term = 0;
    operator_free(&product);
    return op;
}

/* The better of the fits to W and to the sequential target, by the held-out error; w in turned coordinates. */
struct fitting {
    const struct quantization *how;
    struct rounded_matrix matrix;
    struct transform transform;
    int64_t width;
};

static int fit(const struct fitting *f, const float *w, struct operator *fitted, double *error, double *norm)
{
    struct mixture mixture;
    int rc = f->how->residual_chi ? mixture_fit(&f->matrix, w, f->how, &mixture)
                                  : mixture_round(&f->matrix, w, f->how, &mixture);

    if (rc)
        return rc;
    *error = mixture.error;
    *norm = mixture.norm;
    *fitted = operator_of(&mixture, f->matrix.name);
    return EX_OK;
}

static void turn_back(const struct fitting *f, float *w)
{
    transform_rows_inverse(f->transform, w, f->matrix.out * (f->matrix.in / f->width), f->width);
}

static double held_out(const struct fitting *f, const float *w, const struct operator *fitted)
{
    float *given = xaligned((size_t)(f->matrix.out * f->matrix.in), sizeof *given);
    double error;

    operator_dense(fitted, given);
    turn_back(f, given);
    error = aware_held_out(w, given, f->matrix.out, f->how->moments);
    free(given);
    return error;
}

static double error_of(const struct fitting *f, const float *w, const struct operator *fitted)
{
    int64_t count = f->matrix.out * f->matrix.in;
    float *d = xaligned((size_t)count, sizeof *d);
    double error;

    operator_dense(fitted, d);
    for (int64_t i = 0; i < count; i++)
        d[i] = w[i] - d[i];
    error = weighted_error(f->matrix.view, d, f->matrix.out, f->matrix.in);
    free(d);
    return error;
}

/* Puts the fit to the sequential target in the place of the plain one where it is better. */
static int try_sequential(const struct fitting *f, const float *w, struct operator *fitted, struct quantized *result)
{
    size_t bytes = (size_t)(f->matrix.out * f->matrix.in) * sizeof *w;
    float *plain = xaligned(bytes, 1), *target = xaligned(bytes, 1);
    struct operator other = {0};
    double error, norm;
    int rc;

    memcpy(plain, w, bytes);
    turn_back(f, plain);
    rc = aware_target(plain, f->matrix.out, f->how->moments, damping, target);
    if (!rc) {
        transform_rows(f->transform, target, f->matrix.out * (f->matrix.in / f->width), f->width);
        rc = fit(f, target, &other, &error, &norm);
    }
    free(target);
    if (!rc && held_out(f, plain, &other) < held_out(f, plain, fitted)) {
        operator_free(fitted);
        *fitted = other;
        other = (struct operator){0};
        result->sequential = true;
        result->error = error_of(f, w, fitted);
    }
    operator_free(&other);
    free(plain);
    return rc;
}

static bool has_reference(const struct moment_set *set)
{
    return set && set->cross && set->held_cross && set->held.packed;
}

static void tell(const struct operator *op, int64_t before, const struct quantized *result)
{
    char dtype[DTYPE_NAME], residual[64] = "", turned[64] = "";

    if (op->n_term > 1)
        snprintf(residual, sizeof residual, " + rank %lld", (long long)op->term[1].core[0].shape[3]);
    if (result->input.block)
        snprintf(turned, sizeof turned, ", turned in blocks of %lld", (long long)result->input.block);
    inform("'%s': %s%s%s%s, %lld bytes of %lld, relative error %.6g, weighted %.6g", op->name,
           dtype_name(op->term[0].core[0].dtype, dtype), residual, turned,
           result->sequential ? ", sequential target" : "", (long long)operator_bytes(op), (long long)before,
           difference_error(&result->difference), result->norm > 0 ? sqrt(result->error / result->norm) : 0);
}

/* W is there in f32 alone from here on. */
static int fit_matrix(struct operator *op, struct fitting *f, const struct quantization *how, struct quantized *result)
{
    float *w = take_floats(&op->term[0].core[0]);
    struct operator fitted = {0};
    int rc;

    if (how->fold_output.block)
        turn_output(how->fold_output, how->fold_size, w, op->out, op->in);
    if (!op->input.block)
        transform_rows(f->transform, w, op->out * (op->in / f->width), f->width);
    rc = fit(f, w, &fitted, &result->error, &result->norm);
    if (!rc && has_reference(how->moments))
        rc = try_sequential(f, w, &fitted, result);
    if (!rc) {
        result->difference = operator_difference_from(w, &fitted);
        if (!how->fold_input)
            fitted.input = f->transform;
        operator_free(op);
        *op = fitted;
        fitted = (struct operator){0};
    }
    operator_free(&fitted);
    free(w);
    return rc;
}

static int cannot_fold(const struct operator *op)
{
    return fail(EX_DATAERR, "'%s': not a plain matrix of whole heads that packing makes smaller: the turn of what "
                "reads it can't be folded into it", op->name);
}

static int quantize_matrix(struct operator *op, const struct quantization *how, struct views *views,
                           struct quantized *result)
{
    struct tensor *core = &op->term[0].core[0];
    struct fitting f = {how, {op->name, op->out, op->in, NULL}, turn_of(op, how), width_of(op, how)};
    int64_t before = core->bytes;
    int rc = EX_OK;

    if (how->fold_output.block && op->out % how->fold_size)
        return cannot_fold(op);
    if (!to_be_rounded(core, how->dtype, op->name))
        return how->fold_output.block ? cannot_fold(op) : EX_OK;
    result->done = true;
    result->input = f.transform;
    if (!how->moments && !how->residual_chi && !how->fold_output.block && transform_same(f.transform, op->input)) {
        rc = core_round(core, how->dtype, op->name, &result->difference);
        result->error = result->difference.squares;
        result->norm = result->difference.norm;
    } else {
        if (how->moments)
            rc = views_find(views, how->moments, f.transform, f.width, &f.matrix.view);
        if (!rc)
            rc = fit_matrix(op, &f, how, result);
    }
    if (!rc)
        tell(op, before, result);
    return rc;
}

/* Several cores: which of them are to be rounded, and whether the input's axis can be turned in all terms. */
struct chains {
    const struct quantization *how;
    struct operator *op;
    bool **rounds;               /* [term][site] */
    int64_t count;
};

static void look_at_cores(struct chains *c)
{
    const struct operator *op = c->op;

    c->rounds = xcalloc((size_t)op->n_term, sizeof *c->rounds);
    for (int t = 0; t < op->n_term; t++) {
        c->rounds[t] = xcalloc((size_t)op->term[t].n_site, sizeof **c->rounds);
        for (int s = 0; s < op->term[t].n_site; s++)
            c->count += c->rounds[t][s] = to_be_rounded(&op->term[t].core[s], c->how->dtype, op->name);
    }
}

/* The input's axis lies in the last core of each term, which is on its way to f32 and codes. */
static bool can_be_turned(const struct chains *c)
{
    for (int t = 0; t < c->op->n_term; t++) {
        const struct chain *chain = &c->op->term[t];

        if (chain->core[chain->n_site - 1].shape[2] != c->op->in || !c->rounds[t][chain->n_site - 1])
            return false;
    }
    return true;
}

/* Cores to be rounded to f32, and turned. */
static void open_cores(struct chains *c, struct transform transform)
{
    for (int t = 0; t < c->op->n_term; t++)
        for (int s = 0; s < c->op->term[t].n_site; s++) {
            struct tensor *core = &c->op->term[t].core[s], plain = *core;

            if (!c->rounds[t][s])
                continue;
            plain.dtype = DTYPE(F32);
            plain.bytes = 4 * tensor_count(core);
            plain.data = (unsigned char *)take_floats(core);
            *core = plain;
            if (transform.block && s == c->op->term[t].n_site - 1)
                transform_rows(transform, (float *)(void *)core->data, tensor_count(core) / c->op->in, c->op->in);
        }
}

static int round_plainly(struct chains *c, struct quantized *result)
{
    int rc = EX_OK;

    for (int t = 0; t < c->op->n_term; t++)
        for (int s = 0; s < c->op->term[t].n_site && !rc; s++)
            if (c->rounds[t][s])
                rc = core_round(&c->op->term[t].core[s], c->how->dtype, c->op->name, &result->difference);
    result->error = result->difference.squares;
    result->norm = result->difference.norm;
    return rc;
}

/* With moments: op's transform is taken off for the time, so that all is in turned coordinates. */
static int round_for_view(struct chains *c, const struct view *view, struct quantized *result)
{
    struct operator *op = c->op;
    struct transform transform = op->input;
    int64_t count = op->out * op->in;
    float *w = xaligned((size_t)count, sizeof *w), *given;
    int rc = EX_OK;

    op->input = (struct transform){0};
    operator_dense(op, w);
    for (int t = 0; t < op->n_term && !rc; t++)
        rc = chain_round(&op->term[t], c->rounds[t], c->how->dtype, view, op->name);
    if (!rc) {
        result->norm = weighted_error(view, w, op->out, op->in);
        given = xaligned((size_t)count, sizeof *given);
        operator_dense(op, given);
        difference_add(&result->difference, w, given, count, 0);
        for (int64_t i = 0; i < count; i++)
            w[i] -= given[i];
        free(given);
        result->error = weighted_error(view, w, op->out, op->in);
    }
    op->input = transform;
    free(w);
    return rc;
}

static int quantize_chains(struct operator *op, const struct quantization *how, struct views *views,
                           struct quantized *result)
{
    struct chains c = {.how = how, .op = op};
    const struct view *view;
    int64_t before = operator_bytes(op);
    int rc = EX_OK;

    look_at_cores(&c);
    if (how->residual_chi)
        inform("'%s': has several cores, and gets no residual", op->name);
    if (how->rotate && !op->input.block && can_be_turned(&c)) {
        struct transform transform = turn_of(op, how);

        open_cores(&c, transform);
        op->input = transform;
    }
    result->done = c.count > 0;
    result->input = op->input;
    if (result->done && how->moments) {
        open_cores(&c, (struct transform){0});
        rc = views_find(views, how->moments, op->input, op->in, &view);
        if (!rc)
            rc = round_for_view(&c, view, result);
    } else if (result->done)
        rc = round_plainly(&c, result);
    for (int t = 0; t < op->n_term; t++)
        free(c.rounds[t]);
    free(c.rounds);
    if (!rc && result->done)
        tell(op, before, result);
    return rc;
}

int quantize_operator(struct operator *op, const struct quantization *how, struct views *views,
                      struct quantized *result)
{
    *result = (struct quantized){0};
    if (operator_is_matrix(op))
        return quantize_matrix(op, how, views, result);
    if (how->fold_output.block)
        return cannot_fold(op);
    return quantize_chains(op, how, views, result);
}

int quantize_inverse(struct operator *op, struct dtype dtype)
{
    int rc = EX_OK;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site && !rc; s++)
            if (dtype_is_packed(op->term[t].core[s].dtype))
                rc = round_inverse(&op->term[t].core[s], dtype, op->name);
    return rc;
}
