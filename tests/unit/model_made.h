/* model_made.h - small random models as tensor streams, and runs of them, for test_model.c and test_pass.c. */
#ifndef TESTS_MODEL_MADE_H
#define TESTS_MODEL_MADE_H

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "model/network.h"
#include "model/pass.h"
#include "stream/writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is wrong with a model on purpose: names of tensors; NULL for none. */
struct flaws {
    const char *missing, *reshaped, *integers;
    const char *only;            /* nothing but tensors whose names begin like this */
    bool stored_head;            /* of a tied model */
};

static inline void made_values(const struct expected *e, float *values, int64_t count)
{
    float scale = e->rank == 2 ? 1 / sqrtf((float)e->shape[1]) : 0.1f;
    float offset = e->rank == 1 && !strstr(e->name, "bias") ? 1 : 0;

    random_normal(random_named(7, e->name), 0, (count + 3) / 4 * 4, values);
    for (int64_t i = 0; i < count; i++)
        values[i] = values[i] * scale + offset;
}

static inline void made_put(struct writer *writer, struct expected *e, const struct flaws *flaws)
{
    bool integers = flaws->integers && !strcmp(flaws->integers, e->name);
    struct record record;
    int64_t count;
    float *values;

    if (flaws->reshaped && !strcmp(flaws->reshaped, e->name))
        e->shape[0]++;
    count = e->shape[0] * (e->rank == 2 ? e->shape[1] : 1);
    values = xmallocarray((size_t)count + 3, sizeof *values);
    made_values(e, values, count);
    record = record_tensor(e->name, integers ? DTYPE(I32) : DTYPE(F32), e->rank, e->shape);
    assert_int_equal(writer_put(writer, &record, values), EX_OK);
    record_free(&record);
    free(values);
}

static inline void make_model(const char *path, const char *config_text, const struct flaws *flaws)
{
    struct json *json = json_parse(config_text, strlen(config_text), "config");
    struct writer writer;
    struct config config;
    struct expected e;

    assert_int_equal(config_read(json, path, &config), EX_OK);
    assert_int_equal(writer_open(&writer, path, json, NULL), EX_OK);
    for (int64_t i = 0; i < config_expected_count(&config); i++) {
        config_expected(&config, i, &e);
        if (!e.required && !(flaws->stored_head && !strcmp(e.name, "lm_head.weight")))
            continue;
        if (flaws->missing && !strcmp(flaws->missing, e.name))
            continue;
        if (!flaws->only || !strncmp(e.name, flaws->only, strlen(flaws->only)))
            made_put(&writer, &e, flaws);
    }
    assert_int_equal(writer_end(&writer), EX_OK);
    writer_close(&writer);
    json_drop(json);
}

static inline int32_t *made_tokens(int64_t n, uint64_t seed, int64_t vocab)
{
    int32_t *token = xmallocarray((size_t)n + 3, sizeof *token);
    float *uniform = xmallocarray((size_t)n + 3, sizeof *uniform);

    random_uniform(random_named(seed, "tokens"), 0, (n + 3) / 4 * 4, uniform);
    for (int64_t i = 0; i < n; i++)
        token[i] = (int32_t)(uniform[i] * (float)vocab);
    free(uniform);
    return token;
}

struct collected {
    const struct device *device;
    int64_t vocab, at;
    float *logits;
};

static inline int collect(void *context, int64_t first, int64_t n, const float *logits)
{
    struct collected *to = context;

    assert_int_equal(first, to->at);
    to->device->download(to->logits + to->at * to->vocab, logits, (size_t)(n * to->vocab) * sizeof *logits);
    to->at += n;
    return EX_OK;
}

/* Logits of all tokens [rows, vocab_size], layer by layer; the caller's. NULL where rc isn't EX_OK. */
static inline float *pass_all(const char *path, const struct device *device, const struct sequence *sequence,
                              int64_t count, int64_t memory, int *rc)
{
    struct collected to = {.device = device};
    struct applied *embedding;
    struct forward forward;
    struct hidden hidden;
    struct loader loader;
    struct head head;

    if ((*rc = loader_open(&loader, path, device, ACTIVATIONS_F32)))
        return NULL;
    forward_begin(&forward, device, &loader.config);
    *rc = pass_run(&loader, &forward, sequence, count, memory, &hidden, &embedding, &head);
    if (!*rc) {
        to.vocab = loader.config.vocab_size;
        to.logits = xmallocarray((size_t)(hidden.rows * to.vocab), sizeof *to.logits);
        *rc = pass_logits(&forward, &hidden, &head, 0, hidden.rows, collect, &to);
        assert_int_equal(to.at, hidden.rows);
        hidden_close(&hidden);
        head_free(&head, device);
        apply_free(embedding);
    }
    forward_end(&forward);
    loader_close(&loader);
    return to.logits;
}

static inline void load_network(const char *path, const struct device *device, struct network *network)
{
    struct loader loader;

    assert_int_equal(loader_open(&loader, path, device, ACTIVATIONS_F32), EX_OK);
    assert_int_equal(network_load(network, &loader), EX_OK);
    loader_close(&loader);
}

/* Logits behind n more tokens of one sequence, on the host: [vocab_size], the caller's. */
static inline float *advance_one(struct network *network, struct cache *cache, const int32_t *token, int64_t n)
{
    size_t bytes = (size_t)network->config.vocab_size * sizeof(float);
    float *logits = network->device->allocate(bytes), *host = xmalloc(bytes);

    network_advance(network, &(struct advance){cache, token, n}, 1, logits);
    network->device->download(host, logits, bytes);
    network->device->release(logits);
    return host;
}

#endif
