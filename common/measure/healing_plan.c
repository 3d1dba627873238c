/* healing_plan.c - what a training takes before it begins: memory, messages, time. */
#include "measure/healing_internal.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int healing_refuse(int64_t bytes, double limit, int local, const char *instead)
{
    return fail(EX_OSERR, "%.0f MiB of memory would be needed, there are %.0f%s; %s", mib(bytes), limit / 0x1p20,
                local > 1 ? " for each rank" : "", instead);
}

static int64_t common_divisor(int64_t a, int64_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

static int divide(struct healing *h)
{
    int64_t count = h->ranks->count, common = common_divisor(h->accumulate, count);

    if (h->batch % (count / common))
        return fail(EX_USAGE, "%lld ranks can't share %lld x %lld windows evenly: --batch would have to be a multiple "
                    "of %lld, or --accumulate of %lld", (long long)count, (long long)h->accumulate, (long long)h->batch,
                    (long long)(count / common), (long long)count);
    h->own_batch = h->batch / (count / common);
    h->own_count = h->accumulate / common;
    return EX_OK;
}

/* What would fit, for the message. */
static char *smaller(const struct healing *h, double limit)
{
    int64_t count = h->ranks->count;
    bool alone = count == 1;     /* as --scope block would have it */
    struct trainer with_less = *h->trainer;

    with_less.training.memory = 0;
    for (int64_t batch = h->own_batch; batch; batch /= 2) {
        int64_t accumulate = divide_up(h->own_batch, batch) * h->own_count;
        struct trainer_memory m = trainer_memory(&with_less, batch * h->text->context, accumulate);

        if ((double)m.total <= limit)
            return xasprintf("--batch %lld --accumulate %lld --memory 0 takes %.0f MiB%s", (long long)batch,
                             (long long)(accumulate * count), mib(m.total),
                             alone ? "; --scope block holds one block at a time" : "");
    }
    return xasprintf("not even --batch 1 --memory 0 fits: take %sa shorter --context, or --train less",
                     alone ? "--scope block, which holds one block at a time, " : "");
}

static char *memory_text(const struct healing *h, const struct trainer_memory *m)
{
    char *teacher = h->logits ? xasprintf("no teacher but the top %lld of its logits, from a file",
                                          (long long)h->logits->top.k) :
                                xasprintf("teacher %.1f", mib(m->teacher));
    char *text = xasprintf("%.1f MiB: weights %.1f, %s, gradients and moments %.1f, results of blocks %.1f, "
                           "logits %.1f", mib(m->total), mib(m->weights), teacher, mib(m->trained), mib(m->blocks),
                           mib(m->logits));

    free(teacher);
    return text;
}

int healing_plan(struct healing *h, bool tell)
{
    int local = h->ranks->local, rc = divide(h);
    struct trainer_memory m;
    double limit = memory_limit() / local;
    char *text;

    if (rc)
        return rc;
    m = trainer_memory(h->trainer, h->own_batch * h->text->context, h->own_count);
    if (tell) {
        text = memory_text(h, &m);
        note("memory: %s", text);
        free(text);
    }
    if ((double)m.total <= limit)
        return EX_OK;
    text = smaller(h, limit);
    rc = healing_refuse(m.total, limit, local, text);
    free(text);
    return rc;
}

/* ---- a forecast ---- */

struct forecast {
    double forward, backward;    /* of a micro-batch */
    double update;
    double out;                  /* bytes from each rank to others, and as many to it */
    double link;                 /* bytes a second */
    double messages, waited;     /* waited: not behind anything else */
};

/* Bytes a second of messages between ranks on this machine: what comes is copied, and half of it added to what is
 * there, out of memory that no cache holds. */
static double copy_speed(void)
{
    enum { TIMES = 5 };
    int64_t n = 8 * RANKS_FLOATS;
    float *row[] = {xaligned((size_t)n, sizeof **row), xaligned((size_t)n, sizeof **row)};
    double best = 1e30;

    memset(row[0], 0, (size_t)n * sizeof **row);
    for (int i = 0; i < TIMES; i++) {
        double start = clock_seconds(), passed;

        memcpy(row[1], row[0], (size_t)n * sizeof **row);
        ranks_add(row, 2, n / 2);
        passed = clock_seconds() - start;
        best = passed < best ? passed : best;
    }
    free(row[0]);
    free(row[1]);
    return (double)n * sizeof **row / best;
}

/* Messages of which each is sent when what it carries is done, behind work of so many seconds in equal parts: what is
 * left when the work ends is no less than the last one. */
static double left_over(double messages, double work, int parts)
{
    double hidden = work * (parts - 1) / parts, last = messages / parts;

    return messages - hidden > last ? messages - hidden : last;
}

static void estimate(struct forecast *f, const struct trainer *t, double link)
{
    int parts = t->parameters->segments;

    f->link = link > 0 ? link : copy_speed();
    f->messages = f->out / f->link;
    if (t->training.shard)       /* gradients behind the backward pass, values behind the update */
        f->waited = left_over(f->messages / 2, f->backward, parts) + left_over(f->messages / 2, f->update, parts);
    else
        f->waited = left_over(f->messages, f->backward, parts);
}

/* A step of at most two micro-batches. */
static int measure(struct healing *h, struct forecast *f)
{
    int64_t count = least(h->own_count, 2);
    struct stepped stepped;
    int rc;

    if ((rc = healing_add(h, h->own_count - count)) || (rc = trainer_step(h->trainer, &stepped)))
        return rc;
    f->forward = stepped.seconds.forward / (double)count;
    f->backward = stepped.seconds.backward / (double)count;
    f->update = stepped.seconds.update;
    f->messages = stepped.seconds.busy;
    f->waited = stepped.seconds.waited;
    return EX_OK;
}

static void print(const struct healing *h, const struct forecast *f, bool assumed)
{
    const struct trainer *t = h->trainer;
    int64_t rows = h->own_batch * h->text->context;
    struct trainer_memory m = trainer_memory(t, rows, h->own_count);
    double compute = (double)h->own_count * (f->forward + f->backward), step = compute + f->waited + f->update;
    char *memory = memory_text(h, &m);
    bool here = !t->training.ranks->imagined;
    int count = t->training.ranks->count;

    printf("ranks: %d%s\n", count, count == 1 ? "" : here ? ", all here" : ", of which the first is measured");
    printf("a step of each: %lld x %lld windows of %lld tokens\n", (long long)h->own_count, (long long)h->own_batch,
           (long long)h->text->context);
    printf("memory of each: %s\n", memory);
    if (count > 1) {
        printf("link: %.3f MiB out of each and %.3f MiB into it a step", f->out / 0x1p20, f->out / 0x1p20);
        if (here)
            printf("\n");
        else
            printf(", at %.2f GiB/s (%s)\n", f->link / 0x1p30, assumed ? "as fast as memory is copied here; --link "
                   "says another speed" : "--link");
        printf("messages: %.4f s (%s), of which %.4f s not behind the backward pass%s\n", f->messages,
               here ? "measured" : "estimated", f->waited, t->training.shard ? " and the update" : "");
    }
    printf("compute: %.4f s forwards, %.4f s backwards (measured, %d threads)\n", (double)h->own_count * f->forward,
           (double)h->own_count * f->backward, parallel_threads());
    printf("update: %.4f s (measured)\n", f->update);
    printf("step: %.4f s expected, %.1f tokens/s\n", step, (double)(rows * h->own_count * count) / step);
    free(memory);
}

int healing_forecast(struct healing *h, double link)
{
    const struct trainer *t = h->trainer;
    const struct ranks *ranks = t->training.ranks;
    struct forecast f = {0};
    int rc;

    if ((rc = measure(h, &f)) || (rc = measure(h, &f)))
        return rc;
    f.out = 2.0 * (ranks->count - 1) / ranks->count * (double)t->parameters->floats * sizeof(float);
    if (ranks->imagined)
        estimate(&f, t, link);
    if (ranks->rank)
        return EX_OK;
    print(h, &f, link <= 0);
    return fflush(stdout) || ferror(stdout) ? fail(EX_IOERR, "cannot write to standard output:") : EX_OK;
}
