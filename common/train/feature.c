/* feature.c - states that are to be the teacher's: of a whole model on its way back, and of one block by itself. */
#include "base/clock.h"
#include "base/memory.h"
#include "train/trainer_internal.h"

#include <stdlib.h>

float *way_target(const struct way *way, int64_t layer, const struct config *c)
{
    return way->target + (layer - (c->n_layer - way->targets)) * trainer_line(way->n * c->d_model);
}

/* dx = (with add: +=) the gradient, and the cost is counted. */
static void deviate(struct trainer *t, const struct way *way, const float *y, const float *target, float *dx, bool add)
{
    double *cost = xmallocarray((size_t)way->n, sizeof *cost);

    t->student->device->deviation(dx, add, y, target, way->weight, way->n, t->student->config.d_model, cost);
    for (int64_t i = 0; i < way->n; i++)
        t->divergence += cost[i];
    free(cost);
}

void way_deviate(struct trainer *t, const struct way *way, int64_t layer, const float *y)
{
    deviate(t, way, y, way_target(way, layer, &t->student->config), way->dx, true);
}

/* ---- one block ---- */

/* Memory of a micro-batch in one block. */
struct stay {
    float *x, *y, *dx, *target;  /* [n, d_model] */
    float *kept;
    float *k, *v;                /* of the teacher: [n, n_kv_head * head_dim] */
};

/* Cuts floats off the memory, or only counts them where there is none yet (NULL). */
static float *cut(float *memory, int64_t *at, int64_t floats)
{
    int64_t first = *at;

    *at += trainer_line(floats);
    return memory ? memory + first : NULL;
}

/* All floats. */
static int64_t lay_out(const struct trainer *t, int64_t layer, int64_t n, float *memory, struct stay *stay)
{
    const struct config *c = &t->student->config, *other = &t->teacher->config;
    int64_t row = n * c->d_model, keys = n * other->n_kv_head * other->head_dim, at = 0;

    stay->x = cut(memory, &at, row);
    stay->y = cut(memory, &at, row);
    stay->dx = cut(memory, &at, row);
    stay->target = cut(memory, &at, row);
    stay->k = cut(memory, &at, keys);
    stay->v = cut(memory, &at, keys);
    stay->kept = cut(memory, &at, block_kept(c, &t->student->block[layer], n));
    return at;
}

static void run_teacher(struct trainer *t, int64_t layer, const struct way *way, const struct stay *stay)
{
    struct network *teacher = t->teacher;
    const struct config *c = &teacher->config;
    struct span *span = way_spans(way, stay->k, stay->v, c->n_kv_head * c->head_dim);

    teacher->device->copy(stay->target, c->d_model, stay->x, c->d_model, way->n, c->d_model);
    block_forward(&teacher->forward, &teacher->block[layer], layer, span, way->n_span, stay->target, way->n);
    free(span);
}

void trainer_add_states(struct trainer *t, int64_t layer, const struct micro_batch *batch, const float *states)
{
    struct network *student = t->student;
    const struct block *block = &student->block[layer];
    struct way way = way_of(batch);
    int32_t *next = xmallocarray((size_t)way.n, sizeof *next);
    float *cross = xmallocarray((size_t)way.n, 2 * sizeof *cross);
    double start = clock_seconds(), turn;
    struct stay stay;

    if (t->micro_batches++)
        parameters_carry(t->parameters);         /* the one before */
    trainer_weigh(t, batch, next, cross, cross + way.n);
    way.weight = cross + way.n;
    lay_out(t, layer, way.n, trainer_room(t, lay_out(t, layer, way.n, NULL, &stay)), &stay);
    student->device->upload(stay.x, states, (size_t)(way.n * student->config.d_model) * sizeof *states);
    run_teacher(t, layer, &way, &stay);
    block_keep(&student->forward, block, layer, way.span, way.n_span, stay.x, stay.y, way.n, stay.kept);
    turn = clock_seconds();
    deviate(t, &way, stay.y, stay.target, stay.dx, false);
    block_back(&student->forward, block, &t->parameters->block[layer], layer, way.span, way.n_span, stay.x, stay.dx,
               way.n, stay.kept);
    t->seconds.forward += turn - start;
    t->seconds.backward += clock_seconds() - turn;
    free(way.span);
    free(next);
    free(cross);
}

struct trainer_memory trainer_states_memory(const struct trainer *t, int64_t layer, int64_t rows, int64_t accumulate)
{
    const struct config *c = &t->student->config;
    struct stay stay;
    struct trainer_memory m = {.weights = block_bytes(&t->student->block[layer]),
                               .teacher = block_bytes(&t->teacher->block[layer]),
                               .trained = trainer_trained(t, accumulate)};

    m.blocks = (lay_out(t, layer, rows, NULL, &stay) + rows * (5 * c->d_model + 3 * c->d_ff)) * (int64_t)sizeof(float)
               + block_work(&t->teacher->config, rows);
    m.total = m.weights + m.teacher + m.trained + m.blocks;
    return m;
}
