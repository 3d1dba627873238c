/* pass.c - all sequences through one block after the other. */
#include "model/pass.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/progress.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { LOGIT_ROWS = 512, LOGIT_BYTES = 64 << 20 };

/* Consecutive sequences with their children: their keys and values are there at the same time. */
struct batch {
    int64_t sequence, count;
    int64_t first, rows;         /* of hidden */
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
    for (int64_t i = 0; i < s->n && s->token; i++)
        if (s->token[i] < 0 || s->token[i] >= config->vocab_size)
            return fail(EX_DATAERR, "'%s': token %lld of sequence %lld is %lld, but 'vocab_size' is %lld",
                        loader_name(loader), (long long)i, (long long)number, (long long)s->token[i],
                        (long long)config->vocab_size);
    return EX_OK;
}

/* The batch behind this one ({0} before the first): at least one sequence with all of its children, then as many more
 * as make PASS_ROWS rows. False at the end. */
static bool next_batch(const struct pass *pass, struct batch *batch)
{
    int64_t end;

    batch->sequence += batch->count;
    batch->first += batch->rows;
    batch->count = batch->rows = 0;
    while ((end = batch->sequence + batch->count) < pass->count) {
        int64_t rows = 0, group = 0;

        do
            rows += pass->sequence[end + group++].n;
        while (end + group < pass->count && pass->sequence[end + group].parent >= 0);
        if (batch->count && batch->rows + rows > PASS_ROWS)
            break;
        batch->rows += rows;
        batch->count += group;
    }
    return batch->count > 0;
}

/* Where the rows of each sequence of a batch are, and where its keys and values. */
static void make_spans(const struct pass *pass, const struct batch *batch)
{
    const struct config *c = pass->forward->config;
    int64_t keys = c->n_kv_head * c->head_dim, row = 0, parent_row = 0, parent_n = 0;

    for (int64_t i = 0; i < batch->count; i++) {
        const struct sequence *s = &pass->sequence[batch->sequence + i];
        struct span *span = &pass->span[i];

        if (s->parent < 0) {
            parent_row = row;
            parent_n = s->n;
        }
        *span = (struct span){.first = row, .n = s->n};
        span->k = pass->k + parent_row * keys;
        span->v = pass->v + parent_row * keys;
        if (s->parent >= 0) {
            span->past = span->shared = parent_n;
            span->own = row - parent_row;
        }
        row += s->n;
    }
}

/* x to the device, or back. */
static int exchange(const struct pass *pass, int64_t first, int64_t n, bool back)
{
    const struct device *device = pass->forward->device;
    struct hidden *hidden = pass->hidden;
    size_t bytes = (size_t)(n * hidden->width) * sizeof *pass->x;
    float *host = hidden->data ? hidden->data + first * hidden->width : pass->host;
    int rc = EX_OK;

    if (back)
        device->download(host, pass->x, bytes);
    if (!hidden->data)
        rc = back ? hidden_write(hidden, first, n, host) : hidden_read(hidden, first, n, host);
    if (!rc && !back)
        device->upload(pass->x, host, bytes);
    return rc;
}

/* Rows first..first+n-1 of a batch through the block. */
static int run_piece(const struct pass *pass, const struct batch *batch, int64_t first, int64_t n,
                     const struct block *block, int64_t layer)
{
    struct tap *tap = pass->forward->tap;
    int parts = 0, rc = exchange(pass, batch->first + first, n, false);

    if (rc)
        return rc;
    for (int64_t i = 0; i < batch->count; i++)
        parts += span_clip(&pass->span[i], first, n, &pass->part[parts]);
    if (tap)
        tap->first = batch->first + first;
    block_forward(pass->forward, block, layer, pass->part, parts, pass->x, n);
    return tap && tap->last != PARTS ? EX_OK : exchange(pass, batch->first + first, n, true);
}

int pass_block(struct pass pass[], const struct block block[], int count, int64_t layer)
{
    struct batch batch = {0};
    int rc = EX_OK;

    while (!rc && next_batch(pass, &batch)) {
        for (int m = 0; m < count; m++)
            make_spans(&pass[m], &batch);
        for (int64_t first = 0; first < batch.rows && !rc; first += PASS_ROWS) {
            for (int m = 0; m < count && !rc; m++)
                rc = run_piece(&pass[m], &batch, first, least(batch.rows - first, PASS_ROWS), &block[m], layer);
            if (pass->label)
                progress_step(pass->label);
        }
    }
    return rc;
}

int64_t pass_pieces(const struct pass *pass)
{
    int64_t pieces = 0;

    for (struct batch batch = {0}; next_batch(pass, &batch);)
        pieces += divide_up(batch.rows, PASS_ROWS);
    return pieces;
}

int pass_embed(struct pass *pass, struct applied **embedding)
{
    int64_t row = 0;
    int rc = loader_embedding(pass->loader, embedding);

    for (int64_t s = 0; s < pass->count && !rc; s++)
        for (int64_t first = 0; first < pass->sequence[s].n && !rc; first += PASS_ROWS) {
            int64_t n = pass->sequence[s].n - first < PASS_ROWS ? pass->sequence[s].n - first : PASS_ROWS;

            embed(pass->forward, *embedding, pass->sequence[s].token + first, n, pass->x);
            rc = exchange(pass, row, n, true);
            row += n;
        }
    if (!pass->loader->config.tied || rc) {
        apply_free(*embedding);              /* the head borrows nothing */
        *embedding = NULL;
    }
    return rc;
}

static void allocate(struct pass *pass)
{
    const struct device *device = pass->forward->device;
    const struct config *c = pass->forward->config;
    size_t keys = (size_t)(c->n_kv_head * c->head_dim), width = (size_t)c->d_model;
    int64_t rows = 1, spans = 1;

    for (struct batch batch = {0}; next_batch(pass, &batch);) {
        rows = batch.rows > rows ? batch.rows : rows;
        spans = batch.count > spans ? batch.count : spans;
    }
    pass->span = xmallocarray((size_t)spans, sizeof *pass->span);
    pass->part = xmallocarray((size_t)spans + 1, sizeof *pass->part);
    pass->k = device->allocate((size_t)rows * keys * sizeof *pass->k);
    pass->v = device->allocate((size_t)rows * keys * sizeof *pass->v);
    rows = rows < PASS_ROWS ? rows : PASS_ROWS;
    pass->x = device->allocate((size_t)rows * width * sizeof *pass->x);
    pass->host = pass->hidden->data ? NULL : xaligned((size_t)rows * width, sizeof *pass->host);
}

int64_t sequences_rows(const struct sequence *sequence, int64_t count)
{
    int64_t rows = 0;

    for (int64_t s = 0; s < count; s++)
        rows += sequence[s].n;
    return rows;
}

int pass_begin(struct pass *pass, struct loader *loader, struct forward *forward, const struct sequence *sequence,
               int64_t count, struct hidden *hidden)
{
    int rc = EX_OK;

    *pass = (struct pass){.loader = loader, .forward = forward, .sequence = sequence, .count = count, .hidden = hidden};
    for (int64_t s = 0; s < count && !rc; s++)
        rc = check_sequence(loader, sequence, s);
    if (!rc)
        allocate(pass);
    return rc;
}

void pass_end(struct pass *pass)
{
    if (!pass->forward)
        return;
    pass->forward->device->release(pass->x);
    pass->forward->device->release(pass->k);
    pass->forward->device->release(pass->v);
    free(pass->host);
    free(pass->span);
    free(pass->part);
    *pass = (struct pass){0};
}

static int run_block(struct pass *pass, int64_t layer)
{
    struct block block;
    char label[32];
    int rc = loader_block(pass->loader, layer, &block);

    if (!rc)
        rc = pass_block(pass, &block, 1, layer);
    block_free(&block, pass->forward->device);
    snprintf(label, sizeof label, "layer %lld", (long long)layer);
    progress_step(label);
    return rc;
}

static int run_all(struct pass *pass, struct applied **embedding, struct head *head)
{
    struct loader *loader = pass->loader;
    int rc;

    progress_start("layers", loader->config.n_layer);
    rc = pass_embed(pass, embedding);
    for (int64_t layer = 0; layer < loader->config.n_layer && !rc; layer++)
        rc = run_block(pass, layer);
    pass_end(pass);
    if (!rc)
        rc = loader_head(loader, *embedding, head);
    progress_stop();
    return rc;
}

int pass_run(struct loader *loader, struct forward *forward, const struct sequence *sequence, int64_t count,
             int64_t memory, struct hidden *hidden, struct applied **embedding, struct head *head)
{
    int64_t rows = sequences_rows(sequence, count);
    struct pass pass;
    int rc;

    *embedding = NULL;
    *head = (struct head){0};
    if ((rc = hidden_open(hidden, rows, loader->config.d_model, memory)))
        return rc;
    if ((rc = pass_begin(&pass, loader, forward, sequence, count, hidden))
        || (rc = run_all(&pass, embedding, head))) {
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
