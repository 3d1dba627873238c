/* trainer.c - micro-batches forwards and backwards, and steps. */
#include "train/trainer.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/number.h"
#include "train/exchange.h"
#include "train/loss.h"
#include "train/trainer_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

const char *const loss_names[] = {"ce", "kl", "mix", "feature", NULL};
const char *const schedule_names[] = {"cosine", "linear", "constant", NULL};

const struct training training_usual = {
    .loss = LOSS_KL, .cross_weight = 0.5, .steps = 100, .warmup = 10, .schedule = SCHEDULE_COSINE, .rate = 1e-3,
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1, .memory = 1 << 30,
};

double training_rate(const struct training *training, int64_t step)
{
    double done = (double)step / (double)training->steps, rate = training->rate;

    if (step < training->warmup)
        rate *= (double)(step + 1) / (double)training->warmup;
    if (training->schedule == SCHEDULE_COSINE)
        rate *= 0.5 * (1 + cos(M_PI * done));
    else if (training->schedule == SCHEDULE_LINEAR)
        rate *= 1 - done;
    return rate;
}

int trainer_open(struct trainer *trainer, struct network *student, struct network *teacher,
                 struct parameters *parameters, const struct training *training)
{
    *trainer = (struct trainer){.student = student, .teacher = teacher, .training = *training,
                                .parameters = parameters, .unsent = parameters->n_layer + 1};
    assert(teacher || training->loss == LOSS_CE || training->top);
    if (training->loss == LOSS_FEATURE && (teacher->config.d_model != student->config.d_model
                                           || teacher->config.n_layer != student->config.n_layer))
        return fail(EX_USAGE, "the teacher has %lld blocks of width %lld, the model %lld of width %lld: their states "
                    "can't be compared", (long long)teacher->config.n_layer, (long long)teacher->config.d_model,
                    (long long)student->config.n_layer, (long long)student->config.d_model);
    if (teacher && training->loss != LOSS_CE && teacher->config.vocab_size != student->config.vocab_size)
        return fail(EX_DATAERR, "the teacher has a vocabulary of %lld tokens, the model one of %lld",
                    (long long)teacher->config.vocab_size, (long long)student->config.vocab_size);
    if (!trainer->training.ranks)
        trainer->training.ranks = ranks_alone();
    parameters_share(parameters, trainer->training.ranks->rank, trainer->training.ranks->count, training->shard);
    return EX_OK;
}

void trainer_close(struct trainer *trainer)
{
    if (!trainer->student)
        return;
    trainer->student->device->release(trainer->memory);
    trainer->student->device->release(trainer->forward_x);
    trainer->student->device->release(trainer->forward_keys);
    *trainer = (struct trainer){0};
}

/* ---- memory ---- */

/* Plans the memory for way->n rows: which blocks keep their results, and all floats. */
static int64_t plan(const struct trainer *t, struct way *way)
{
    const struct network *network = t->student;
    const struct config *c = &network->config;
    int64_t row = trainer_line(way->n * c->d_model), blocks;

    way->kept = 1;
    for (int64_t layer = 0; layer < c->n_layer; layer++)
        way->kept = most(way->kept, trainer_line(block_kept(c, &network->block[layer], way->n)));
    blocks = least(t->training.memory / (int64_t)sizeof(float) / way->kept, c->n_layer);
    way->first_kept = c->n_layer - blocks;
    way->targets = t->training.loss == LOSS_FEATURE ? c->n_layer - t->parameters->first_layer : 0;
    return (c->n_layer + 2 + way->targets) * row + (blocks + (blocks < c->n_layer)) * way->kept;
}

float *trainer_room(struct trainer *t, int64_t floats)
{
    const struct device *device = t->student->device;

    if (floats > t->rows) {
        device->release(t->memory);
        t->memory = device->allocate((size_t)floats * sizeof *t->memory);
        t->rows = floats;
    }
    return t->memory;
}

/* Lays it out, and makes it. */
static void lay_out(struct trainer *t, struct way *way)
{
    const struct network *network = t->student;
    int64_t layers = network->config.n_layer, row = trainer_line(way->n * network->config.d_model);

    way->x = trainer_room(t, plan(t, way));
    way->dx = way->x + (layers + 1) * row;
    way->target = way->dx + row;
    way->own = way->target + way->targets * row;
    way->shared = way->own + (layers - way->first_kept) * way->kept;
}

/* Gradients of micro-batches are added in a tree: one for each bit of the number of those that are put aside. */
int64_t trainer_trained(const struct trainer *t, int64_t accumulate)
{
    const struct parameters *p = t->parameters;
    int64_t sums = 0, floats;

    while ((accumulate - 1) >> sums)
        sums++;
    floats = p->floats * (1 + sums) + 2 * p->moments;
    if (t->training.ranks->count > 1)
        floats += least(p->floats, RANKS_FLOATS);
    return floats * (int64_t)sizeof(float);
}

struct trainer_memory trainer_memory(const struct trainer *t, int64_t rows, int64_t accumulate)
{
    const struct config *c = &t->student->config;
    struct way way = {.n = rows};
    struct trainer_memory m = {.weights = t->student->bytes, .teacher = t->teacher ? t->teacher->bytes : 0};
    int64_t d = t->teacher ? t->teacher->config.d_model : 0;

    m.trained = trainer_trained(t, accumulate);
    m.blocks = (plan(t, &way) + rows * (5 * c->d_model + 3 * c->d_ff)) * (int64_t)sizeof(float);
    if (t->teacher)
        m.blocks += rows * (d + 2 * t->teacher->config.n_kv_head * t->teacher->config.head_dim)
                    * (int64_t)sizeof(float);
    m.logits = t->training.loss == LOSS_FEATURE ? 0 : loss_memory(t, rows);
    m.total = m.weights + m.teacher + m.trained + m.blocks + m.logits;
    return m;
}

static float *input_of(const struct trainer *t, const struct way *way, int64_t layer)
{
    return way->x + layer * trainer_line(way->n * t->student->config.d_model);
}

static float *kept_of(const struct way *way, int64_t layer)
{
    return layer < way->first_kept ? way->shared : way->own + (layer - way->first_kept) * way->kept;
}

/* ---- forwards and backwards ---- */

static void keep_block(struct trainer *t, const struct way *way, int64_t layer)
{
    block_keep(&t->student->forward, &t->student->block[layer], layer, way->span, way->n_span,
               input_of(t, way, layer), input_of(t, way, layer + 1), way->n, kept_of(way, layer));
    if (layer < way->first_kept)
        t->held = layer;
}

static void run_student(struct trainer *t, struct way *way, const int32_t *token)
{
    struct network *student = t->student;

    t->held = -1;
    embed(&student->forward, student->embedding, token, way->n, way->x);
    for (int64_t layer = 0; layer < student->config.n_layer; layer++)
        keep_block(t, way, layer);
}

static void back_student(struct trainer *t, struct way *way)
{
    struct network *student = t->student;

    for (int64_t layer = student->config.n_layer - 1; layer >= t->parameters->first_layer; layer--) {
        if (layer < way->first_kept && t->held != layer)
            keep_block(t, way, layer);
        if (way->targets)
            way_deviate(t, way, layer, input_of(t, way, layer + 1));
        block_back(&student->forward, &student->block[layer], &t->parameters->block[layer], layer, way->span,
                   way->n_span, input_of(t, way, layer), way->dx, way->n, kept_of(way, layer));
        t->held = -1;
        if (way->last)
            exchange_send(t, layer);
    }
}

struct span *way_spans(const struct way *way, float *k, float *v, int64_t keys)
{
    struct span *span = xmallocarray((size_t)way->n_span, sizeof *span);

    for (int i = 0; i < way->n_span; i++) {
        span[i] = way->span[i];
        span[i].k = k + span[i].first * keys;
        span[i].v = v + span[i].first * keys;
    }
    return span;
}

/* What leaves the last block of a network, without a way back; way->target gets what leaves the last way->targets. */
static const float *run_forward(struct trainer *t, struct network *network, const struct way *way, const int32_t *token)
{
    const struct device *device = network->device;
    int64_t keys = network->config.n_kv_head * network->config.head_dim;
    struct span *span;

    device->release(t->forward_x);
    device->release(t->forward_keys);
    t->forward_x = device->allocate((size_t)(way->n * network->config.d_model) * sizeof *t->forward_x);
    t->forward_keys = device->allocate((size_t)(2 * way->n * keys) * sizeof *t->forward_keys);
    span = way_spans(way, t->forward_keys, t->forward_keys + way->n * keys, keys);
    embed(&network->forward, network->embedding, token, way->n, t->forward_x);
    for (int64_t layer = 0; layer < network->config.n_layer; layer++) {
        block_forward(&network->forward, &network->block[layer], layer, span, way->n_span, t->forward_x, way->n);
        if (layer >= network->config.n_layer - way->targets)
            device->copy(way_target(way, layer, &network->config), network->config.d_model, t->forward_x,
                         network->config.d_model, way->n, network->config.d_model);
    }
    free(span);
    return t->forward_x;
}

void trainer_weigh(struct trainer *t, const struct micro_batch *batch, int32_t *target, float *cross, float *distill)
{
    const struct training *s = &t->training;
    bool all = s->loss == LOSS_KL || s->loss == LOSS_FEATURE;    /* a token without a next one, too */
    double cross_weight = s->loss == LOSS_CE ? 1 : all ? 0 : s->cross_weight;
    int64_t row = 0;

    for (int i = 0; i < batch->sequences; i++)
        for (int64_t k = 0; k < batch->length[i]; k++, row++) {
            bool next = k + 1 < batch->length[i];
            bool counts = (next || all) && (!batch->counts || batch->counts[row]);

            target[row] = next ? batch->token[row + 1] : 0;
            cross[row] = counts ? (float)cross_weight : 0;
            distill[row] = counts ? (float)(1 - cross_weight) : 0;
            t->tokens++;
            t->counted += counts;
        }
}

struct way way_of(const struct micro_batch *batch)
{
    struct way way = {.n_span = batch->sequences, .span = xcalloc((size_t)batch->sequences, sizeof *way.span)};

    for (int i = 0; i < batch->sequences; i++) {
        way.span[i] = (struct span){.first = way.n, .n = batch->length[i]};
        way.n += batch->length[i];
    }
    return way;
}

void trainer_add(struct trainer *t, const struct micro_batch *batch)
{
    struct way way = way_of(batch);
    int32_t *target = xmallocarray((size_t)way.n, sizeof *target);
    float *cross = xmallocarray((size_t)way.n, 2 * sizeof *cross), *distill = cross + way.n;
    const float *teacher_x = NULL;
    double start = clock_seconds(), turn;

    way.last = batch->last;
    if (t->micro_batches++)
        parameters_carry(t->parameters);         /* the one before */
    trainer_weigh(t, batch, target, cross, distill);
    way.weight = distill;
    lay_out(t, &way);
    t->top = batch->top;
    if (t->training.loss != LOSS_CE && t->teacher)
        teacher_x = run_forward(t, t->teacher, &way, batch->token);
    run_student(t, &way, batch->token);
    turn = clock_seconds();
    if (way.targets)
        t->student->device->clear(way.dx, way.n * t->student->config.d_model);
    else
        loss_back(t, input_of(t, &way, t->student->config.n_layer), teacher_x, target, cross, distill, way.n, way.dx);
    if (way.last)
        exchange_send(t, t->student->config.n_layer);
    back_student(t, &way);
    t->seconds.forward += turn - start;
    t->seconds.backward += clock_seconds() - turn;
    free(way.span);
    free(target);
    free(cross);
}

void trainer_measure(struct trainer *t, const struct micro_batch *batch, double *cross, int64_t *counted)
{
    struct way way = way_of(batch);
    int32_t *target = xmallocarray((size_t)way.n, sizeof *target);
    int64_t row = 0;

    for (int i = 0; i < batch->sequences; i++)
        for (int64_t k = 0; k < batch->length[i]; k++, row++) {
            bool counts = k + 1 < batch->length[i] && (!batch->counts || batch->counts[row]);

            target[row] = counts ? batch->token[row + 1] : -1;
            *counted += counts;
        }
    loss_measure(t, run_forward(t, t->student, &way, batch->token), target, way.n, cross);
    free(way.span);
    free(target);
}

/* ---- steps ---- */

static int skip(struct trainer *t, struct stepped *stepped)
{
    long long step = t->step + 1;

    if (!t->training.skip || ++t->skipped == TRAINER_SKIPS)
        return fail(EX_DATAERR, "step %lld: the loss is %g, the gradient's norm %g", step, stepped->loss,
                    stepped->norm);
    warn("step %lld: the loss is %g, the gradient's norm %g: it is skipped", step, stepped->loss, stepped->norm);
    stepped->skipped = true;
    t->step++;
    return EX_OK;
}

/* The sums of all ranks, and means; what was added up begins anew. */
static struct stepped finish(struct trainer *t)
{
    double norm = exchange_finish(t), count = (double)t->counted, weight = t->training.cross_weight;
    struct stepped s = {.counted = t->counted, .tokens = t->tokens, .rate = training_rate(&t->training, t->step)};

    if (t->counted) {
        s.cross = t->cross / count;
        s.divergence = t->divergence / count;
        s.norm = norm / count;
    }
    s.loss = t->training.loss == LOSS_MIX ? weight * s.cross + (1 - weight) * s.divergence : s.cross + s.divergence;
    t->cross = t->divergence = 0;
    t->counted = t->tokens = t->micro_batches = 0;
    return s;
}

static int change(struct trainer *t, struct stepped *s)
{
    double factor = 1;

    if (!s->counted) {
        note("step %lld: no token counts: it is passed over", (long long)t->step + 1);
        s->skipped = true;
        t->step++;
        return EX_OK;
    }
    if (!isfinite(s->loss) || !isfinite(s->norm))
        return skip(t, s);
    t->skipped = 0;
    if (t->training.clip > 0 && s->norm > t->training.clip)
        factor = t->training.clip / s->norm;
    t->step++;
    t->updates++;
    exchange_update(t, factor / (double)s->counted);
    return EX_OK;
}

int trainer_step(struct trainer *t, struct stepped *stepped)
{
    struct ranks *ranks = t->training.ranks;
    double start = clock_seconds();
    int rc;

    *stepped = finish(t);
    rc = change(t, stepped);
    parameters_clear(t->parameters);
    stepped->seconds = t->seconds;
    stepped->seconds.update = clock_seconds() - start - t->seconds.waited;
    stepped->seconds.busy = ranks->busy;
    t->seconds = (struct trainer_seconds){0};
    ranks->busy = 0;
    return rc;
}
