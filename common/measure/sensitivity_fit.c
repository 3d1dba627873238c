/* sensitivity_fit.c - the matrices of a model one block at a time, and what settings make of them. */
#include "base/memory.h"
#include "fit/aware.h"
#include "fit/decompose.h"
#include "measure/sensitivity_internal.h"
#include "model/block.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct place places[PLACES] = {
    {"mlp.down_proj.weight", offsetof(struct block, down)},
    {"mlp.gate_proj.weight", offsetof(struct block, gate)},
    {"mlp.up_proj.weight", offsetof(struct block, up)},
    {"self_attn.k_proj.weight", offsetof(struct block, k)},
    {"self_attn.o_proj.weight", offsetof(struct block, o)},
    {"self_attn.q_proj.weight", offsetof(struct block, q)},
    {"self_attn.v_proj.weight", offsetof(struct block, v)},
};

char *setting_plan(const struct sensitivity_setting *setting)
{
    const struct dtype *dtype = &setting->dtype;
    char group[16] = "row";

    if (setting->chi)
        return xasprintf("chi=%lld", (long long)setting->chi);
    if (setting->keep > 0)
        return xasprintf("keep=%g", setting->keep);
    if (dtype->group != GROUP_ROW)
        snprintf(group, sizeof group, "%d", dtype->group);
    return xasprintf("bits=%d group=%s zero=%s", dtype->bits, group, dtype_zero_names[dtype->zero]);
}

int matrices_open(struct matrices *m, const char *path, const char *moments)
{
    *m = (struct matrices){.path = path, .block = -1};
    return moments ? moments_open(&m->moments, moments) : EX_OK;
}

static void drop_block(struct matrices *m)
{
    for (int i = 0; i < PLACES; i++)
        operator_free(&m->op[i]);
    views_free(m->views);
    m->views = NULL;
    m->block = -1;
}

static void rewind_source(struct matrices *m)
{
    if (m->pending)
        record_free(&m->next);
    if (m->open)
        source_close(&m->source);
    m->pending = m->open = false;
}

void matrices_close(struct matrices *m)
{
    drop_block(m);
    rewind_source(m);
    moments_close(m->moments);
    *m = (struct matrices){.block = -1};
}

static int place_of(const char *name)
{
    const char *part = strchr(name + strlen("model.layers."), '.') + 1;

    for (int i = 0; i < PLACES; i++)
        if (!strcmp(part, places[i].name))
            return i;
    return -1;
}

/* Takes the next record, of the block wanted, or passes it over; false in *more behind the block. */
static int take_record(struct matrices *m, int64_t block, bool *more)
{
    int64_t here;
    enum section section;
    int place, rc = EX_OK;

    if (!m->pending && (rc = source_next(&m->source, &m->next)))
        return rc;
    m->pending = true;
    section = m->next.kind == RECORD_END ? SECTION_OTHER : m->next.kind == RECORD_FILE ? SECTION_FILES
            : record_section(m->next.name, &here);
    *more = section < SECTION_BLOCKS || (section == SECTION_BLOCKS && here <= block);
    if (!*more)
        return EX_OK;
    if (section == SECTION_BLOCKS && here == block && operator_begins(&m->next)
        && (place = place_of(m->next.name)) >= 0)
        rc = operator_read(&m->source, &m->next, &m->op[place]);
    record_free(&m->next);
    m->pending = false;
    return rc;
}

static int seek_block(struct matrices *m, int64_t block)
{
    bool back = block < m->block, more = true;
    int rc = EX_OK;

    if (block == m->block)
        return EX_OK;
    drop_block(m);
    if (back)
        rewind_source(m);
    if (!m->open) {
        if ((rc = source_open(&m->source, m->path)))
            return rc;
        m->open = true;
    }
    while (!rc && more)
        rc = take_record(m, block, &more);
    m->block = block;
    m->views = views_new();
    return rc;
}

/* W in f32, one core; the caller's. */
static struct operator dense(const struct operator *op)
{
    struct tensor w = tensor_new(DTYPE(F32), 2, (int64_t []){op->out, op->in});

    operator_dense(op, (float *)(void *)w.data);
    return operator_from_matrix(op->name, &w);
}

static struct mpo_shape matrix_shape(const struct operator *op)
{
    return (struct mpo_shape){.n_site = 2, .out = {op->out, 1}, .in = {1, op->in}};
}

static int truncate_plainly(struct operator *op, const struct mpo_budget *budget, double *error, double *norm)
{
    struct decomposition how = {.budget = *budget, .shape = matrix_shape(op), .dtype = DTYPE(F16), .force = true};
    struct decomposed result;
    int rc = decompose(op, &how, &result);

    *error = result.difference.squares;
    *norm = result.difference.norm;
    return rc;
}

static struct tensor half(const float *values, int64_t left, int64_t out, int64_t in, int64_t right)
{
    struct tensor core = tensor_new(DTYPE(F16), 4, (int64_t []){left, out, in, right});

    tensor_set(&core, values);
    return core;
}

/* The best low-rank matrix for the moments, cores as they are stored. */
static int truncate_aware(struct operator *op, const struct moments *h, int64_t rank, double *error, double *norm)
{
    int64_t out = op->out, in = op->in;
    float *w = (float *)(void *)op->term[0].core[0].data, *u, *v;
    struct tensor core[2];
    int rc;

    rank = rank < out ? rank : out;
    rank = rank < in ? rank : in;
    u = xaligned((size_t)(out * rank), sizeof *u);
    v = xaligned((size_t)(rank * in), sizeof *v);
    if (!(rc = aware_low_rank(w, out, in, h, op->name, rank, u, v, error))) {
        struct operator fitted;
        float *given = xaligned((size_t)(out * in), sizeof *given);

        core[0] = half(u, 1, out, 1, rank);
        core[1] = half(v, rank, 1, in, 1);
        fitted = operator_from_cores(op->name, 2, core);
        operator_dense(&fitted, given);
        for (int64_t i = 0; i < out * in; i++)
            given[i] = w[i] - given[i];
        *error = moments_error(h, given, out);
        *norm = moments_error(h, w, out);
        free(given);
        operator_free(op);
        *op = fitted;
    }
    free(u);
    free(v);
    return rc;
}

static int round_matrix(struct matrices *m, struct operator *op, const struct moment_set *set, struct dtype dtype,
                        double *error, double *norm)
{
    struct quantization how = {.dtype = dtype, .moments = set, .alternations = 1};
    struct quantized result = {0};
    char name[DTYPE_NAME];
    int rc = quantize_operator(op, &how, m->views, &result);

    if (!rc && !result.done)
        rc = fail(EX_DATAERR, "'%s' doesn't get smaller as %s", op->name, dtype_name(dtype, name));
    *error = result.error;
    *norm = result.norm;
    return rc;
}

int matrices_compress(struct matrices *m, int64_t block, int place, const struct sensitivity_setting *setting,
                      struct operator *op, double *error, double *norm)
{
    const struct moment_set *set = NULL;
    struct mpo_budget budget = {.limit = setting->chi ? MPO_CHI : MPO_KEEP, .chi = setting->chi, .part = setting->keep};
    int rc = seek_block(m, block);

    *op = (struct operator){0};
    if (rc)
        return rc;
    if (!m->op[place].n_term)
        return fail(EX_DATAERR, "'%s': no 'model.layers.%lld.%s' to compress", m->path, (long long)block,
                    places[place].name);
    if (m->moments && (rc = moments_find(m->moments, m->op[place].name, m->op[place].in, &set)))
        return rc;
    *op = dense(&m->op[place]);
    if (!setting->chi && !(setting->keep > 0)) {
        rc = round_matrix(m, op, set, setting->dtype, error, norm);
    } else if (set) {
        struct mpo_shape shape = matrix_shape(op);

        rc = truncate_aware(op, &set->h, mpo_chi(&shape, &budget, false), error, norm);
    } else {
        rc = truncate_plainly(op, &budget, error, norm);
    }
    if (rc)
        operator_free(op);
    return rc;
}
