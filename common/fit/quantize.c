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

/* What is turned on both sides must not see the same turn there: of a matrix near 1, T W T' would be one as well. */
static uint64_t output_seed(const struct quantization *how)
{
    return (how->seed + 1) & INT64_MAX;
}

struct transform quantize_turn(const struct quantization *how, int64_t width)
{
    int64_t block = how->rotate > 0 ? transform_block(how->rotate, width) : 1;

    if (how->rotate == ROTATE_FULL)
        return transform_full(width, how->seed);
    return block > 1 ? (struct transform){.block = block, .seed = how->seed} : (struct transform){0};
}

static int64_t width_of(const struct operator *op, const struct quantization *how)
{
    return how->fold_input ? how->fold_input : op->in;
}

/* The turns of an operator: its own, or new ones. */
static void choose_turns(const struct operator *op, const struct quantization *how, struct transform *input,
                         struct transform *output)
{
    *input = op->input;
    *output = op->output;
    if (!how->rotate || operator_is_turned(op))
        return;
    *input = quantize_turn(how, width_of(op, how));
    if (how->rotate == ROTATE_FULL && !how->fold_output.block)
        *output = transform_full(op->out, output_seed(how));
    if (!input->block)
        inform("'%s': no turn fits an input of %lld, which stays as it is", op->name, (long long)op->in);
}

/* Whether a core is plain and would get smaller, with so many bytes beside it. */
static bool to_be_rounded(const struct tensor *core, struct dtype dtype, int64_t beside, const char *name)
{
    int64_t bytes = dtype_payload(dtype, core->rank, core->shape) + beside;

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
    struct transform input, output;
    int64_t width;               /* of the input's */
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

static void turn(const struct fitting *f, float *w)
{
    transform_rows(f->input, w, f->matrix.out * (f->matrix.in / f->width), f->width);
    transform_columns(f->output, f->matrix.out, w, f->matrix.out, f->matrix.in);
}

static void turn_back(const struct fitting *f, float *w)
{
    transform_rows_inverse(f->input, w, f->matrix.out * (f->matrix.in / f->width), f->width);
    transform_columns_inverse(f->output, f->matrix.out, w, f->matrix.out, f->matrix.in);
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
    rc = aware_target(plain, f->matrix.out, f->how->moments, aware_damping, target);
    if (!rc) {
        turn(f, target);
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

static void tell(const struct operator *op, int64_t before, const struct quantized *result)
{
    char dtype[DTYPE_NAME], residual[64] = "";
    struct text turned = {0};

    if (op->n_term > 1)
        snprintf(residual, sizeof residual, " + rank %lld", (long long)op->term[1].core[0].shape[3]);
    transform_print(result->input, ", input by ", &turned);
    transform_print(result->output, ", output by ", &turned);
    inform("'%s': %s%s%s%s, %lld bytes of %lld, relative error %.6g, weighted %.6g", op->name,
           dtype_name(op->term[0].core[0].dtype, dtype), residual, turned.data ? turned.data : "",
           result->sequential ? ", sequential target" : "", (long long)operator_bytes(op), (long long)before,
           difference_error(&result->difference), result->norm > 0 ? sqrt(result->error / result->norm) : 0);
    text_free(&turned);
}

/* W is there in f32 alone from here on. */
static int fit_matrix(struct operator *op, struct fitting *f, const struct quantization *how, struct quantized *result)
{
    float *w = take_floats(&op->term[0].core[0]);
    struct operator fitted = {0};
    int rc;

    if (how->fold_output.block)
        transform_columns(how->fold_output, how->fold_size, w, op->out, op->in);
    if (!operator_is_turned(op))
        turn(f, w);
    rc = fit(f, w, &fitted, &result->error, &result->norm);
    if (!rc && aware_has_reference(how->moments))
        rc = try_sequential(f, w, &fitted, result);
    if (!rc) {
        result->difference = operator_difference_from(w, &fitted);
        if (!how->fold_input)
            fitted.input = f->input;
        fitted.output = f->output;
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
    struct fitting f = {.how = how, .matrix = {op->name, op->out, op->in, NULL}, .width = width_of(op, how)};
    int64_t before = core->bytes;
    int rc = EX_OK;

    if (how->fold_output.block && (op->out % how->fold_size || op->output.block))
        return cannot_fold(op);
    if (!to_be_rounded(core, how->dtype, mixture_residual_bytes(how, op->out, op->in), op->name))
        return how->fold_output.block ? cannot_fold(op) : EX_OK;
    choose_turns(op, how, &f.input, &f.output);
    result->done = true;
    result->input = f.input;
    result->output = f.output;
    if (!how->moments && !how->residual_chi && !how->fold_output.block && transform_same(f.input, op->input)
        && transform_same(f.output, op->output)) {
        rc = core_round(core, how->dtype, op->name, &result->difference);
        result->error = result->difference.squares;
        result->norm = result->difference.norm;
    } else {
        if (how->moments)
            rc = views_find(views, how->moments, f.input, f.width, feedback_block(how->dtype), &f.matrix.view);
        if (!rc)
            rc = fit_matrix(op, &f, how, result);
    }
    if (!rc)
        tell(op, before, result);
    return rc;
}

/* Several cores: which of them are to be rounded. */
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
            c->count += c->rounds[t][s] = to_be_rounded(&op->term[t].core[s], c->how->dtype, 0, op->name);
    }
}

/* The input's axis lies in the last core of each term, the output's in the first, which are on their way to f32 and
 * codes. */
static bool can_be_turned(const struct chains *c, bool output)
{
    for (int t = 0; t < c->op->n_term; t++) {
        const struct chain *chain = &c->op->term[t];
        int s = output ? 0 : chain->n_site - 1;

        if (chain->core[s].shape[output ? 1 : 2] != (output ? c->op->out : c->op->in) || !c->rounds[t][s])
            return false;
    }
    return true;
}

/* Cores to be rounded to f32, and turned. */
static void open_cores(struct chains *c, struct transform input, struct transform output)
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
            if (input.block && s == c->op->term[t].n_site - 1)
                transform_rows(input, (float *)(void *)core->data, tensor_count(core) / c->op->in, c->op->in);
            if (output.block && s == 0)
                transform_columns(output, c->op->out, (float *)(void *)core->data, c->op->out,
                                  tensor_count(core) / c->op->out);
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

/* With moments: op's transforms are taken off for the time, so that all is in turned coordinates. */
static int round_for_view(struct chains *c, const struct view *view, struct quantized *result)
{
    struct operator *op = c->op;
    struct transform input = op->input, output = op->output;
    int64_t count = op->out * op->in;
    float *w = xaligned((size_t)count, sizeof *w), *given;
    int rc = EX_OK;

    op->input = op->output = (struct transform){0};
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
    op->input = input;
    op->output = output;
    free(w);
    return rc;
}

/* Input and output are turned each for itself. */
static void turn_cores(struct chains *c)
{
    struct operator *op = c->op;
    struct transform input, output;

    if (!c->how->rotate || operator_is_turned(op))
        return;
    choose_turns(op, c->how, &input, &output);
    if (!can_be_turned(c, false))
        input = (struct transform){0};
    if (!can_be_turned(c, true))
        output = (struct transform){0};
    if (input.block || output.block)
        open_cores(c, input, output);
    op->input = input;
    op->output = output;
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
    turn_cores(&c);
    result->done = c.count > 0;
    result->input = op->input;
    result->output = op->output;
    if (result->done && how->moments) {
        open_cores(&c, (struct transform){0}, (struct transform){0});
        rc = views_find(views, how->moments, op->input, op->in, feedback_block(how->dtype), &view);
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
