/* task_generate.c - greedy text for many prompts, several side by side; a finished one makes room for the next. */
#include "base/memory.h"
#include "base/number.h"
#include "base/progress.h"
#include "measure/task_work.h"
#include "model/lanes.h"

#include <stdlib.h>
#include <string.h>

/* The most tokens that are generated, as in lm-evaluation-harness; stop strings. */
enum { MAX_NEW = 256, STOPS = 5 };

/* A text that is being generated. */
struct answer {
    struct question *question;
    int made;
    struct decoding seen, plain; /* with special tokens, which stops are looked for in, and without */
    struct text seen_text;
};

struct generating {
    struct work *work;
    const struct network *network;
    const char *stop[STOPS];
    struct answer *answer;       /* [lanes] */
    size_t next;                 /* question to come */
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

/* The next question that has a prompt, which keeps its end where it is too long. */
static bool begin(void *context, int lane, struct ids *prompt)
{
    struct generating *generating = context;
    struct work *work = generating->work;
    struct answer *answer = &generating->answer[lane];
    size_t room = (size_t)(generating->network->config.max_position - MAX_NEW);

    while (generating->next < work->questions) {
        struct question *question = &work->question[generating->next++];

        prompt->count = 0;
        task_encode_prompt(work, question, prompt);
        if (!prompt->count) {
            question->failed = "the prompt has no tokens";
            continue;
        }
        if (prompt->count > room) {
            memmove(prompt->id, prompt->id + prompt->count - room, room * sizeof *prompt->id);
            prompt->count = room;
        }
        answer->question = question;
        answer->made = 0;
        answer->seen_text.length = 0;
        decoding_begin(&answer->seen, work->tokenizer, false);
        decoding_begin(&answer->plain, work->tokenizer, true);
        return true;
    }
    return false;
}

/* -1, for lanes. */
static int32_t finish(const struct generating *generating, struct answer *answer)
{
    decoding_end(&answer->seen, &answer->seen_text);
    decoding_end(&answer->plain, &answer->question->text);
    answer_cut(&answer->question->text, generating->stop);
    progress_step("generating");
    return -1;
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

static int32_t take_token(const struct generating *generating, struct answer *answer, int32_t token)
{
    size_t old = answer->seen_text.length;

    if (token < 0)
        answer->question->failed = "the model's logits are not numbers";
    if (token < 0 || ids_contain(&generating->work->stop, token))
        return finish(generating, answer);
    decoding_take(&answer->seen, token, &answer->seen_text);
    decoding_take(&answer->plain, token, &answer->question->text);
    if (++answer->made == MAX_NEW || has_stop(generating, &answer->seen_text, old))
        return finish(generating, answer);
    return token;
}

static void step(void *context, const int *lane, int count, float *logits, int32_t *token)
{
    const struct generating *generating = context;
    const struct network *network = generating->network;

    network->device->log_sum_exp(logits, count, network->config.vocab_size, NULL, token);
    for (int i = 0; i < count; i++)
        token[i] = take_token(generating, &generating->answer[lane[i]], token[i]);
}

static void generate_all(struct work *work, struct network *network)
{
    struct generating generating = {.work = work, .network = network};
    int64_t batch = least(work->options->batch, (int64_t)work->questions);
    struct lanes lanes = {.network = network, .count = (int)batch, .begin = begin, .step = step,
                          .context = &generating};

    generating.answer = xcalloc((size_t)batch + 1, sizeof *generating.answer);
    list_stops(work, generating.stop);
    progress_start("documents", (int64_t)work->questions);
    work->tokens += lanes_run(&lanes);
    progress_stop();
    for (int i = 0; i < lanes.count; i++)
        text_free(&generating.answer[i].seen_text);
    free(generating.answer);
}

int task_generate(struct work *work)
{
    struct network *network;
    int rc;

    if (work->loader.config.max_position <= MAX_NEW)
        return fail(EX_DATAERR, "'%s': a context of %lld tokens has no room for a prompt and %d new ones",
                    loader_name(&work->loader), (long long)work->loader.config.max_position, MAX_NEW);
    network = xcalloc(1, sizeof *network);
    if (!(rc = network_load(network, &work->loader))) {
        generate_all(work, network);
        network_free(network);
    }
    free(network);
    return rc;
}
