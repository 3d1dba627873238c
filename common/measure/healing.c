/* healing.c - steps, and what is written on the way. */
#include "measure/healing_internal.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/progress.h"
#include "train/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEPT = 2 };               /* states */

static const char prefix[] = "checkpoint-";

/* ---- ranks do the same ---- */

static struct json *all_options(const struct healing *h)
{
    struct json *all = json_clone(h->about);

    json_put(all, "shard", json_make_bool(h->trainer->training.shard));
    json_put(all, "work", json_make_bool(h->work != NULL));
    json_put(all, "checkpoint_every", json_make_int(h->checkpoint_every));
    json_put(all, "evaluated_windows", json_make_int(h->evaluation ? h->evaluation->windows : 0));
    json_put(all, "evaluate_every", json_make_int(h->evaluate_every));
    return all;
}

/* What only one of them has is a difference, too. */
static int compare(struct json *own, struct json *first)
{
    struct json *const both[] = {own, first};

    for (int i = 0; i < 2; i++)
        for (void *m = json_first(both[i]); m; m = json_following(both[i], m)) {
            const struct json *one = json_at(own, json_key(m)), *other = json_at(first, json_key(m));
            char *mine, *theirs;

            if (one && other && json_same(one, other))
                continue;
            mine = one ? json_write(one, 0) : xstrdup("nothing");
            theirs = other ? json_write(other, 0) : xstrdup("nothing");
            fail(EX_USAGE, "another model, text or other options than those of rank 0: \"%s\" is %s, not %s",
                 json_key(m), mine, theirs);
            free(mine);
            free(theirs);
            return EX_USAGE;
        }
    return EX_OK;
}

static int compare_ranks(const struct healing *h)
{
    struct json *own = all_options(h), *first;
    char *text = h->ranks->rank ? NULL : json_write(own, 0), *shared = ranks_text(h->ranks, text);
    int rc = EX_DATAERR;

    if ((first = json_parse(shared, strlen(shared), "options of rank 0")))
        rc = compare(own, first);
    json_drop(own);
    json_drop(first);
    free(text);
    free(shared);
    return ranks_agree(h->ranks, rc);
}

/* ---- the folder ---- */

char *healing_state_path(const struct healing *h, int64_t step)
{
    return xasprintf("%s/%s%08lld", h->work, prefix, (long long)step);
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

int64_t *healing_states(const struct healing *h, int *count)
{
    DIR *directory = opendir(h->work);
    int64_t *step = NULL;
    struct dirent *entry;

    *count = 0;
    while (directory && (entry = readdir(directory))) {
        char *end = NULL;
        long long number;

        if (strncmp(entry->d_name, prefix, sizeof prefix - 1))
            continue;
        number = strtoll(entry->d_name + sizeof prefix - 1, &end, 10);
        if (*end || number < 0)
            continue;
        step = xreallocarray(step, (size_t)*count + 1, sizeof *step);
        step[(*count)++] = number;
    }
    if (directory)
        closedir(directory);
    if (*count)
        qsort(step, (size_t)*count, sizeof *step, descending);
    return step;
}

void healing_keep_state(const struct healing *h, int64_t number)
{
    int count = 0, kept = 0;
    int64_t *step = h->ranks->rank ? NULL : healing_states(h, &count);

    for (int i = 0; i < count; i++) {
        char *path = healing_state_path(h, step[i]);

        if (step[i] <= number && kept < KEPT)
            kept++;
        else
            unlink(path);
        free(path);
    }
    free(step);
}

int healing_open_folder(struct healing *h)
{
    if (!h->work || h->ranks->rank)
        return EX_OK;
    if (mkdir(h->work, 0777) && errno != EEXIST)
        return fail(EX_CANTCREAT, "cannot create '%s':", h->work);
    h->lock = open(h->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (h->lock < 0)
        return fail(EX_CANTCREAT, "cannot open '%s':", h->work);
    if (flock(h->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)       /* a file system without locks will do */
        return fail(EX_CANTCREAT, "'%s': another process works there", h->work);
    return EX_OK;
}

int healing_open_log(struct healing *h)
{
    struct stat about;

    if (h->ranks->rank)
        return EX_OK;
    h->log_path = h->log ? xstrdup(h->log) : h->work ? file_join(h->work, "log") : NULL;
    if (!h->log_path)
        return EX_OK;
    h->log_fd = open(h->log_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (h->log_fd < 0 || fstat(h->log_fd, &about))
        return fail(EX_CANTCREAT, "cannot open '%s':", h->log_path);
    if (S_ISREG(about.st_mode)
        && (ftruncate(h->log_fd, least(h->log_bytes, about.st_size)) || lseek(h->log_fd, 0, SEEK_END) < 0))
        return fail(EX_IOERR, "cannot shorten '%s':", h->log_path);
    return EX_OK;
}

void healing_take(struct healing *h, const struct json *position)
{
    h->seconds = json_as_real(json_at(position, "seconds"), 0);
    h->log_bytes = most(json_as_int(json_at(position, "log_bytes"), 0), 0);
}

/* Whether a state of this number is of the block at hand. */
static bool is_of_block(const struct healing *h, int64_t number)
{
    return h->block < 0 || (number > h->behind && number <= h->behind + h->trainer->training.steps);
}

/* Those of rank 0, which has them. */
static int64_t *shared_states(const struct healing *h, int *count)
{
    int64_t *step = h->ranks->rank ? NULL : healing_states(h, count);

    h->ranks->broadcast(h->ranks, count, sizeof *count);
    step = xreallocarray(step, (size_t)*count + 1, sizeof *step);
    h->ranks->broadcast(h->ranks, step, (size_t)*count * sizeof *step);
    return step;
}

int healing_resume(struct healing *h)
{
    struct json *position = NULL;
    int count = 0, rc = EX_OK;
    int64_t *step = shared_states(h, &count);

    for (int i = 0; i < count && !position && (!rc || rc == EX_DATAERR); i++) {
        char *path;

        if (!is_of_block(h, step[i]))
            continue;
        path = healing_state_path(h, step[i]);
        if (!(rc = snapshot_read(path, h->trainer, h->about, &position)))
            healing_keep_state(h, step[i]);
        else if (rc == EX_DATAERR && !h->ranks->rank)
            unlink(path);                        /* it would take the place of a whole one */
        free(path);
    }
    free(step);
    if (rc == EX_DATAERR && !position)
        warn("no whole state in '%s': it starts anew", h->work);
    if (rc && rc != EX_DATAERR)
        return rc;
    if (position) {
        healing_take(h, position);
        if (h->block >= 0)
            note("block %lld goes on behind step %lld", (long long)h->block, (long long)h->trainer->step);
        else
            note("goes on behind step %lld", (long long)h->trainer->step);
    }
    json_drop(position);
    return EX_OK;
}

struct json *healing_position(const struct healing *h)
{
    struct json *position = json_make_object();

    if (h->log_fd >= 0)
        fdatasync(h->log_fd);
    json_put(position, "seconds", json_make_number(h->seconds + clock_seconds() - h->start));
    json_put(position, "log_bytes", json_make_int(h->log_fd < 0 ? 0 : most(lseek(h->log_fd, 0, SEEK_CUR), 0)));
    return position;
}

static int save(struct healing *h)
{
    struct json *position = healing_position(h);
    char *path = healing_state_path(h, h->behind + h->trainer->step);
    int rc = snapshot_write(path, h->trainer, h->about, position);

    if (!rc)
        healing_keep_state(h, h->behind + h->trainer->step);
    json_drop(position);
    free(path);
    return rc;
}

/* ---- steps ---- */

static int write_log(struct healing *h, const struct stepped *s, double perplexity)
{
    struct json *line = json_make_object();
    char *text;
    int rc;

    if (h->log_fd < 0)
        return json_drop(line), EX_OK;
    if (h->block >= 0)
        json_put(line, "block", json_make_int(h->block));
    json_put(line, "step", json_make_int(h->trainer->step));
    json_put(line, "loss", json_make_number(s->loss));
    if (h->trainer->training.loss != LOSS_FEATURE) {
        json_put(line, "cross_entropy", json_make_number(s->cross));
        json_put(line, "divergence", json_make_number(s->divergence));
    }
    json_put(line, "gradient_norm", json_make_number(s->norm));
    json_put(line, "learning_rate", json_make_number(s->rate));
    json_put(line, "counted_tokens", json_make_int(s->counted));
    if (s->skipped)
        json_put(line, "skipped", json_make_bool(true));
    if (perplexity >= 0)
        json_put(line, "perplexity", json_make_number(perplexity));
    json_put(line, "seconds", json_make_number(h->seconds + clock_seconds() - h->start));
    text = json_write(line, 0);
    rc = file_write(h->log_fd, h->log_path, text, strlen(text));
    rc = rc ? rc : file_write(h->log_fd, h->log_path, "\n", 1);
    free(text);
    json_drop(line);
    return rc;
}

/* The line that shows how far it has come, and a message of each step with --verbose. */
static void show(struct healing *h, const struct stepped *s)
{
    static char label[128];
    double passed = clock_seconds() - h->start, speed = (double)h->tokens / passed;
    int64_t step = h->behind + h->trainer->step, left = h->all_steps - step;
    char block[32] = "";

    if (h->block >= 0)
        snprintf(block, sizeof block, "block %lld, ", (long long)h->block);
    snprintf(label, sizeof label, "%sloss %.4f, rate %.2g, %.0f tokens/s, %.0f s left", block, s->loss, s->rate, speed,
             passed / (double)(step - h->first_step) * (double)left);
    progress_step(label);
    inform("%sstep %lld: loss %.4f, gradient %.3g, rate %.3g, %.0f tokens/s", block, (long long)h->trainer->step,
           s->loss, s->norm, s->rate, speed);
    if (h->ranks->count > 1)
        inform("step %lld: %.4f s of messages, of which %.4f s were waited for", (long long)step, s->seconds.busy,
               s->seconds.waited);
}

/* Micro-batch number i of this rank's. */
static int add_batch(struct healing *h, int64_t i)
{
    int64_t first = h->trainer->step * h->batch * h->accumulate + (h->ranks->rank * h->own_count + i) * h->own_batch;
    struct micro_batch batch = training_text_batch(h->text, first, h->own_batch);
    int rc = h->logits ? teacher_logits_read(h->logits, h->text, first, h->own_batch) : EX_OK;

    batch.last = i + 1 == h->own_count;
    batch.top = h->logits ? &h->logits->top : NULL;
    if (!rc && h->add)
        rc = h->add(h->context, &batch, first);
    else if (!rc)
        trainer_add(h->trainer, &batch);
    training_batch_free(&batch);
    return rc;
}

int healing_add(struct healing *h, int64_t first)
{
    int rc = EX_OK;

    for (int64_t i = first; i < h->own_count && !rc; i++)
        rc = add_batch(h, i);
    if (rc && h->ranks->count > 1)
        h->ranks->abort(h->ranks, rc);           /* the others wait for what this one would send */
    return rc;
}

static int take_step(struct healing *h, struct stepped *stepped)
{
    int rc = healing_add(h, 0);

    if (rc || (rc = trainer_step(h->trainer, stepped)))
        return rc;
    h->tokens += stepped->tokens;
    return EX_OK;
}

/* The perplexity of the whole evaluation text in windows, which the ranks take in turn; negative where none is due. */
static double evaluate(struct healing *h)
{
    int64_t step = h->trainer->step, counted = 0, batch = h->own_batch;
    bool last = step == h->trainer->training.steps;
    double cross = 0, sums[2];

    if (!h->evaluation || (!last && (!h->evaluate_every || step % h->evaluate_every)))
        return -1;
    h->trainer->student->device->products(PRODUCTS_F32);
    for (int64_t first = batch * h->ranks->rank; first < h->evaluation->windows; first += batch * h->ranks->count) {
        struct micro_batch part = training_text_batch(h->evaluation, first,
                                                      least(batch, h->evaluation->windows - first));

        trainer_measure(h->trainer, &part, &cross, &counted);
        training_batch_free(&part);
    }
    h->trainer->student->device->products(h->products);
    sums[0] = cross;
    sums[1] = (double)counted;
    h->ranks->sum(h->ranks, sums, 2);
    note("step %lld: perplexity %.3f of %.0f tokens", (long long)step, exp(sums[0] / sums[1]), sums[1]);
    return exp(sums[0] / sums[1]);
}

void healing_start(struct healing *h)
{
    h->first_step = h->behind + h->trainer->step;
    h->start = clock_seconds();
    progress_start("healing", h->all_steps - h->first_step);
}

int healing_steps(struct healing *h)
{
    int64_t steps = h->trainer->training.steps;
    struct stepped stepped;
    int rc = EX_OK;

    while (!rc && h->trainer->step < steps) {
        if (!(rc = take_step(h, &stepped)) && !(rc = write_log(h, &stepped, evaluate(h))))
            show(h, &stepped);
        if (!(rc = ranks_agree(h->ranks, rc)) && h->work && h->checkpoint_every
            && h->trainer->step % h->checkpoint_every == 0)
            rc = ranks_agree(h->ranks, save(h));
    }
    return rc;
}

int healing_run(struct healing *h)
{
    int rc;

    h->all_steps = h->trainer->training.steps;
    if ((rc = compare_ranks(h)) || (rc = ranks_agree(h->ranks, healing_open_folder(h)))
        || (h->work && (rc = ranks_agree(h->ranks, healing_resume(h))))
        || (rc = ranks_agree(h->ranks, healing_open_log(h))))
        return rc;
    healing_start(h);
    rc = healing_steps(h);
    progress_stop();
    return rc;
}

void healing_close(struct healing *h, bool done)
{
    if (done && h->work)
        healing_keep_state(h, -1);
    if (h->log_path && h->log_fd >= 0)
        close(h->log_fd);
    if (h->work && h->lock >= 0)
        close(h->lock);
    free(h->log_path);
    h->log_path = NULL;
}
