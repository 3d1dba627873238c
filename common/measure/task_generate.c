/* task_generate.c - greedy text for many prompts, several side by side; a finished one makes room for the next. */
#include "base/memory.h"
#include "base/progress.h"
#include "measure/task_work.h"
#include "model/network.h"

#include <stdlib.h>
#include <string.h>

/* The most tokens that are generated, as in lm-evaluation-harness; stop strings. */
enum { MAX_NEW = 256, STOPS = 5 };

/* A sequence that is being generated. */
struct lane {
    struct question *question;           /* NULL: idle */
    struct cache cache;
    struct ids prompt;           /* not yet run */
    int32_t token;               /* the last one */
    int made;
    struct decoding seen, plain; /* with special tokens, which stops are looked for in, and without */
    struct text seen_text;
};

struct generating {
    struct work *work;
    struct network *network;
    const char *stop[STOPS];
    struct lane *lane;
    int lanes;
    size_t next;                 /* question to come */
    float *logits;               /* [lanes, vocab_size] on the device */
};

static void list_stops(const struct work *work, const char *stop[STOPS])
{
    static const char *const trivia[] = {"\n", ".", ",", NULL};
    static const char *const math[] = {"Question:", "</s>", "<|im_end|>", NULL};
    const char *const *from = work->task->kind == TASK_TRIVIAQA ? trivia : math;
    int count = 0;
    bool has_eos = false;

    for (; *from; from++) {
        has_eos = has_eos || (work->eos && !strcmp(*from, work->eos));
        stop[count++] = *from;
    }
    if (work->eos && *work->eos && !has_eos)
        stop[count++] = work->eos;
    stop[count] = NULL;
}

/* The next question that has a prompt goes into the lane; the prompt keeps its end where it is too long. */
static void fill_lane(struct generating *generating, struct lane *lane)
{
    struct work *work = generating->work;
    size_t room = (size_t)(generating->network->config.max_position - MAX_NEW);

    lane->question = NULL;
    while (generating->next < work->questions && !lane->question) {
        struct question *question = &work->question[generating->next++];

        lane->prompt.count = 0;
        task_encode_prompt(work, question, &lane->prompt);
        if (!lane->prompt.count) {
            question->failed = "the prompt has no tokens";
            continue;
        }
        if (lane->prompt.count > room) {
            memmove(lane->prompt.id, lane->prompt.id + lane->prompt.count - room, room * sizeof *lane->prompt.id);
            lane->prompt.count = room;
        }
        lane->question = question;
        lane->made = 0;
        lane->seen_text.length = 0;
        cache_cut(&lane->cache, 0);
        decoding_begin(&lane->seen, work->tokenizer, false);
        decoding_begin(&lane->plain, work->tokenizer, true);
    }
}

static void finish_lane(struct generating *generating, struct lane *lane)
{
    decoding_end(&lane->seen, &lane->seen_text);
    decoding_end(&lane->plain, &lane->question->text);
    answer_cut(&lane->question->text, generating->stop);
    progress_step("generating");
    fill_lane(generating, lane);
}

/* A stop string in the text, of which the first old bytes have been looked at. */
static bool has_stop(const struct generating *generating, const struct text *text, size_t old)
{
    for (const char *const *stop = generating->stop; *stop; stop++) {
        size_t length = strlen(*stop), from = old >= length ? old - length + 1 : 0;

        if (text->length > from && memmem(text->data + from, text->length - from, *stop, length))
            return true;
    }
    return false;
}

static void take_token(struct generating *generating, struct lane *lane, int32_t token)
{
    size_t old = lane->seen_text.length;

    lane->prompt.count = 0;
    lane->token = token;
    if (token < 0) {
        lane->question->failed = "the model's logits are not numbers";
        finish_lane(generating, lane);
        return;
    }
    if (ids_contain(&generating->work->stop, token)) {
        finish_lane(generating, lane);
        return;
    }
    decoding_take(&lane->seen, token, &lane->seen_text);
    decoding_take(&lane->plain, token, &lane->question->text);
    if (++lane->made == MAX_NEW || has_stop(generating, &lane->seen_text, old))
        finish_lane(generating, lane);
}

/* One step of all lanes; false where all are idle. */
static bool step(struct generating *generating)
{
    const struct network *network = generating->network;
    struct advance *advance = xmallocarray((size_t)generating->lanes, sizeof *advance);
    struct lane **lane = xmallocarray((size_t)generating->lanes, sizeof *lane);
    int32_t *best = xmallocarray((size_t)generating->lanes, sizeof *best);
    int count = 0;

    for (int i = 0; i < generating->lanes; i++) {
        struct lane *l = &generating->lane[i];

        if (!l->question)
            continue;
        advance[count] = (struct advance){&l->cache, l->made ? &l->token : l->prompt.id,
                                          l->made ? 1 : (int64_t)l->prompt.count};
        generating->work->tokens += advance[count].n;
        lane[count++] = l;
    }
    if (count) {
        network_advance(generating->network, advance, count, generating->logits);
        network->device->log_sum_exp(generating->logits, count, network->config.vocab_size, NULL, best);
    }
    for (int i = 0; i < count; i++)
        take_token(generating, lane[i], best[i]);
    free(advance);
    free(lane);
    free(best);
    return count > 0;
}

static void generate_all(struct generating *generating)
{
    struct work *work = generating->work;
    const struct network *network = generating->network;
    size_t floats;

    generating->lanes = (int)(work->options->batch > (int64_t)work->questions ? (int64_t)work->questions :
                              work->options->batch);
    generating->lane = xcalloc((size_t)generating->lanes, sizeof *generating->lane);
    floats = (size_t)(generating->lanes * network->config.vocab_size);
    generating->logits = network->device->allocate(floats * sizeof *generating->logits);
    list_stops(work, generating->stop);
    progress_start("documents", (int64_t)work->questions);
    for (int i = 0; i < generating->lanes; i++)
        fill_lane(generating, &generating->lane[i]);
    while (step(generating))
        ;
    progress_stop();
    for (int i = 0; i < generating->lanes; i++) {
        cache_free(&generating->lane[i].cache, network);
        ids_free(&generating->lane[i].prompt);
        text_free(&generating->lane[i].seen_text);
    }
    network->device->release(generating->logits);
    free(generating->lane);
}

int task_generate(struct work *work)
{
    struct network *network;
    struct generating generating = {.work = work};
    int rc;

    if (work->loader.config.max_position <= MAX_NEW)
        return fail(EX_DATAERR, "'%s': a context of %lld tokens has no room for a prompt and %d new ones",
                    loader_name(&work->loader), (long long)work->loader.config.max_position, MAX_NEW);
    network = xcalloc(1, sizeof *network);
    if (!(rc = network_load(network, &work->loader))) {
        generating.network = network;
        generate_all(&generating);
        network_free(network);
    }
    free(network);
    return rc;
}
