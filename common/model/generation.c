/* generation.c - the loop: logits, a token, the next logits. */
#include "model/generation.h"
#include "base/clock.h"

#include <stdbool.h>

enum { PART = 512 };             /* tokens of a prompt that run at once: a stop is looked for in between */

const char *const finish_names[] = {"stop", "length", "context", "interrupted"};

static bool interrupted(const struct generation *generation)
{
    return generation->interrupted && *generation->interrupted;
}

static void run_prompt(const struct generation *generation, struct cache *cache, const int32_t *prompt, int64_t n,
                       float *logits)
{
    for (int64_t at = 0; at < n && !interrupted(generation); at += PART) {
        struct advance part = {cache, prompt + at, n - at < PART ? n - at : PART};

        network_advance(generation->network, &part, 1, logits);
    }
}

/* Tokens from the logits behind the prompt on. */
static int run_tokens(const struct generation *generation, struct cache *cache, struct sampler *sampler, int64_t n,
                      float *logits, struct generated *generated)
{
    const struct network *network = generation->network;
    int64_t room = network->config.max_position - n, most = generation->max_tokens;

    for (;;) {
        int64_t count = (int64_t)generated->ids.count;
        struct advance next = {cache, NULL, 1};
        int32_t token;
        int rc;

        generated->finish = interrupted(generation) ? FINISH_INTERRUPTED :
                            most >= 0 && count >= most ? FINISH_LENGTH : FINISH_CONTEXT;
        if (generated->finish != FINISH_CONTEXT || count >= room)
            return EX_OK;
        if (count) {
            next.token = &generated->ids.id[count - 1];
            network_advance(generation->network, &next, 1, logits);
            generated->advances++;
        }
        if ((token = sample_from(sampler, network->device, logits, n + count)) < 0)
            return fail(EX_DATAERR, "the model gives logits that aren't numbers behind token %lld",
                        (long long)(n + count));
        generated->finish = FINISH_STOP;
        if (ids_contain(generation->stop, token))
            return EX_OK;
        ids_append(&generated->ids, token);
        if ((rc = generation->take(generation->context, token)))
            return rc;
    }
}

int generate(const struct generation *generation, const int32_t *prompt, int64_t n, struct generated *generated)
{
    struct network *network = generation->network;
    const struct config *config = &network->config;
    struct sampler sampler;
    struct cache cache = {0};
    float *logits;
    double started = clock_seconds(), ready;
    int rc;

    *generated = (struct generated){0};
    if (!n)
        return fail(EX_DATAERR, "the prompt is empty, and the model has no token that begins a text");
    if (n > config->max_position)
        return fail(EX_DATAERR, "the prompt has %lld tokens, expected at most the model's context of %lld",
                    (long long)n, (long long)config->max_position);
    logits = network->device->allocate((size_t)config->vocab_size * sizeof *logits);
    sampler_begin(&sampler, &generation->sampling, config->vocab_size);
    run_prompt(generation, &cache, prompt, n, logits);
    ready = clock_seconds();
    rc = run_tokens(generation, &cache, &sampler, n, logits, generated);
    generated->prompt_seconds = ready - started;
    generated->seconds = clock_seconds() - ready;
    sampler_end(&sampler);
    network->device->release(logits);
    cache_free(&cache, network);
    return rc;
}
