/* block_train.c - one block forwards, keeping what it needs to come back, and backwards. Outputs of norms and of
 * silu(gate) * up aren't kept: making them again costs little. */
#include "model/block_train.h"
#include "base/memory.h"
#include "model/block_internal.h"

#include <stdlib.h>

/* What is kept of n rows, contiguous. */
struct kept {
    float *middle;               /* [n, d_model]: x behind attention */
    float *q, *k, *v, *mixed;    /* as attention gets them and gives */
    float *raw_q, *raw_k;        /* before their norms; NULL where there are none */
    float *lse;                  /* [n, n_head] */
    float *gate, *up;            /* [n, d_ff] */
    float *qkv, *o, *gate_up, *down;     /* of the operators, see apply_keep() */
};

/* The operators of a block by their inputs; y is set by who uses them. */
struct parts {
    struct application qkv[3], o[1], gate_up[2], down[1];
};

static struct parts parts_of(const struct config *c, const struct block *block)
{
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;

    return (struct parts){
        .qkv = {{.w = block->q, .stride = queries}, {.w = block->k, .stride = keys}, {.w = block->v, .stride = keys}},
        .o = {{.w = block->o, .stride = c->d_model}},
        .gate_up = {{.w = block->gate, .stride = c->d_ff}, {.w = block->up, .stride = c->d_ff}},
        .down = {{.w = block->down, .stride = c->d_model}}};
}

static size_t lay_out(const struct config *c, const struct block *block, int64_t n, float *memory, struct kept *kept)
{
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    struct parts parts = parts_of(c, block);
    size_t at = 0;

    *kept = (struct kept){.middle = work_cut(memory, &at, n * c->d_model)};
    kept->q = work_cut(memory, &at, n * queries);
    kept->k = work_cut(memory, &at, n * keys);
    kept->v = work_cut(memory, &at, n * keys);
    kept->mixed = work_cut(memory, &at, n * queries);
    if (block->q_norm)
        kept->raw_q = work_cut(memory, &at, n * queries);
    if (block->k_norm)
        kept->raw_k = work_cut(memory, &at, n * keys);
    kept->lse = work_cut(memory, &at, n * c->n_head);
    kept->gate = work_cut(memory, &at, n * c->d_ff);
    kept->up = work_cut(memory, &at, n * c->d_ff);
    kept->qkv = work_cut(memory, &at, n * apply_kept(parts.qkv, 3));
    kept->o = work_cut(memory, &at, n * apply_kept(parts.o, 1));
    kept->gate_up = work_cut(memory, &at, n * apply_kept(parts.gate_up, 2));
    kept->down = work_cut(memory, &at, n * apply_kept(parts.down, 1));
    return at;
}

int64_t block_kept(const struct config *config, const struct block *block, int64_t n)
{
    struct kept kept;

    return (int64_t)lay_out(config, block, n, NULL, &kept);
}

/* Results that a pass needs for itself. */
struct scratch {
    float *hidden;               /* [n, d_model] */
    float *product;              /* [n, d_ff] */
    float *scaled, *dhidden;     /* [n, d_model]; these and what follows backwards only */
    float *dproduct;             /* [n, d_ff] */
    float *dq, *dk, *dv, *dmixed;        /* share the place of product and dproduct */
};

static size_t lay_scratch(const struct config *c, int64_t n, bool back, float *memory, struct scratch *s)
{
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    size_t at = 0, other;

    *s = (struct scratch){.hidden = work_cut(memory, &at, n * c->d_model)};
    if (back) {
        s->scaled = work_cut(memory, &at, n * c->d_model);
        s->dhidden = work_cut(memory, &at, n * c->d_model);
    }
    other = at;
    s->product = work_cut(memory, &at, n * c->d_ff);
    if (back) {
        s->dproduct = work_cut(memory, &at, n * c->d_ff);
        s->dq = work_cut(memory, &other, n * queries);
        s->dk = work_cut(memory, &other, n * keys);
        s->dv = work_cut(memory, &other, n * keys);
        s->dmixed = work_cut(memory, &other, n * queries);
    }
    return other > at ? other : at;
}

static void norm_heads(const struct forward *forward, float *x, float *raw, const float *weight, int64_t n,
                       int64_t heads)
{
    const struct config *c = forward->config;

    if (!weight)
        return;
    forward->device->copy(raw, heads * c->head_dim, x, heads * c->head_dim, n, heads * c->head_dim);
    forward->device->rms_norm(x, x, c->head_dim, weight, n * heads, c->head_dim, c->norm_epsilon);
}

static void project(const struct forward *forward, const struct block *block, const struct kept *k, const float *hidden,
                    int64_t n)
{
    const struct device *device = forward->device;
    const struct config *c = forward->config;
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    struct parts parts = parts_of(c, block);

    parts.qkv[0].y = k->q;
    parts.qkv[1].y = k->k;
    parts.qkv[2].y = k->v;
    apply_keep(parts.qkv, 3, hidden, c->d_model, n, k->qkv);
    bias_rows(device, k->q, block->q_bias, n, queries);
    bias_rows(device, k->k, block->k_bias, n, keys);
    bias_rows(device, k->v, block->v_bias, n, keys);
    norm_heads(forward, k->q, k->raw_q, block->q_norm, n, c->n_head);
    norm_heads(forward, k->k, k->raw_k, block->k_norm, n, c->n_kv_head);
    device->rope(k->q, queries, n, c->n_head, c->head_dim, forward->position, forward->cosine, forward->sine);
    device->rope(k->k, keys, n, c->n_kv_head, c->head_dim, forward->position, forward->cosine, forward->sine);
}

static struct attention attention_of(const struct forward *forward, const struct span *span, int64_t layer,
                                     const struct kept *k)
{
    const struct config *c = forward->config;
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;

    return (struct attention){
        .n = span->n, .window = config_window(c, layer), .n_head = c->n_head, .n_kv_head = c->n_kv_head,
        .head_dim = c->head_dim, .scale = (float)c->attention_scale, .q = k->q + span->first * queries,
        .k = k->k + span->first * keys, .v = k->v + span->first * keys, .out = k->mixed + span->first * queries,
        .q_stride = queries, .kv_stride = keys, .out_stride = queries, .lse = k->lse + span->first * c->n_head};
}

/* y = x + residual_multiplier * (input w' + bias). */
static void add_projection(const struct forward *forward, struct application *w, const float *bias, const float *input,
                           int64_t n, float *kept, float *scratch, const float *x, float *y)
{
    const struct device *device = forward->device;
    int64_t d_model = forward->config->d_model;
    double factor = forward->config->residual_multiplier;

    if (y != x)
        device->copy(y, d_model, x, d_model, n, d_model);
    w->y = factor == 1 ? y : scratch;
    w->add = factor == 1;
    apply_keep(w, 1, input, apply_in(w->w), n, kept);
    bias_rows(device, w->y, bias, n, d_model);
    if (factor != 1)
        device->add_scaled(y, scratch, (float)factor, n * d_model);
}

/* silu(gate) * up */
static void make_product(const struct forward *forward, const struct kept *k, float *product, int64_t n)
{
    int64_t d_ff = forward->config->d_ff;

    forward->device->copy(product, d_ff, k->gate, d_ff, n, d_ff);
    forward->device->silu_multiply(product, k->up, n * d_ff);
}

void block_keep(struct forward *forward, const struct block *block, int64_t layer, const struct span *span, int n_span,
                const float *x, float *y, int64_t n, float *kept)
{
    const struct device *device = forward->device;
    const struct config *c = forward->config;
    struct parts parts = parts_of(c, block);
    struct scratch s;
    struct kept k;

    lay_out(c, block, n, kept, &k);
    forward_ensure(forward, lay_scratch(c, n, false, NULL, &s));
    lay_scratch(c, n, false, forward->work, &s);
    forward_place(forward, span, n_span, n);
    device->rms_norm(s.hidden, x, c->d_model, block->input_norm, n, c->d_model, c->norm_epsilon);
    project(forward, block, &k, s.hidden, n);
    for (int i = 0; i < n_span; i++) {
        struct attention attention = attention_of(forward, &span[i], layer, &k);

        device->attend(&attention);
    }
    add_projection(forward, parts.o, block->o_bias, k.mixed, n, k.o, s.hidden, x, k.middle);
    device->rms_norm(s.hidden, k.middle, c->d_model, block->post_norm, n, c->d_model, c->norm_epsilon);
    parts.gate_up[0].y = k.gate;
    parts.gate_up[1].y = k.up;
    apply_keep(parts.gate_up, 2, s.hidden, c->d_model, n, k.gate_up);
    bias_rows(device, k.gate, block->gate_bias, n, c->d_ff);
    bias_rows(device, k.up, block->up_bias, n, c->d_ff);
    make_product(forward, &k, s.product, n);
    add_projection(forward, parts.down, block->down_bias, s.product, n, k.down, s.hidden, k.middle, y);
}

/* Rows on their way back through a block. */
struct returning {
    const struct forward *forward;
    const struct block *block;
    const struct block_gradients *gradients;
    int64_t layer, n;
    const struct span *span;
    int n_span;
    struct parts parts;
    struct kept kept;
    struct scratch scratch;
    const float *x;
    float *dx;                   /* of what left the block, then of what entered it */
};

/* What comes back through a projection that add_projection() added: residual_multiplier * dx, in w->y. */
static void scale_back(const struct returning *r, struct application *w)
{
    const struct device *device = r->forward->device;
    int64_t d_model = r->forward->config->d_model;
    double factor = r->forward->config->residual_multiplier;

    w->y = r->dx;
    if (factor == 1)
        return;
    device->copy(r->scratch.scaled, d_model, r->dx, d_model, r->n, d_model);
    device->scale(r->scratch.scaled, (float)factor, r->n * d_model);
    w->y = r->scratch.scaled;
}

/* dx += what comes back through a norm over d_model of these x, from scratch.dhidden. */
static void norm_back(const struct returning *r, const float *x, const float *weight, float *dweight)
{
    const struct config *c = r->forward->config;

    r->forward->device->rms_norm_back(r->dx, true, dweight, r->scratch.dhidden, x, c->d_model, weight, r->n,
                                      c->d_model, c->norm_epsilon);
}

static void feed_back(struct returning *r)
{
    const struct device *device = r->forward->device;
    const struct config *c = r->forward->config;
    const struct kept *k = &r->kept;
    const struct scratch *s = &r->scratch;

    scale_back(r, r->parts.down);
    make_product(r->forward, k, s->product, r->n);
    apply_back(r->parts.down, 1, s->product, c->d_ff, r->n, k->down, s->dproduct, false);
    device->silu_multiply_back(k->gate, k->up, s->dproduct, r->n * c->d_ff);
    device->rms_norm(s->hidden, k->middle, c->d_model, r->block->post_norm, r->n, c->d_model, c->norm_epsilon);
    r->parts.gate_up[0].y = k->gate;
    r->parts.gate_up[1].y = k->up;
    apply_back(r->parts.gate_up, 2, s->hidden, c->d_model, r->n, k->gate_up, s->dhidden, false);
    norm_back(r, k->middle, r->block->post_norm, r->gradients->post_norm);
}

static void attend_all_back(const struct returning *r)
{
    const struct config *c = r->forward->config;
    const struct scratch *s = &r->scratch;
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    struct attention *attention = xmallocarray((size_t)r->n_span, sizeof *attention);
    struct attention_back *back = xmallocarray((size_t)r->n_span, sizeof *back);

    for (int i = 0; i < r->n_span; i++) {
        int64_t first = r->span[i].first;

        attention[i] = attention_of(r->forward, &r->span[i], r->layer, &r->kept);
        back[i] = (struct attention_back){&attention[i], s->dmixed + first * queries, s->dq + first * queries,
                                          s->dk + first * keys, s->dv + first * keys};
    }
    r->forward->device->attend_back(back, r->n_span);
    free(attention);
    free(back);
}

/* Queries or keys before their turn, and before their norm where they have one. */
static void heads_back(const struct returning *r, float *dx, const float *raw, const float *weight, float *dweight,
                       int64_t heads)
{
    const struct forward *f = r->forward;
    const struct config *c = f->config;

    f->device->rope(dx, heads * c->head_dim, r->n, heads, c->head_dim, f->position, f->cosine, f->back_sine);
    if (weight)
        f->device->rms_norm_back(dx, false, dweight, dx, raw, c->head_dim, weight, r->n * heads, c->head_dim,
                                 c->norm_epsilon);
}

static void attention_back(struct returning *r)
{
    const struct config *c = r->forward->config;
    const struct scratch *s = &r->scratch;

    scale_back(r, r->parts.o);
    apply_back(r->parts.o, 1, r->kept.mixed, c->n_head * c->head_dim, r->n, r->kept.o, s->dmixed, false);
    attend_all_back(r);
    heads_back(r, s->dq, r->kept.raw_q, r->block->q_norm, r->gradients->q_norm, c->n_head);
    heads_back(r, s->dk, r->kept.raw_k, r->block->k_norm, r->gradients->k_norm, c->n_kv_head);
    r->forward->device->rms_norm(s->hidden, r->x, c->d_model, r->block->input_norm, r->n, c->d_model,
                                 c->norm_epsilon);
    r->parts.qkv[0].y = s->dq;
    r->parts.qkv[1].y = s->dk;
    r->parts.qkv[2].y = s->dv;
    apply_back(r->parts.qkv, 3, s->hidden, c->d_model, r->n, r->kept.qkv, s->dhidden, false);
    norm_back(r, r->x, r->block->input_norm, r->gradients->input_norm);
}

void block_back(struct forward *forward, const struct block *block, const struct block_gradients *gradients,
                int64_t layer, const struct span *span, int n_span, const float *x, float *dx, int64_t n, float *kept)
{
    const struct config *c = forward->config;
    struct returning r = {.forward = forward, .block = block, .gradients = gradients, .layer = layer, .n = n,
                          .span = span, .n_span = n_span, .parts = parts_of(c, block), .x = x, .dx = dx};

    lay_out(c, block, n, kept, &r.kept);
    forward_ensure(forward, lay_scratch(c, n, true, NULL, &r.scratch));
    lay_scratch(c, n, true, forward->work, &r.scratch);
    forward_place(forward, span, n_span, n);
    feed_back(&r);
    attention_back(&r);
}
