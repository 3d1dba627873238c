/* loss.c - through the head and back, some rows at a time. */
#include "train/loss.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdlib.h>

enum { LOGIT_ROWS = 512, LOGIT_BYTES = 64 << 20 };       /* of a chunk, at most */

/* Memory for a chunk of rows. */
struct chunk {
    int64_t rows;
    float *hidden, *dhidden;     /* [rows, d_model] */
    float *logits, *teacher;     /* [rows, vocab_size]; teacher NULL where there is none */
    float *kept;                 /* of the head */
    double *lse, *teacher_lse, *cost;            /* host: [rows], [rows], [2 rows] */
};

static int64_t chunk_rows(const struct trainer *t, int64_t n)
{
    return least(least(most(LOGIT_BYTES / (int64_t)sizeof(float) / t->student->config.vocab_size, 1), LOGIT_ROWS), n);
}

int64_t loss_memory(const struct trainer *t, int64_t n)
{
    const struct config *c = &t->student->config;
    struct application head = {.w = t->student->head.w};
    int64_t logits = c->vocab_size * (t->training.loss != LOSS_CE && t->teacher ? 2 : 1);
    int64_t top = n * (t->training.top * (int64_t)(sizeof(int32_t) + sizeof(float)) + (int64_t)sizeof(float));

    return chunk_rows(t, n) * (2 * c->d_model + logits + apply_kept(&head, 1)) * (int64_t)sizeof(float)
           + (t->training.top ? top : 0);
}

static struct chunk chunk_new(const struct trainer *t, const struct application *head, int64_t n)
{
    const struct device *device = t->student->device;
    const struct config *c = &t->student->config;
    int64_t rows = chunk_rows(t, n);
    size_t floats = (size_t)rows * sizeof(float);
    struct chunk chunk = {.rows = rows, .hidden = device->allocate(floats * (size_t)c->d_model),
                          .dhidden = device->allocate(floats * (size_t)c->d_model),
                          .logits = device->allocate(floats * (size_t)c->vocab_size),
                          .kept = device->allocate(floats * (size_t)apply_kept(head, 1)),
                          .lse = xcalloc((size_t)rows, 4 * sizeof(double))};

    if (t->training.loss != LOSS_CE && t->teacher)
        chunk.teacher = device->allocate(floats * (size_t)c->vocab_size);
    chunk.teacher_lse = chunk.lse + rows;
    chunk.cost = chunk.lse + 2 * rows;
    return chunk;
}

static void chunk_free(const struct device *device, struct chunk *chunk)
{
    device->release(chunk->hidden);
    device->release(chunk->dhidden);
    device->release(chunk->logits);
    device->release(chunk->teacher);
    device->release(chunk->kept);
    free(chunk->lse);
}

/* The teacher's logits of the chunk's rows, and all that the loss needs to know of rows. */
static struct loss_rows rows_of(struct trainer *t, const struct chunk *chunk, const float *teacher_x, int64_t n)
{
    struct loss_rows rows = {.lse = chunk->lse, .teacher = chunk->teacher, .teacher_lse = chunk->teacher_lse};

    t->student->device->log_sum_exp(chunk->logits, n, t->student->config.vocab_size, chunk->lse, NULL);
    if (chunk->teacher) {
        head_logits(&t->teacher->forward, &t->teacher->head, teacher_x, n, chunk->teacher);
        t->student->device->log_sum_exp(chunk->teacher, n, t->student->config.vocab_size, chunk->teacher_lse, NULL);
    }
    return rows;
}

void loss_back(struct trainer *t, const float *x, const float *teacher_x, const int32_t *target, const float *cross,
               const float *distill, int64_t n, float *dx)
{
    const struct device *device = t->student->device;
    const struct config *c = &t->student->config;
    const struct head *head = &t->student->head;
    struct application application = {.w = head->w, .stride = c->vocab_size};
    struct chunk chunk = chunk_new(t, &application, n);
    float scaling = (float)(1 / c->logits_scaling);

    application.y = chunk.logits;
    for (int64_t first = 0; first < n; first += chunk.rows) {
        int64_t rows = least(chunk.rows, n - first), at = first * c->d_model;
        struct loss_rows loss;
        struct loss_top top;

        device->rms_norm(chunk.hidden, x + at, c->d_model, head->norm, rows, c->d_model, c->norm_epsilon);
        apply_keep(&application, 1, chunk.hidden, c->d_model, rows, chunk.kept);
        if (c->logits_scaling != 1)
            device->scale(chunk.logits, scaling, rows * c->vocab_size);
        loss = rows_of(t, &chunk, teacher_x ? teacher_x + first * t->teacher->config.d_model : NULL, rows);
        loss.target = target + first;
        loss.cross = cross + first;
        loss.distill = distill + first;
        if (t->top) {
            top = (struct loss_top){t->top->k, t->top->id + first * t->top->k, t->top->log_p + first * t->top->k,
                                    t->top->rest + first};
            loss.top = &top;
        }
        device->loss(chunk.logits, &loss, scaling, rows, c->vocab_size, chunk.cost);
        for (int64_t i = 0; i < rows; i++) {
            t->cross += loss.cross[i] != 0 ? chunk.cost[i] : 0;
            t->divergence += loss.distill[i] != 0 ? chunk.cost[rows + i] : 0;
        }
        apply_back(&application, 1, chunk.hidden, c->d_model, rows, chunk.kept, chunk.dhidden, false);
        device->rms_norm_back(dx + at, false, t->parameters->head_norm, chunk.dhidden, x + at, c->d_model, head->norm,
                              rows, c->d_model, c->norm_epsilon);
    }
    chunk_free(device, &chunk);
}

void loss_measure(struct trainer *t, const float *x, const int32_t *target, int64_t n, double *cross)
{
    const struct device *device = t->student->device;
    const struct config *c = &t->student->config;
    int64_t step = chunk_rows(t, n);
    float *logits = device->allocate((size_t)(step * c->vocab_size) * sizeof *logits);
    float *weight = xmallocarray((size_t)step, sizeof *weight);
    double *lse = xmallocarray((size_t)step, 3 * sizeof *lse), *cost = lse + step;
    struct loss_rows rows = {.cross = weight, .lse = lse};

    rows.distill = xcalloc((size_t)step, sizeof *rows.distill);
    for (int64_t first = 0; first < n; first += step) {
        int64_t count = least(step, n - first);

        for (int64_t i = 0; i < count; i++)
            weight[i] = target[first + i] >= 0;
        rows.target = target + first;
        head_logits(&t->student->forward, &t->student->head, x + first * c->d_model, count, logits);
        device->log_sum_exp(logits, count, c->vocab_size, lse, NULL);
        device->loss(logits, &rows, 1, count, c->vocab_size, cost);
        for (int64_t i = 0; i < count; i++)
            *cross += weight[i] != 0 ? cost[i] : 0;
    }
    device->release(logits);
    free((void *)rows.distill);
    free(weight);
    free(lse);
}
