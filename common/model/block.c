/* block.c - the forward pass of one block, and what stands before and behind the blocks. */
#include "model/block_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "model/rotary.h"

#include <stdlib.h>

/* Rows of a batch that are done together: as many as fit the workspace, within these bounds. */
enum { ROWS_LEAST = 64, ROWS_MOST = 2048, POSITIONS_LEAST = 512 };
enum { WORK_MOST = 128 << 20, WORK_ALIGN = 16 };         /* bytes; floats */

const char *const part_names[] = {"qkv", "o", "gateup", "down", NULL};

int64_t part_width(const struct config *config, enum block_part part)
{
    return part == PART_O ? config->n_head * config->head_dim : part == PART_DOWN ? config->d_ff : config->d_model;
}

void block_free(struct block *block, const struct device *device)
{
    struct applied *const matrices[] = {block->q, block->k, block->v, block->o, block->gate, block->up, block->down};
    float *const vectors[] = {block->input_norm, block->post_norm, block->q_norm, block->k_norm, block->q_bias,
                              block->k_bias, block->v_bias, block->o_bias, block->gate_bias, block->up_bias,
                              block->down_bias};

    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        apply_free(matrices[i]);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        device->release(vectors[i]);
    *block = (struct block){0};
}

int64_t block_bytes(const struct block *block)
{
    const struct applied *const matrices[] = {block->q, block->k, block->v, block->o, block->gate, block->up,
                                              block->down};
    int64_t sum = block->vector_bytes;

    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        sum += apply_bytes(matrices[i]);
    return sum;
}

void head_free(struct head *head, const struct device *device)
{
    device->release(head->norm);
    apply_free(head->own);
    *head = (struct head){0};
}

void forward_begin(struct forward *forward, const struct device *device, const struct config *config)
{
    *forward = (struct forward){.device = device, .config = config};
}

void forward_end(struct forward *forward)
{
    forward->device->release(forward->cosine);
    forward->device->release(forward->sine);
    forward->device->release(forward->back_sine);
    forward->device->release(forward->work);
    free(forward->position);
    *forward = (struct forward){0};
}

static float *upload_new(const struct device *device, const float *host, size_t count)
{
    float *memory = device->allocate(count * sizeof *memory);

    device->upload(memory, host, count * sizeof *memory);
    return memory;
}

/* Makes the tables of rotary embeddings reach so many positions. They grow by doubling. */
static void reach(struct forward *forward, int64_t positions)
{
    const struct config *config = forward->config;
    int64_t grown = least(most(2 * forward->positions, POSITIONS_LEAST), config->max_position);
    size_t count;
    float *cosine, *sine;

    if (positions <= forward->positions)
        return;
    grown = most(grown, positions);
    count = (size_t)grown * (size_t)config->head_dim / 2;
    cosine = xmallocarray(count, sizeof *cosine);
    sine = xmallocarray(count, sizeof *sine);
    rotary_tables(config, grown, cosine, sine);
    forward->device->release(forward->cosine);
    forward->device->release(forward->sine);
    forward->device->release(forward->back_sine);
    forward->cosine = upload_new(forward->device, cosine, count);
    forward->sine = upload_new(forward->device, sine, count);
    for (size_t i = 0; i < count; i++)
        sine[i] = -sine[i];
    forward->back_sine = upload_new(forward->device, sine, count);
    forward->positions = grown;
    free(cosine);
    free(sine);
}

float *work_cut(float *work, size_t *at, int64_t count)
{
    size_t first = *at;

    *at += ((size_t)count + WORK_ALIGN - 1) / WORK_ALIGN * WORK_ALIGN;
    return work ? work + first : NULL;
}

void forward_ensure(struct forward *forward, size_t floats)
{
    if (floats * sizeof(float) <= forward->work_bytes)
        return;
    forward->device->release(forward->work);
    forward->work_bytes = floats * sizeof(float);
    forward->work = forward->device->allocate(forward->work_bytes);
}

/* Intermediate results of n rows, contiguous; those of the two halves of a block share their place. */
struct scratch {
    float *hidden;               /* [n, d_model] */
    float *q, *k, *v, *mixed;    /* [n, n_head * head_dim], keys and values [n, n_kv_head * head_dim] */
    float *gate, *up;            /* [n, d_ff] */
};

static size_t lay_out(const struct config *config, int64_t n, float *work, struct scratch *scratch)
{
    int64_t queries = config->n_head * config->head_dim, keys = config->n_kv_head * config->head_dim;
    size_t at = 0, other;

    scratch->hidden = work_cut(work, &at, n * config->d_model);
    other = at;
    scratch->q = work_cut(work, &at, n * queries);
    scratch->k = work_cut(work, &at, n * keys);
    scratch->v = work_cut(work, &at, n * keys);
    scratch->mixed = work_cut(work, &at, n * queries);
    scratch->gate = work_cut(work, &other, n * config->d_ff);
    scratch->up = work_cut(work, &other, n * config->d_ff);
    return other > at ? other : at;
}

static int64_t rows_together(const struct config *config)
{
    struct scratch scratch;
    int64_t bytes = (int64_t)(lay_out(config, WORK_ALIGN, NULL, &scratch) / WORK_ALIGN * sizeof(float));

    return least(most(WORK_MOST / bytes, ROWS_LEAST), ROWS_MOST);
}

void bias_rows(const struct device *device, float *y, const float *bias, int64_t n, int64_t d)
{
    if (bias)
        device->add_bias(y, d, bias, n, d);
}

/* x += residual_multiplier * (input w' + bias), all rows contiguous. */
static void add_projection(const struct forward *forward, const struct applied *w, const float *bias,
                           const float *input, int64_t n, float *scratch, float *x)
{
    const struct device *device = forward->device;
    int64_t d_model = forward->config->d_model;
    double factor = forward->config->residual_multiplier;
    bool straight = factor == 1;
    float *y = straight ? x : scratch;

    apply(&(struct application){.w = w, .y = y, .stride = d_model, .add = straight}, 1, input, apply_in(w), n);
    bias_rows(device, y, bias, n, d_model);
    if (!straight)
        device->add_scaled(x, y, (float)factor, n * d_model);
}

bool span_clip(const struct span *span, int64_t first, int64_t n, struct span *part)
{
    int64_t from = most(span->first, first), to = least(span->first + span->n, first + n);

    *part = *span;
    part->first = from - first;
    part->n = to - from;
    part->past = span->past + from - span->first;
    return to > from;
}

/* Queries, keys and values of n rows that stand at these (host) positions. */
static void project(const struct forward *forward, const struct block *block, const struct scratch *s, int64_t n,
                    const int32_t *position)
{
    const struct device *device = forward->device;
    const struct config *c = forward->config;
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    struct application three[] = {{.w = block->q, .y = s->q, .stride = queries},
                                  {.w = block->k, .y = s->k, .stride = keys},
                                  {.w = block->v, .y = s->v, .stride = keys}};

    apply(three, 3, s->hidden, c->d_model, n);
    bias_rows(device, s->q, block->q_bias, n, queries);
    bias_rows(device, s->k, block->k_bias, n, keys);
    bias_rows(device, s->v, block->v_bias, n, keys);
    if (block->q_norm)
        device->rms_norm(s->q, s->q, c->head_dim, block->q_norm, n * c->n_head, c->head_dim, c->norm_epsilon);
    if (block->k_norm)
        device->rms_norm(s->k, s->k, c->head_dim, block->k_norm, n * c->n_kv_head, c->head_dim, c->norm_epsilon);
    device->rope(s->q, queries, n, c->n_head, c->head_dim, position, forward->cosine, forward->sine);
    device->rope(s->k, keys, n, c->n_kv_head, c->head_dim, position, forward->cosine, forward->sine);
}

/* Attention of a span whose first row is row first of the scratch. Its keys and values go where they are kept. */
static void attend_span(const struct forward *forward, const struct span *span, int64_t layer, const struct scratch *s)
{
    const struct device *device = forward->device;
    const struct config *c = forward->config;
    int64_t queries = c->n_head * c->head_dim, keys = c->n_kv_head * c->head_dim;
    int64_t row = span->own + span->past - span->shared;

    device->copy(span->k + row * keys, keys, s->k + span->first * keys, keys, span->n, keys);
    device->copy(span->v + row * keys, keys, s->v + span->first * keys, keys, span->n, keys);
    device->attend(&(struct attention){
        .n = span->n, .past = span->past, .shared = span->shared, .own = span->own,
        .window = config_window(c, layer), .n_head = c->n_head, .n_kv_head = c->n_kv_head, .head_dim = c->head_dim,
        .scale = (float)c->attention_scale, .q = s->q + span->first * queries, .k = span->k, .v = span->v,
        .out = s->mixed + span->first * queries, .q_stride = queries, .kv_stride = keys, .out_stride = queries});
}

/* Shows the input of a part to whoever looks on; true where the rows go on to it. */
static bool pass_part(const struct forward *forward, enum block_part part, int64_t first, const float *x, int64_t n)
{
    const struct tap *tap = forward->tap;

    if (!tap)
        return true;
    tap->see(tap->context, part, tap->first + first, x, n);
    return part != tap->last;
}

/* The second half of a block: x of n rows, the first of them number first. */
static void feed_forward(const struct forward *forward, const struct block *block, const struct scratch *s, float *x,
                         int64_t first, int64_t n)
{
    const struct device *device = forward->device;
    const struct config *c = forward->config;
    struct application two[] = {{.w = block->gate, .y = s->gate, .stride = c->d_ff},
                                {.w = block->up, .y = s->up, .stride = c->d_ff}};

    device->rms_norm(s->hidden, x, c->d_model, block->post_norm, n, c->d_model, c->norm_epsilon);
    if (!pass_part(forward, PART_GATEUP, first, s->hidden, n))
        return;
    apply(two, 2, s->hidden, c->d_model, n);
    bias_rows(device, s->gate, block->gate_bias, n, c->d_ff);
    bias_rows(device, s->up, block->up_bias, n, c->d_ff);
    device->silu_multiply(s->gate, s->up, n * c->d_ff);
    if (pass_part(forward, PART_DOWN, first, s->gate, n))
        add_projection(forward, block->down, block->down_bias, s->gate, n, s->hidden, x);
}

void forward_place(struct forward *forward, const struct span *span, int n_span, int64_t n)
{
    int64_t reached = 0;

    if (n > forward->n_position) {
        forward->position = xreallocarray(forward->position, (size_t)n, sizeof *forward->position);
        forward->n_position = n;
    }
    for (int s = 0; s < n_span; s++) {
        for (int64_t i = 0; i < span[s].n; i++)
            forward->position[span[s].first + i] = (int32_t)(span[s].past + i);
        reached = most(reached, span[s].past + span[s].n);
    }
    reach(forward, reached);
}

/* The first half of a block: attention of rows first..first+n-1, which x begins with; false where they go no
 * further. */
static bool attend(const struct forward *forward, const struct block *block, int64_t layer, const struct span *span,
                   int n_span, const struct scratch *s, float *x, int64_t first, int64_t n)
{
    const struct config *c = forward->config;
    struct span part;

    forward->device->rms_norm(s->hidden, x, c->d_model, block->input_norm, n, c->d_model, c->norm_epsilon);
    if (!pass_part(forward, PART_QKV, first, s->hidden, n))
        return false;
    project(forward, block, s, n, forward->position + first);
    for (int i = 0; i < n_span; i++)
        if (span_clip(&span[i], first, n, &part))
            attend_span(forward, &part, layer, s);
    if (!pass_part(forward, PART_O, first, s->mixed, n))
        return false;
    add_projection(forward, block->o, block->o_bias, s->mixed, n, s->hidden, x);
    return true;
}

int64_t block_work(const struct config *config, int64_t n)
{
    struct scratch s;

    return (int64_t)(lay_out(config, least(rows_together(config), n), NULL, &s) * sizeof(float));
}

/* Pieces in ascending order, each through the whole block: a row sees rows before it only, whose keys are there. */
void block_forward(struct forward *forward, const struct block *block, int64_t layer, const struct span *span,
                   int n_span, float *x, int64_t n)
{
    const struct config *c = forward->config;
    int64_t step = least(rows_together(c), n);
    struct scratch s;

    forward_ensure(forward, lay_out(c, step, NULL, &s));
    forward_place(forward, span, n_span, n);
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = least(step, n - first);
        float *at = x + first * c->d_model;

        lay_out(c, rows, forward->work, &s);
        if (attend(forward, block, layer, span, n_span, &s, at, first, rows))
            feed_forward(forward, block, &s, at, first, rows);
    }
}

void embed(struct forward *forward, const struct applied *embedding, const int32_t *token, int64_t n, float *x)
{
    const struct config *c = forward->config;

    apply_gather(embedding, token, n, x, c->d_model);
    if (c->embedding_multiplier != 1)
        forward->device->scale(x, (float)c->embedding_multiplier, n * c->d_model);
}

void head_logits(struct forward *forward, const struct head *head, const float *x, int64_t n, float *logits)
{
    const struct config *c = forward->config;
    int64_t step = least(rows_together(c), n);
    float *hidden;

    forward_ensure(forward, (size_t)(step * c->d_model));
    hidden = forward->work;
    for (int64_t first = 0; first < n; first += step) {
        int64_t rows = least(step, n - first);
        float *y = logits + first * c->vocab_size;

        forward->device->rms_norm(hidden, x + first * c->d_model, c->d_model, head->norm, rows, c->d_model,
                                  c->norm_epsilon);
        apply(&(struct application){.w = head->w, .y = y, .stride = c->vocab_size}, 1, hidden, c->d_model, rows);
        if (c->logits_scaling != 1)
            forward->device->scale(y, (float)(1 / c->logits_scaling), rows * c->vocab_size);
    }
}
