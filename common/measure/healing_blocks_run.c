/* healing_blocks_run.c - the hidden states on their way through the blocks, each of which is trained when they are
 * there. */
#include "measure/healing_blocks_internal.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/progress.h"
#include "measure/healing_internal.h"
#include "train/snapshot.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- hidden states ---- */

/* All windows that are used, in the order in which they come first. */
static int64_t list_sequences(struct healing_blocks *b)
{
    struct training_text *text = b->healing->text;
    int64_t windows = blocks_windows(b), rows = 0;

    b->row = xmallocarray((size_t)text->windows, sizeof *b->row);
    for (int64_t i = 0; i < windows; i++) {
        int64_t window = training_text_window(text, i), at = window * text->context;
        struct micro_batch batch = training_text_batch(text, i, 1);

        b->row[window] = rows;
        b->sequence = xreallocarray(b->sequence, (size_t)(b->n_sequence + batch.sequences), sizeof *b->sequence);
        for (int s = 0; s < batch.sequences; s++) {
            b->sequence[b->n_sequence++] = (struct sequence){text->ids.id + at, batch.length[s], -1};
            at += batch.length[s];
            rows += batch.length[s];
        }
        training_batch_free(&batch);
    }
    return rows;
}

static int begin_pass(struct healing_blocks *b, struct pass *pass)
{
    return pass_begin(pass, &b->student_loader, &b->student->forward, b->sequence, b->n_sequence, &b->hidden);
}

static int embed_all(struct healing_blocks *b)
{
    struct applied *embedding = NULL;
    struct pass pass = {0};
    int rc = hidden_open(&b->hidden, list_sequences(b), b->student->config.d_model, b->training->memory);

    if (!rc && !(rc = begin_pass(b, &pass)))
        rc = pass_embed(&pass, &embedding);
    pass_end(&pass);
    apply_free(embedding);
    return rc;
}

/* Through the block that is there, as it was trained. */
static int advance(struct healing_blocks *b, int64_t layer)
{
    struct pass pass = {0};
    int rc = begin_pass(b, &pass);

    if (!rc)
        rc = pass_block(&pass, &b->student->block[layer], 1, layer);
    pass_end(&pass);
    return rc;
}

/* For struct healing. */
static int add_states(void *context, const struct micro_batch *batch, int64_t first)
{
    struct healing_blocks *b = context;
    struct healing *h = b->healing;
    int64_t at = 0;
    int rc = EX_OK;

    for (int64_t i = first; i < first + h->batch && !rc; i++) {
        int64_t window = training_text_window(h->text, i), n = training_text_tokens(h->text, window);

        rc = hidden_read(&b->hidden, b->row[window], n, b->states + at * b->hidden.width);
        at += n;
    }
    if (!rc)
        trainer_add_states(h->trainer, h->block, batch, b->states);
    return rc;
}

/* ---- blocks ---- */

/* Takes what was trained of the block from its file, where there is a whole one. */
static int take_done(struct healing_blocks *b, const char *path, bool *taken)
{
    struct healing *h = b->healing;
    struct json *position = NULL;
    int rc;

    *taken = false;
    if (access(path, F_OK))
        return EX_OK;
    rc = snapshot_read_done(path, h->trainer, h->about, &position);
    *taken = !rc;
    if (!rc && !b->started)
        healing_take(h, position);
    if (rc == EX_DATAERR)
        warn("block %lld is trained again", (long long)h->block);
    json_drop(position);
    return rc == EX_DATAERR ? EX_OK : rc;
}

static int train(struct healing_blocks *b, const char *path)
{
    struct healing *h = b->healing;
    struct json *position;
    int rc;

    if ((rc = network_block(b->teacher, &b->teacher_loader, h->block)) || (rc = healing_resume(h)))
        return rc;
    if (!b->started && (rc = healing_open_log(h)))
        return rc;
    if (!b->started)
        healing_start(h);
    b->started = true;
    if ((rc = healing_steps(h)))
        return rc;
    position = healing_position(h);
    rc = snapshot_write_done(path, h->trainer, h->about, position);
    json_drop(position);
    return rc;
}

static int train_block(struct healing_blocks *b, int64_t layer)
{
    struct healing *h = b->healing;
    char *path = blocks_path(b, layer);
    bool taken;
    int rc;

    h->block = layer;
    h->behind = b->done++ * b->training->steps;
    if (!(rc = parameters_open(b->parameters, b->student, b->selection))
        && !(rc = trainer_open(h->trainer, b->student, b->teacher, b->parameters, b->training))
        && !(rc = take_done(b, path, &taken)) && !taken)
        rc = train(b, path);
    if (rc == EX_DATAERR)
        warn("it was block %lld", (long long)layer);
    trainer_close(h->trainer);
    parameters_close(b->parameters);
    block_free(&b->teacher->block[layer], b->device);
    free(path);
    return rc;
}

/* What is in the folder must be of this training, also what would be read hours from now. */
static int check_folder(const struct healing_blocks *b)
{
    const struct healing *h = b->healing;
    int count, rc = EX_OK;
    int64_t *step = healing_states(h, &count);

    for (int64_t i = 0; i < count + b->student->config.n_layer && !rc; i++) {
        char *path = i < count ? healing_state_path(h, step[i]) : blocks_path(b, i - count);

        if (!access(path, F_OK))
            rc = snapshot_belongs(path, b->device, h->about);
        free(path);
    }
    free(step);
    return rc;
}

static int run(struct healing_blocks *b)
{
    struct healing *h = b->healing;
    int rc;

    if ((rc = healing_open_folder(h)) || (rc = check_folder(b)) || (rc = blocks_open(b, true)) || (rc = embed_all(b)))
        return rc;
    b->states = xaligned((size_t)(h->batch * h->text->context * b->hidden.width), sizeof *b->states);
    for (int64_t layer = 0; layer <= b->last && !rc; layer++) {
        if (!(rc = network_block(b->student, &b->student_loader, layer)) && b->trained[layer])
            rc = train_block(b, layer);
        if (!rc && layer < b->last)
            rc = advance(b, layer);
    }
    return rc;
}

int healing_blocks_run(struct healing_blocks *b)
{
    struct healing *h = b->healing;
    int rc;

    h->add = add_states;
    h->context = b;
    h->own_batch = h->batch;
    h->own_count = h->accumulate;
    h->all_steps = b->count * b->training->steps;
    rc = run(b);
    if (b->started)
        progress_stop();
    block_free(&b->student->block[b->last], b->device);
    hidden_close(&b->hidden);
    free(b->states);
    b->states = NULL;
    blocks_shut(b);
    return rc;
}
