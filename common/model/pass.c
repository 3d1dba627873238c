/* pass.c - all sequences through one block after the other. */
#include "model/pass.h"
#include "base/memory.h"
#include "base/progress.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* Rows that go through a block together: many short sequences, or a piece of a long one. */
enum { STEP = 2048, LOGIT_ROWS = 512, LOGIT_BYTES = 64 << 20 };

/* Consecutive sequences with their children: their keys and values are there at the same time. */
struct batch {
    int64_t sequence, count;
    int64_t first, rows;         /* of hidden */
};

struct run {
    struct loader *loader;
    struct forward *forward;
    const struct sequence *sequence;
    int64_t count;
    struct hidden *hidden;
    float *x;                    /* [step, d_model] on the device */
    float *k, *v;                /* [rows of the largest batch, n_kv_head * head_dim] */
    float *host;                 /* [step, d_model] where hidden is a file */
    struct span *span, *part;    /* of a batch, and of a piece of it */
};

static int check_sequence(const struct loader *loader, const struct sequence *sequence, int64_t number)
{
    const struct sequence *s = &sequence[number];
    const struct config *config = &loader->config;
    int64_t length = s->n;

    if (s->parent >= 0) {
        assert(s->parent < number && sequence[s->parent].parent < 0);
        assert(s->parent == number - 1 || sequence[number - 1].parent == s->parent);
        length += sequence[s->parent].n;
    }
    if (length > config->max_position)
        return fail(EX_DATAERR, "'%s': a sequence of %lld tokens, but 'max_position_embeddings' is %lld",
                    loader_name(loader), (long long)length, (long long)config->max_position);
    for (int64_t i = 0; i < s->n; i++)
        if (s->token[i] < 0 || s->token[i] >= config->vocab_size)
            return fail(EX_DATAERR, "'%s': token %lld of sequence %lld is %lld, but 'vocab_size' is %lld",
                        loader_name(loader), (long long)i, (long long)number, (long long)s->token[i],
                        (long long)config->vocab_size);
    return EX_OK;
}

/* The batch behind this one ({0} before the first): at least one sequence with all of its children, then as many more
 * as make STEP rows. False at the end. */
static bool next_batch(const struct run *run, struct batch *batch)
{
    int64_t end;

    batch->sequence += batch->count;
    batch->first += batch->rows;
    batch->count = batch->rows = 0;
    while ((end = batch->sequence + batch->count) < run->count) {
        int64_t rows = 0, group = 0;

        do
            rows += run->sequence[end + group++].n;
        while (end + group < run->count && run->sequence[end + group].parent >= 0);
        if (batch->count && batch->rows + rows > STEP)
            break;
        batch->rows += rows;
        batch->count += group;
    }
    return batch->count > 0;
}

/* Where the rows of each sequence of a batch are, and where its keys and values. */
static void make_spans(const struct run *run, const struct batch *batch)
{
    const struct config *c = run->forward->config;
    int64_t keys = c->n_kv_head * c->head_dim, row = 0, parent_row = 0, parent_n = 0;

    for (int64_t i = 0; i < batch->count; i++) {
        const struct sequence *s = &run->sequence[batch->sequence + i];
        struct span *span = &run->span[i];

        if (s->parent < 0) {
            parent_row = row;
            parent_n = s->n;
        }
        *span = (struct span){.first = row, .n = s->n};
        span->k = run->k + parent_row * keys;
        span->v = run->v + parent_row * keys;
        if (s->parent >= 0) {
            span->past = span->shared = parent_n;
            span->own = row - parent_row;
        }
        row += s->n;
    }
}

/* x to the device, or back. */
static int exchange(const struct run *run, int64_t first, int64_t n, bool back)
{
    const struct device *device = run->forward->device;
    struct hidden *hidden = run->hidden;
    size_t bytes = (size_t)(n * hidden->width) * sizeof *run->x;
    float *host = hidden->data ? hidden->data + first * hidden->width : run->host;
    int rc = EX_OK;

    if (back)
        device->download(host, run->x, bytes);
    if (!hidden->data)
        rc = back ? hidden_write(hidden, first, n, host) : hidden_read(hidden, first, n, host);
    if (!rc && !back)
        device->upload(run->x, host, bytes);
    return rc;
}

static int run_batch(const struct run *run, const struct batch *batch, const struct block *block, int64_t layer)
{
    int rc = EX_OK;

    make_spans(run, batch);
    for (int64_t first = 0; first < batch->rows && !rc; first += STEP) {
        int64_t n = batch->rows - first < STEP ? batch->rows - first : STEP;
        int parts = 0;

        for (int64_t i = 0; i < batch->count; i++)
            parts += span_clip(&run->span[i], first, n, &run->part[parts]);
        if (!(rc = exchange(run, batch->first + first, n, false))) {
            block_forward(run->forward, block, layer, run->part, parts, run->x, n);
            rc = exchange(run, batch->first + first, n, true);
        }
    }
    return rc;
}

static int run_block(const struct run *run, int64_t layer)
{
    struct batch batch = {0};
    struct block block;
    char label[32];
    int rc = loader_block(run->loader, layer, &block);

    while (!rc && next_batch(run, &batch))
        rc = run_batch(run, &batch, &block, layer);
    block_free(&block, run->forward->device);
    snprintf(label, sizeof label, "layer %lld", (long long)layer);
    progress_step(label);
    return rc;
}

/* Embeds the tokens: each sequence in pieces. */
static int run_embedding(const struct run *run, struct applied **embedding)
{
    int64_t row = 0;
    int rc = loader_embedding(run->loader, embedding);

    for (int64_t s = 0; s < run->count && !rc; s++)
        for (int64_t first = 0; first < run->sequence[s].n && !rc; first += STEP) {
            int64_t n = run->sequence[s].n - first < STEP ? run->sequence[s].n - first : STEP;

            embed(run->forward, *embedding, run->sequence[s].token + first, n, run->x);
            rc = exchange(run, row, n, true);
            row += n;
        }
    if (!run->loader->config.tied || rc) {
        apply_free(*embedding);              /* the head borrows nothing */
        *embedding = NULL;
    }
    return rc;
}

static void allocate(struct run *run)
{
    const struct device *device = run->forward->device;
    const struct config *c = run->forward->config;
    size_t keys = (size_t)(c->n_kv_head * c->head_dim), width = (size_t)c->d_model;
    int64_t rows = 1, spans = 1;

    for (struct batch batch = {0}; next_batch(run, &batch);) {
        rows = batch.rows > rows ? batch.rows : rows;
        spans = batch.count > spans ? batch.count : spans;
    }
    run->span = xmallocarray((size_t)spans, sizeof *run->span);
    run->part = xmallocarray((size_t)spans + 1, sizeof *run->part);
    run->k = device->allocate((size_t)rows * keys * sizeof *run->k);
    run->v = device->allocate((size_t)rows * keys * sizeof *run->v);
    rows = rows < STEP ? rows : STEP;
    run->x = device->allocate((size_t)rows * width * sizeof *run->x);
    run->host = run->hidden->data ? NULL : xaligned((size_t)rows * width, sizeof *run->host);
}

static void release(struct run *run)
{
    run->forward->device->release(run->x);
    run->forward->device->release(run->k);
    run->forward->device->release(run->v);
    free(run->host);
    free(run->span);
    free(run->part);
}

static int run_all(struct run *run, struct applied **embedding, struct head *head)
{
    int rc;

    allocate(run);
    progress_start("layers", run->loader->config.n_layer);
    rc = run_embedding(run, embedding);
    for (int64_t layer = 0; layer < run->loader->config.n_layer && !rc; layer++)
        rc = run_block(run, layer);
    release(run);
    if (!rc)
        rc = loader_head(run->loader, *embedding, head);
    progress_stop();
    return rc;
}

int pass_run(struct loader *loader, struct forward *forward, const struct sequence *sequence, int64_t count,
             int64_t memory, struct hidden *hidden, struct applied **embedding, struct head *head)
{
    struct run run = {.loader = loader, .forward = forward, .sequence = sequence, .count = count, .hidden = hidden};
    int64_t rows = 0;
    int rc;

    *embedding = NULL;
    *head = (struct head){0};
    *hidden = (struct hidden){.fd = -1};
    for (int64_t s = 0; s < count; s++) {
        if ((rc = check_sequence(loader, sequence, s)))
            return rc;
        rows += sequence[s].n;
    }
    if ((rc = hidden_open(hidden, rows, loader->config.d_model, memory)))
        return rc;
    if ((rc = run_all(&run, embedding, head))) {
        hidden_close(hidden);
        apply_free(*embedding);
        *embedding = NULL;
    }
    return rc;
}

/* x is on the device, host room for it where hidden is a file, logits on the device: all for step rows. */
static int logits_of(struct forward *forward, const struct hidden *hidden, const struct head *head, int64_t first,
                     int64_t n, float *host, float *x, float *logits)
{
    const float *from = hidden->data ? hidden->data + first * hidden->width : host;
    int rc = hidden->data ? EX_OK : hidden_read(hidden, first, n, host);

    if (rc)
        return rc;
    forward->device->upload(x, from, (size_t)(n * hidden->width) * sizeof *x);
    head_logits(forward, head, x, n, logits);
    return EX_OK;
}

int pass_logits(struct forward *forward, const struct hidden *hidden, const struct head *head, int64_t first, int64_t n,
                int (*take)(void *context, int64_t first, int64_t n, const float *logits), void *context)
{
    const struct device *device = forward->device;
    int64_t vocab = forward->config->vocab_size, step = LOGIT_BYTES / (int64_t)sizeof(float) / vocab;
    float *x, *logits, *host;
    int rc = EX_OK;

    step = step < 1 ? 1 : step > LOGIT_ROWS ? LOGIT_ROWS : step;
    step = step < n ? step : n;
    x = device->allocate((size_t)(step * hidden->width) * sizeof *x);
    logits = device->allocate((size_t)(step * vocab) * sizeof *logits);
    host = hidden->data ? NULL : xaligned((size_t)(step * hidden->width), sizeof *host);
    for (int64_t at = first; at < first + n && !rc; at += step) {
        int64_t rows = first + n - at < step ? first + n - at : step;

        if (!(rc = logits_of(forward, hidden, head, at, rows, host, x, logits)))
            rc = take(context, at, rows, logits);
    }
    device->release(x);
    device->release(logits);
    free(host);
    return rc;
}
