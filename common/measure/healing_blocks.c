/* healing_blocks.c - what there is to train in each block, what memory that takes, and the blocks as they were
 * trained. */
#include "measure/healing_blocks_internal.h"
#include "measure/healing_internal.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/progress.h"
#include "train/snapshot.h"

#include <stdlib.h>
#include <unistd.h>

static const unsigned classes[] = {TRAIN_CORES, TRAIN_MATRICES, TRAIN_SCALES, TRAIN_NORMS};

int blocks_open(struct healing_blocks *b, bool with_teacher)
{
    int rc = loader_open(&b->student_loader, b->model, b->device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    b->student_open = true;
    b->student_loader.train = selection_classes;
    b->student_loader.train_context = b->selection;
    if (with_teacher && !(rc = loader_open(&b->teacher_loader, b->teacher_path, b->device, ACTIVATIONS_F32)))
        b->teacher_open = true;
    return rc;
}

void blocks_shut(struct healing_blocks *b)
{
    if (b->student_open)
        loader_close(&b->student_loader);
    if (b->teacher_open)
        loader_close(&b->teacher_loader);
    b->student_open = b->teacher_open = false;
}

int64_t blocks_windows(const struct healing_blocks *b)
{
    const struct healing *h = b->healing;
    int64_t step = h->batch * h->accumulate, all = h->text->windows;

    return b->training->steps < divide_up(all, step) ? b->training->steps * step : all;
}

/* ---- survey ---- */

/* Both models' blocks of this number are there. */
static int see_block(struct healing_blocks *b, int64_t layer)
{
    struct healing *h = b->healing;
    int rc;

    if (!parameters_find(b->parameters, b->student, b->selection))
        return EX_OK;
    b->trained[layer] = true;
    b->last = layer;
    b->count++;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        b->numbers[i] += parameters_count(b->parameters, classes[i]);
    rc = trainer_open(h->trainer, b->student, b->teacher, b->parameters, b->training);
    for (int i = 0; i < HEALING_HALVES && !rc; i++) {
        int64_t rows = most(h->batch >> i, 1) * h->text->context;
        struct trainer_memory m = trainer_states_memory(h->trainer, layer, rows, h->accumulate << i);

        if (m.total > b->memory[i].training.total)
            b->memory[i].training = m;
    }
    trainer_close(h->trainer);
    parameters_close(b->parameters);
    return rc;
}

/* All bytes, where the embedding takes so many, and the largest block. */
static void add_up(struct healing_blocks *b, int64_t embedding, int64_t block)
{
    const struct config *c = &b->student->config;
    const struct healing *h = b->healing;
    int64_t number = (int64_t)sizeof(float), keys = 2 * c->n_kv_head * c->head_dim;
    int64_t rows = blocks_windows(b) * h->text->context, hidden = rows * c->d_model * number;
    bool in_file = hidden > b->training->memory;
    int64_t together = least(rows, PASS_ROWS), piece = together * c->d_model * number * (in_file ? 2 : 1);
    int64_t forward = block + piece + most(together, h->text->context) * keys * number + block_work(c, together);

    for (int i = 0; i < HEALING_HALVES; i++) {
        struct blocks_memory *m = &b->memory[i];
        int64_t states = most(h->batch >> i, 1) * h->text->context * c->d_model * number;

        m->embedding = embedding;
        m->hidden = (in_file ? 0 : hidden) + states;
        m->total = most(m->training.total, most(forward, embedding + piece)) + m->hidden;
    }
}

static int see_all(struct healing_blocks *b)
{
    struct applied *embedding;
    int64_t bytes, block = 0;
    int rc = loader_embedding(&b->student_loader, &embedding);

    if (rc)
        return rc;
    bytes = apply_bytes(embedding);
    apply_free(embedding);
    for (int64_t layer = 0; layer < b->student->config.n_layer && !rc; layer++) {
        progress_step("sizes of blocks");
        if (!(rc = network_block(b->student, &b->student_loader, layer))
            && !(rc = network_block(b->teacher, &b->teacher_loader, layer)))
            rc = see_block(b, layer);
        block = most(block, b->student->bytes);
        block_free(&b->student->block[layer], b->device);
        block_free(&b->teacher->block[layer], b->device);
    }
    if (!rc && !(rc = loader_finish(&b->student_loader)))
        rc = loader_finish(&b->teacher_loader);
    add_up(b, bytes, block);
    return rc;
}

int healing_blocks_survey(struct healing_blocks *b)
{
    struct hash *hash[] = {hash_new(), hash_new()};
    int rc = blocks_open(b, true);

    b->held = b->hidden.fd = -1;
    if (!rc) {
        network_begin(b->student, &b->student_loader);
        network_begin(b->teacher, &b->teacher_loader);
        b->trained = xcalloc((size_t)b->student->config.n_layer, sizeof *b->trained);
        rc = trainer_open(b->healing->trainer, b->student, b->teacher, b->parameters, b->training);
        trainer_close(b->healing->trainer);
    }
    if (!rc) {
        progress_start("reading", b->student->config.n_layer);
        b->student_loader.hash = hash[0];
        b->teacher_loader.hash = hash[1];
        rc = see_all(b);
        b->student_hash = hash_value(hash[0]);
        b->teacher_hash = hash_value(hash[1]);
        progress_stop();
    }
    if (!rc && !b->count)
        rc = fail(EX_USAGE, "nothing to train: no block has any of the numbers asked for");
    blocks_shut(b);
    hash_free(hash[0]);
    hash_free(hash[1]);
    return rc;
}

/* ---- memory ---- */

int healing_blocks_plan(const struct healing_blocks *b)
{
    const struct healing *h = b->healing;
    const struct blocks_memory *m = &b->memory[0];
    double limit = memory_limit();
    const char *none = "not even --batch 1 fits: take a shorter --context, --train less, or --memory 0 for hidden "
                       "states in a file";
    char *fits = NULL;
    int rc;

    note("memory: %.1f MiB: hidden states %.1f, and at first the embedding %.1f, then a block %.1f, the teacher's "
         "%.1f, gradients and moments %.1f, results %.1f", mib(m->total), mib(m->hidden), mib(m->embedding),
         mib(m->training.weights), mib(m->training.teacher), mib(m->training.trained), mib(m->training.blocks));
    if ((double)m->total <= limit)
        return EX_OK;
    for (int i = 1; i < HEALING_HALVES && h->batch >> i && !fits; i++)
        if ((double)b->memory[i].total <= limit)
            fits = xasprintf("--batch %lld --accumulate %lld takes %.0f MiB", (long long)(h->batch >> i),
                             (long long)(divide_up(h->batch, h->batch >> i) * h->accumulate), mib(b->memory[i].total));
    rc = healing_refuse(m->total, limit, 1, fits ? fits : none);
    free(fits);
    return rc;
}

/* ---- as they were trained ---- */

char *blocks_path(const struct healing_blocks *b, int64_t layer)
{
    return xasprintf("%s/block-%04lld", b->healing->work, (long long)layer);
}

static int load(struct healing_blocks *b, int64_t layer)
{
    struct trainer *trainer = b->healing->trainer;
    struct json *position = NULL;
    char *path = blocks_path(b, layer);
    int rc;

    if (b->held >= 0)
        parameters_close(b->parameters);
    b->held = -1;
    if ((!b->student_open && (rc = blocks_open(b, false)))
        || (rc = network_block(b->student, &b->student_loader, layer))
        || (rc = parameters_open(b->parameters, b->student, b->selection)))
        return free(path), rc;
    b->held = layer;
    if (!(rc = trainer_open(trainer, b->student, b->teacher, b->parameters, b->training)))
        rc = snapshot_read_done(path, trainer, b->healing->about, &position);
    trainer_close(trainer);
    json_drop(position);
    free(path);
    return rc;
}

int healing_blocks_hold(struct healing_blocks *b, const char *name)
{
    int64_t layer;

    if (record_section(name, &layer) != SECTION_BLOCKS || layer >= b->student->config.n_layer || !b->trained[layer]
        || layer == b->held)
        return EX_OK;
    return load(b, layer);
}

void healing_blocks_close(struct healing_blocks *b, bool done)
{
    blocks_shut(b);
    /* The last one first: whenever it is stopped, what is left is where a training goes on from. */
    for (int64_t layer = b->last; done && b->trained && layer >= 0; layer--) {
        char *path = blocks_path(b, layer);

        unlink(path);
        free(path);
    }
    free(b->sequence);
    free(b->row);
    free(b->trained);
    b->trained = NULL;
}
