/* drawing.c - documents in lanes, and out in order. */
#include "model/drawing.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "model/chat_model.h"
#include "model/lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- where documents begin ---- */

static int32_t start_token(const struct loader *loader, const struct tokenizer *tokenizer, int *rc)
{
    static const char *const between[] = {"<|endoftext|>", "<|end_of_text|>"};
    char *special[2] = {NULL, NULL};
    int32_t id = -1;

    *rc = EX_OK;
    for (size_t i = 0; i < sizeof between / sizeof *between && id < 0; i++)
        id = tokenizer_id(tokenizer, between[i]);
    if (id < 0 && !(*rc = special_tokens(loader, tokenizer, &special[0], &special[1])))
        for (int i = 0; i < 2 && id < 0; i++)
            id = special[i] ? tokenizer_id(tokenizer, special[i]) : -1;
    free(special[0]);
    free(special[1]);
    return id < loader->config.vocab_size ? id : -1;
}

int drawing_start(const struct loader *loader, struct tokenizer *tokenizer, const char *prompt, struct ids *start)
{
    struct ids added = {0};
    int32_t id;
    int rc = EX_OK;

    tokenizer_encode(tokenizer, "", 0, TOKENIZE_TEMPLATE, &added);
    if (!added.count && (id = start_token(loader, tokenizer, &rc)) >= 0)
        ids_append(start, id);
    ids_free(&added);
    tokenizer_encode(tokenizer, prompt, strlen(prompt), TOKENIZE_TEMPLATE, start);
    if (!rc && !start->count)
        rc = fail(EX_DATAERR, "'%s' has no token that begins a text: --prompt must begin it", loader_name(loader));
    if (!rc)
        inform("documents begin with '%s'", tokenizer_token(tokenizer, start->id[0]));
    return rc;
}

/* ---- documents ---- */

/* A document on its way. */
struct document {
    int64_t number;
    struct ids ids;              /* from the start on, up to the last that was drawn */
    int64_t fed;                 /* of these, that went into the model or are about to */
};

struct finished {
    struct text text;
    int64_t tokens;
    bool done, ended;
};

struct work {
    const struct drawing *drawing;
    struct drawn *drawn;
    struct document *document;   /* [lanes] */
    struct finished *finished;   /* [count] */
    struct sampler *sampler;     /* [threads] */
    float *host;                 /* [lanes, vocab_size] */
    const int *lane;             /* of a step, and its tokens */
    int32_t *token;
    int64_t next, longest;       /* document to come; tokens of a document, with its start */
    double started;
    int rc;
};

static bool stopped(const struct work *w)
{
    return w->rc || (w->drawing->interrupted && *w->drawing->interrupted);
}

static bool begin(void *context, int lane, struct ids *tokens)
{
    struct work *w = context;
    const struct drawing *d = w->drawing;
    struct document *document = &w->document[lane];

    if (stopped(w) || w->next == d->first + d->count)
        return false;
    document->number = w->next++;
    document->ids.count = 0;
    for (size_t i = 0; i < d->start.count; i++)
        ids_append(&document->ids, d->start.id[i]);
    document->fed = 1;
    ids_append(tokens, d->start.id[0]);
    return true;
}

/* Hands out what is done and has nothing to wait for any more. */
static void hand_out(struct work *w)
{
    static char label[64];

    while (!w->rc && w->drawn->documents < w->drawing->count && w->finished[w->drawn->documents].done) {
        struct finished *f = &w->finished[w->drawn->documents];

        if ((w->rc = w->drawing->take(w->drawing->context, f->text.data, f->text.length)))
            return;
        w->drawn->documents++;
        w->drawn->tokens += f->tokens;
        w->drawn->ended += f->ended;
        text_free(&f->text);
        snprintf(label, sizeof label, "%.0f tokens/s", (double)w->drawn->tokens / (clock_seconds() - w->started));
        progress_step(label);
    }
}

static int32_t finish(struct work *w, struct document *document, bool ended)
{
    const struct drawing *d = w->drawing;
    struct finished *f = &w->finished[document->number - d->first];

    text_append(&f->text, "", 0);
    tokenizer_decode(d->tokenizer, document->ids.id, document->ids.count, true, &f->text);
    f->tokens = (int64_t)(document->ids.count - d->start.count);
    f->ended = ended;
    f->done = true;
    return -1;
}

/* Of row i: the next token of the start, or one that is drawn. */
static void choose(void *context, int64_t i, int thread)
{
    struct work *w = context;
    const struct document *document = &w->document[w->lane[i]];
    struct sampler *sampler = &w->sampler[thread];

    if (document->fed < (int64_t)document->ids.count) {
        w->token[i] = document->ids.id[document->fed];
        return;
    }
    sampler->sampling.sequence = (uint64_t)document->number;
    w->token[i] = sample(sampler, w->host + i * sampler->n, document->fed);
}

static int32_t take_token(struct work *w, struct document *document, int32_t token)
{
    const struct drawing *d = w->drawing;

    if (document->fed == (int64_t)document->ids.count) {
        if (token < 0 && !w->rc)
            w->rc = fail(EX_DATAERR, "the model gives logits that aren't numbers behind token %lld of document %lld",
                         (long long)document->fed, (long long)document->number);
        if (token < 0)
            return -1;
        if (token == d->start.id[0] || ids_contain(&d->stop, token))
            return finish(w, document, true);
        ids_append(&document->ids, token);
        if ((int64_t)document->ids.count == w->longest)
            return finish(w, document, false);
    }
    document->fed++;
    return token;
}

static void step(void *context, const int *lane, int count, float *logits, int32_t *token)
{
    struct work *w = context;
    const struct network *network = w->drawing->network;
    size_t floats = (size_t)(count * network->config.vocab_size);

    w->lane = lane;
    w->token = token;
    network->device->download(w->host, logits, floats * sizeof *logits);
    parallel_for(count, choose, w);
    for (int i = 0; i < count; i++)
        token[i] = stopped(w) ? -1 : take_token(w, &w->document[lane[i]], token[i]);
    hand_out(w);
}

static void run(struct work *w)
{
    const struct drawing *d = w->drawing;
    int64_t vocab = d->network->config.vocab_size;
    int lanes = (int)most(DRAWING_LANES, least(d->lanes, d->count)), threads = parallel_threads();

    w->document = xcalloc((size_t)lanes, sizeof *w->document);
    w->finished = xcalloc((size_t)d->count, sizeof *w->finished);
    w->sampler = xcalloc((size_t)threads, sizeof *w->sampler);
    w->host = xmallocarray((size_t)(lanes * vocab), sizeof *w->host);
    for (int t = 0; t < threads; t++)
        sampler_begin(&w->sampler[t], &d->sampling, vocab);
    progress_start("documents", d->count);
    lanes_run(&(struct lanes){.network = d->network, .count = lanes, .full = true, .begin = begin, .step = step,
                              .context = w});
    progress_stop();
    for (int t = 0; t < threads; t++)
        sampler_end(&w->sampler[t]);
    for (int64_t i = 0; i < d->count; i++)
        text_free(&w->finished[i].text);
    for (int i = 0; i < lanes; i++)
        ids_free(&w->document[i].ids);
    free(w->document);
    free(w->finished);
    free(w->sampler);
    free(w->host);
}

int drawing_run(const struct drawing *drawing, struct drawn *drawn)
{
    int64_t start = (int64_t)drawing->start.count, context = drawing->network->config.max_position;
    struct work w = {.drawing = drawing, .drawn = drawn, .next = drawing->first, .started = clock_seconds(),
                     .longest = least(start + drawing->max_tokens, context)};

    *drawn = (struct drawn){0};
    if (start >= context)
        return fail(EX_DATAERR, "documents begin with %lld tokens, expected less than the model's context of %lld",
                    (long long)start, (long long)context);
    if (w.longest < start + drawing->max_tokens)
        note("the model's context of %lld tokens ends documents at %lld", (long long)context,
             (long long)(w.longest - start));
    run(&w);
    drawn->seconds = clock_seconds() - w.started;
    return w.rc;
}
