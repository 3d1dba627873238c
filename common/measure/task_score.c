/* task_score.c - log-likelihoods of choices. What several of them have in common runs through the model once: the
 * prompt of all choices of a question; where choices are single tokens, the beginning that questions in a row share. */
#include "base/memory.h"
#include "base/progress.h"
#include "measure/task_work.h"
#include "model/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A shared beginning pays from so many tokens on; questions that share one, and their rows, are bounded because their
 * keys and values are in memory at the same time. */
enum { SHARED_LEAST = 32, SHARED_QUESTIONS = 64, SHARED_ROWS = 8192, SCORED_ROWS = 4096 };

/* The logits of this row give the probability of a token of a choice. */
struct wanted {
    int64_t row;
    int32_t token;
    double *score;               /* which is added to */
};

/* A sequence by itself, of which the last rows are wanted: for one choice, or (choice -1) the last row for all. */
struct alone {
    struct question *question;
    const int32_t *token;
    int64_t n, last;
    int choice;
};

struct plan {
    struct sequence *sequence;
    size_t sequences, sequence_room;
    struct wanted *wanted;
    size_t n_wanted, wanted_room;
    struct alone *alone;         /* collected, and not yet among the sequences */
    size_t n_alone, alone_room;
    struct ids *whole;           /* owns tokens of sequences that are no one else's */
    size_t wholes, whole_room;
    int64_t rows;
};

static void *grow(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    *room = *room ? 2 * *room : 64;
    return xreallocarray(array, *room, size);
}

/* Its first row. */
static int64_t add_sequence(struct plan *plan, const int32_t *token, int64_t n, int64_t parent)
{
    plan->sequence = grow(plan->sequence, plan->sequences, &plan->sequence_room, sizeof *plan->sequence);
    plan->sequence[plan->sequences++] = (struct sequence){token, n, parent};
    plan->rows += n;
    return plan->rows - n;
}

static void add_wanted(struct plan *plan, int64_t row, int32_t token, double *score)
{
    plan->wanted = grow(plan->wanted, plan->n_wanted, &plan->wanted_room, sizeof *plan->wanted);
    plan->wanted[plan->n_wanted++] = (struct wanted){row, token, score};
}

static void add_alone(struct plan *plan, struct alone alone)
{
    plan->alone = grow(plan->alone, plan->n_alone, &plan->alone_room, sizeof *plan->alone);
    plan->alone[plan->n_alone++] = alone;
}

/* The sequence that ends in row end (exclusive) is a collected one. */
static void want_alone(struct plan *plan, const struct alone *alone, int64_t end)
{
    struct question *question = alone->question;

    if (alone->choice >= 0) {
        const struct ids *ids = &question->continuation[alone->choice];

        for (int64_t i = 0; i < alone->last; i++)
            add_wanted(plan, end - alone->last + i, ids->id[i], &question->score[alone->choice]);
        return;
    }
    for (int c = 0; c < question->document->choices; c++)
        add_wanted(plan, end - 1, question->continuation[c].id[0], &question->score[c]);
}

static int64_t common_prefix(const struct alone *a, const struct alone *b, int64_t most)
{
    int64_t n = 0;

    while (n < most && n < b->n - b->last && a->token[n] == b->token[n])
        n++;
    return n;
}

/* How many of the collected ones from first on have a beginning of *shared tokens in common: as many as leave it, one
 * by one, at least nine tenths as long as it was. */
static size_t family(const struct plan *plan, size_t first, int64_t *shared)
{
    const struct alone *head = &plan->alone[first];
    int64_t rows = head->n;
    size_t count = 1;

    *shared = head->n - head->last;
    for (; first + count < plan->n_alone && count < SHARED_QUESTIONS && rows < SHARED_ROWS; count++) {
        int64_t prefix = common_prefix(head, &plan->alone[first + count], *shared);

        if (prefix < SHARED_LEAST || (count > 1 && 10 * prefix < 9 * *shared))
            break;
        *shared = prefix;
        rows += plan->alone[first + count].n - prefix;
    }
    return count;
}

static void flush_alone(struct plan *plan)
{
    for (size_t first = 0, count; first < plan->n_alone; first += count) {
        int64_t shared, parent = -1;

        count = family(plan, first, &shared);
        if (count > 1) {
            parent = (int64_t)plan->sequences;
            add_sequence(plan, plan->alone[first].token, shared, -1);
        }
        for (size_t i = first; i < first + count; i++) {
            const struct alone *alone = &plan->alone[i];
            int64_t from = count > 1 ? shared : 0;

            want_alone(plan, alone, add_sequence(plan, alone->token + from, alone->n - from, parent) + alone->n - from);
        }
    }
    plan->n_alone = 0;
}

/* Prompt and choice don't fit the context: the prompt loses its beginning, as much as each choice needs. */
static void plan_truncated(struct plan *plan, struct question *question, int64_t context)
{
    for (int c = 0; c < question->document->choices; c++) {
        const struct ids *ids = &question->continuation[c];
        struct ids whole = {0};
        int64_t total = (int64_t)(question->context.count + ids->count);
        int64_t drop = total > context + 1 ? total - context - 1 : 0;

        for (size_t i = 0; i < question->context.count; i++)
            ids_append(&whole, question->context.id[i]);
        for (size_t i = 0; i < ids->count; i++)
            ids_append(&whole, ids->id[i]);
        plan->whole = grow(plan->whole, plan->wholes, &plan->whole_room, sizeof *plan->whole);
        plan->whole[plan->wholes++] = whole;
        add_alone(plan, (struct alone){question, whole.id + drop, total - drop - 1, (int64_t)ids->count, c});
    }
}

/* The prompt, then each choice but for its last token as a continuation. */
static void plan_choices(struct plan *plan, struct question *question)
{
    const struct ids *context = &question->context;
    int64_t parent, row;

    flush_alone(plan);
    parent = (int64_t)plan->sequences;
    row = add_sequence(plan, context->id, (int64_t)context->count, -1) + (int64_t)context->count - 1;
    for (int c = 0; c < question->document->choices; c++)
        add_wanted(plan, row, question->continuation[c].id[0], &question->score[c]);
    for (int c = 0; c < question->document->choices; c++) {
        const struct ids *ids = &question->continuation[c];

        if (ids->count == 1)
            continue;
        row = add_sequence(plan, ids->id, (int64_t)ids->count - 1, parent);
        for (size_t i = 1; i < ids->count; i++)
            add_wanted(plan, row + (int64_t)i - 1, ids->id[i], &question->score[c]);
    }
}

static void plan_question(struct plan *plan, struct question *question, int64_t context)
{
    size_t longest = 0;

    for (int c = 0; c < question->document->choices; c++)
        longest = question->continuation[c].count > longest ? question->continuation[c].count : longest;
    if ((int64_t)(question->context.count + longest) > context + 1)
        plan_truncated(plan, question, context);
    else if (longest == 1)
        add_alone(plan, (struct alone){question, question->context.id, (int64_t)question->context.count, 1, -1});
    else
        plan_choices(plan, question);
}

static void plan_free(struct plan *plan)
{
    for (size_t i = 0; i < plan->wholes; i++)
        ids_free(&plan->whole[i]);
    free(plan->whole);
    free(plan->alone);
    free(plan->sequence);
    free(plan->wanted);
}

/* The rows that are wanted and no others, in order, into compact; the wanted ones then name its rows. */
static int gather(const struct hidden *hidden, struct plan *plan, int64_t memory, struct hidden *compact)
{
    float *x = xmallocarray((size_t)hidden->width, sizeof *x);
    int64_t rows = 0, before = -1, row = -1;
    int rc;

    for (size_t i = 0; i < plan->n_wanted; i++)
        rows += !i || plan->wanted[i].row != plan->wanted[i - 1].row;
    rc = hidden_open(compact, rows, hidden->width, memory);
    for (size_t i = 0; i < plan->n_wanted && !rc; i++) {
        struct wanted *wanted = &plan->wanted[i];

        if (wanted->row != before && !(rc = hidden_read(hidden, wanted->row, 1, x)))
            rc = hidden_write(compact, ++row, 1, x);
        before = wanted->row;
        wanted->row = row;
    }
    free(x);
    return rc;
}

struct scoring {
    const struct forward *forward;
    const struct plan *plan;
    size_t at;                   /* the first wanted one that wasn't looked at */
};

static int take_logits(void *context, int64_t first, int64_t n, const float *logits)
{
    struct scoring *scoring = context;
    const struct plan *plan = scoring->plan;
    const struct device *device = scoring->forward->device;
    int64_t vocab = scoring->forward->config->vocab_size;
    double *lse = xmallocarray((size_t)n, sizeof *lse);

    device->log_sum_exp(logits, n, vocab, lse, NULL);
    for (; scoring->at < plan->n_wanted && plan->wanted[scoring->at].row < first + n; scoring->at++) {
        const struct wanted *wanted = &plan->wanted[scoring->at];
        int64_t row = wanted->row - first;
        float logit;

        device->download(&logit, logits + row * vocab + wanted->token, sizeof logit);
        *wanted->score += (double)logit - lse[row];
    }
    free(lse);
    return EX_OK;
}

static int score_rows(struct forward *forward, const struct hidden *compact, const struct head *head,
                      const struct plan *plan)
{
    struct scoring scoring = {forward, plan, 0};
    int rc = EX_OK;

    progress_start("rows", (compact->rows + SCORED_ROWS - 1) / SCORED_ROWS);
    for (int64_t first = 0; first < compact->rows && !rc; first += SCORED_ROWS) {
        int64_t n = compact->rows - first < SCORED_ROWS ? compact->rows - first : SCORED_ROWS;

        rc = pass_logits(forward, compact, head, first, n, take_logits, &scoring);
        progress_step("scoring");
    }
    progress_stop();
    return rc;
}

static int run(struct work *work, struct plan *plan)
{
    struct forward forward;
    struct hidden hidden, compact = {.fd = -1};
    struct applied *embedding;
    struct head head;
    int64_t memory = work->measure->memory;
    int rc;

    forward_begin(&forward, work->measure->device, &work->loader.config);
    if (!(rc = pass_run(&work->loader, &forward, plan->sequence, (int64_t)plan->sequences, memory, &hidden, &embedding,
                        &head))) {
        rc = gather(&hidden, plan, memory, &compact);
        hidden_close(&hidden);
        if (!rc)
            rc = score_rows(&forward, &compact, &head, plan);
        hidden_close(&compact);
        head_free(&head, work->measure->device);
        apply_free(embedding);
    }
    forward_end(&forward);
    return rc;
}

int task_score(struct work *work)
{
    struct plan plan = {0};
    int rc = EX_OK;

    for (size_t i = 0; i < work->questions; i++) {
        task_encode_choices(work, &work->question[i]);
        if (!work->question[i].failed)
            plan_question(&plan, &work->question[i], work->loader.config.max_position);
    }
    flush_alone(&plan);
    work->tokens = plan.rows;
    if (plan.sequences)
        rc = run(work, &plan);
    for (size_t i = 0; i < work->questions && !rc; i++)
        for (int c = 0; c < work->question[i].document->choices && !work->question[i].failed; c++)
            if (!isfinite(work->question[i].score[c]))
                work->question[i].failed = "the model's logits are not numbers";
    plan_free(&plan);
    return rc;
}
