/* healing.c - steps, and what is written on the way. */
#include "measure/healing.h"
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

static struct ranks *ranks_of(const struct healing *h)
{
    return h->trainer->training.ranks;
}

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

static int compare(struct json *own, struct json *first)
{
    for (void *m = json_first(own); m; m = json_following(own, m)) {
        const struct json *other = json_at(first, json_key(m));
        char *mine, *theirs;

        if (json_same(json_value(m), other))
            continue;
        mine = json_write(json_value(m), 0);
        theirs = other ? json_write(other, 0) : xstrdup("nothing");
        fail(EX_USAGE, "another model, text or other options than those of rank 0: \"%s\" is %s, not %s", json_key(m),
             mine, theirs);
        free(mine);
        free(theirs);
        return EX_USAGE;
    }
    return EX_OK;
}

static int compare_ranks(const struct healing *h)
{
    struct json *own = all_options(h), *first;
    char *text = ranks_of(h)->rank ? NULL : json_write(own, 0), *shared = ranks_text(ranks_of(h), text);
    int rc = EX_DATAERR;

    if ((first = json_parse(shared, strlen(shared), "options of rank 0")))
        rc = compare(own, first);
    json_drop(own);
    json_drop(first);
    free(text);
    free(shared);
    return ranks_agree(ranks_of(h), rc);
}

/* ---- the folder ---- */

static char *state_path(const struct healing *h, int64_t step)
{
    return xasprintf("%s/%s%08lld", h->work, prefix, (long long)step);
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

/* The steps of all states, newest first; the caller's. */
static int64_t *states(const struct healing *h, int *count)
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

/* Removes states but for the newest so many. */
static void remove_states(const struct healing *h, int kept)
{
    int count;
    int64_t *step = states(h, &count);

    for (int i = kept; i < count; i++) {
        char *path = state_path(h, step[i]);

        unlink(path);
        free(path);
    }
    free(step);
}

static int open_folder(struct healing *h)
{
    if (!h->work || ranks_of(h)->rank)
        return EX_OK;
    if (mkdir(h->work, 0777) && errno != EEXIST)
        return fail(EX_CANTCREAT, "cannot create '%s':", h->work);
    h->lock = open(h->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (h->lock < 0)
        return fail(EX_CANTCREAT, "cannot open '%s':", h->work);
    if (flock(h->lock, LOCK_EX | LOCK_NB))
        return fail(EX_CANTCREAT, "'%s': another process works there", h->work);
    return EX_OK;
}

/* The log as it was at the state, of so many bytes: what came behind comes again. */
static int open_log(struct healing *h, int64_t bytes)
{
    struct stat about;

    if (ranks_of(h)->rank)
        return EX_OK;
    h->log_path = h->log ? xstrdup(h->log) : h->work ? file_join(h->work, "log") : NULL;
    if (!h->log_path)
        return EX_OK;
    h->log_fd = open(h->log_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (h->log_fd < 0 || fstat(h->log_fd, &about))
        return fail(EX_CANTCREAT, "cannot open '%s':", h->log_path);
    if (S_ISREG(about.st_mode)
        && (ftruncate(h->log_fd, least(bytes, about.st_size)) || lseek(h->log_fd, 0, SEEK_END) < 0))
        return fail(EX_IOERR, "cannot shorten '%s':", h->log_path);
    return EX_OK;
}

/* Rank 0 has the states. */
static int resume(struct healing *h, int64_t *log_bytes)
{
    struct json *position = NULL;
    int count = 0, rc = EX_OK;
    int64_t *step = ranks_of(h)->rank ? NULL : states(h, &count);

    ranks_of(h)->broadcast(ranks_of(h), &count, sizeof count);
    for (int i = 0; i < count && !position; i++) {
        char *path = step ? state_path(h, step[i]) : NULL;

        rc = snapshot_read(path, h->trainer, h->about, &position);
        free(path);
        if (rc && rc != EX_DATAERR)
            break;
    }
    free(step);
    if (rc == EX_DATAERR)
        warn("no whole state in '%s': it starts anew", h->work);
    if (rc && rc != EX_DATAERR)
        return rc;
    if (position) {
        h->window = json_as_int(json_at(position, "window"), 0);
        h->seconds = json_as_real(json_at(position, "seconds"), 0);
        *log_bytes = json_as_int(json_at(position, "log_bytes"), 0);
        note("goes on behind step %lld", (long long)h->trainer->step);
    }
    json_drop(position);
    return EX_OK;
}

/* By all ranks. */
static int save(struct healing *h)
{
    struct json *position = json_make_object();
    char *path = state_path(h, h->trainer->step);
    int rc = EX_OK;

    if (h->log_fd >= 0)
        fdatasync(h->log_fd);
    json_put(position, "window", json_make_int(h->window));
    json_put(position, "seconds", json_make_number(h->seconds + clock_seconds() - h->start));
    json_put(position, "log_bytes", json_make_int(h->log_fd < 0 ? 0 : (int64_t)lseek(h->log_fd, 0, SEEK_CUR)));
    if (!(rc = snapshot_write(path, h->trainer, h->about, position)) && !ranks_of(h)->rank)
        remove_states(h, KEPT);
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
    json_put(line, "step", json_make_int(h->trainer->step));
    json_put(line, "loss", json_make_number(s->loss));
    json_put(line, "cross_entropy", json_make_number(s->cross));
    json_put(line, "divergence", json_make_number(s->divergence));
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
    static char label[96];
    double passed = clock_seconds() - h->start, speed = (double)h->tokens / passed;
    int64_t step = h->trainer->step, left = h->trainer->training.steps - step;

    snprintf(label, sizeof label, "loss %.4f, rate %.2g, %.0f tokens/s, %.0f s left", s->loss, s->rate, speed,
             passed / (double)(step - h->first_step) * (double)left);
    progress_step(label);
    inform("step %lld: loss %.4f, gradient %.3g, rate %.3g, %.0f tokens/s", (long long)step, s->loss, s->norm, s->rate,
           speed);
    if (ranks_of(h)->count > 1)
        inform("step %lld: %.4f s of messages, of which %.4f s were waited for", (long long)step, s->seconds.busy,
               s->seconds.waited);
}

void healing_add(struct healing *h, int64_t i)
{
    int64_t number = ranks_of(h)->rank * h->own_count + i;
    struct micro_batch batch = training_text_batch(h->text, h->window + number * h->own_batch, h->own_batch);

    batch.last = i + 1 == h->own_count;
    trainer_add(h->trainer, &batch);
    training_batch_free(&batch);
}

static int take_step(struct healing *h, struct stepped *stepped)
{
    int rc;

    for (int64_t i = 0; i < h->own_count; i++)
        healing_add(h, i);
    if ((rc = trainer_step(h->trainer, stepped)))
        return rc;
    h->window += h->batch * h->accumulate;
    h->tokens += stepped->tokens;
    return EX_OK;
}

/* The perplexity of the whole evaluation text in windows, which the ranks take in turn; negative where none is due. */
static double evaluate(struct healing *h)
{
    int64_t step = h->trainer->step, counted = 0, batch = h->own_batch, rank = ranks_of(h)->rank;
    bool last = step == h->trainer->training.steps;
    double cross = 0, sums[2];

    if (!h->evaluation || (!last && (!h->evaluate_every || step % h->evaluate_every)))
        return -1;
    for (int64_t first = batch * rank; first < h->evaluation->windows; first += batch * ranks_of(h)->count) {
        struct micro_batch part = training_text_batch(h->evaluation, first,
                                                      least(batch, h->evaluation->windows - first));

        trainer_measure(h->trainer, &part, &cross, &counted);
        training_batch_free(&part);
    }
    sums[0] = cross;
    sums[1] = (double)counted;
    ranks_of(h)->sum(ranks_of(h), sums, 2);
    note("step %lld: perplexity %.3f of %.0f tokens", (long long)step, exp(sums[0] / sums[1]), sums[1]);
    return exp(sums[0] / sums[1]);
}

static int take_steps(struct healing *h)
{
    int64_t steps = h->trainer->training.steps;
    struct stepped stepped;
    int rc = EX_OK;

    progress_start("healing", steps - h->trainer->step);
    h->first_step = h->trainer->step;
    h->start = clock_seconds();
    while (!rc && h->trainer->step < steps) {
        if (!(rc = take_step(h, &stepped)) && !(rc = write_log(h, &stepped, evaluate(h))))
            show(h, &stepped);
        if (!(rc = ranks_agree(ranks_of(h), rc)) && h->work && h->checkpoint_every
            && h->trainer->step % h->checkpoint_every == 0)
            rc = ranks_agree(ranks_of(h), save(h));
    }
    progress_stop();
    return rc;
}

int healing_run(struct healing *h)
{
    int64_t log_bytes = 0;
    int rc;

    if ((rc = compare_ranks(h)) || (rc = ranks_agree(ranks_of(h), open_folder(h)))
        || (h->work && (rc = ranks_agree(ranks_of(h), resume(h, &log_bytes))))
        || (rc = ranks_agree(ranks_of(h), open_log(h, log_bytes))))
        return rc;
    return take_steps(h);
}

void healing_close(struct healing *h, bool done)
{
    if (done && h->work && !ranks_of(h)->rank)
        remove_states(h, 0);
    if (h->log_path && h->log_fd >= 0)
        close(h->log_fd);
    if (h->work && h->lock >= 0)
        close(h->lock);
    free(h->log_path);
    h->log_path = NULL;
}
