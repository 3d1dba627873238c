/* test_pass.c - random models of all families: layer by layer and resident, in batches and one by one, with shared
 * prefixes, on both devices, with any number of threads; and models that are refused. */
#include "base/parallel.h"
#include "model_made.h"

#define SIZES "\"vocab_size\":96,\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":3," \
              "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":8192"
#define FAMILY(name) "{\"model_type\":\"" name "\"," SIZES

static const char llama[] = FAMILY("llama") "}";
static const char *const families[] = {
    llama,
    FAMILY("llama") ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true,\"rope_scaling\":"
                    "{\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":16}}",
    FAMILY("mistral") ",\"sliding_window\":16}",
    FAMILY("granite") ",\"embedding_multiplier\":12,\"attention_multiplier\":0.125,\"residual_multiplier\":0.22,"
                      "\"logits_scaling\":16}",
    FAMILY("qwen2") ",\"use_sliding_window\":true,\"sliding_window\":9,\"max_window_layers\":1}",
    FAMILY("qwen3") ",\"head_dim\":16,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}",
};

enum { VOCAB = 96, N_FAMILY = sizeof families / sizeof *families };

/* The same sums in another order, in single precision, through three layers. */
static const double close_enough = 1e-5;

static char message[2048];

static float *whole(const char *path, const struct device *device, const int32_t *token, int64_t n)
{
    int rc;
    float *logits = pass_all(path, device, &(struct sequence){token, n, -1}, 1, INT64_MAX, &rc);

    assert_int_equal(rc, EX_OK);
    return logits;
}

static void test_devices(void)
{
    int32_t *token = made_tokens(75, 1, VOCAB);

    for (int f = 0; f < N_FAMILY; f++) {
        float *a, *b;

        make_model("m", families[f], &(struct flaws){0});
        a = whole("m", &device_reference, token, 75);
        b = whole("m", &device_cpu, token, 75);
        CHECK_AT_MOST(check_relative(b, a, 75 * VOCAB), close_enough, "cpu against reference");
        free(a);
        free(b);
    }
    free(token);
}

/* A cache in uneven pieces, one that is cut back, and several sequences side by side. */
static void check_network(const int32_t *token, int64_t n, const float *expected)
{
    static const int64_t pieces[] = {1, 30, 2, 40};
    struct cache cache = {0};
    struct network network;
    int64_t at = 0;

    load_network("m", &device_cpu, &network);
    for (int i = 0; i < 4; i++) {
        float *logits = advance_one(&network, &cache, token + at, pieces[i]);

        at += pieces[i];
        CHECK_AT_MOST(check_relative(logits, expected + (at - 1) * VOCAB, VOCAB), close_enough, "pieces");
        free(logits);
    }
    cache_cut(&cache, 20);
    for (at = 20; at < n; at++) {
        float *logits = advance_one(&network, &cache, token + at, 1);

        CHECK_AT_MOST(check_relative(logits, expected + at * VOCAB, VOCAB), close_enough, "token by token");
        free(logits);
    }
    cache_free(&cache, &network);
    network_free(&network);
}

static void test_network(void)
{
    int32_t *token = made_tokens(75, 2, VOCAB);

    for (int f = 0; f < N_FAMILY; f++) {
        float *expected;

        make_model("m", families[f], &(struct flaws){0});
        expected = whole("m", &device_cpu, token, 75);
        check_network(token, 75, expected);
        free(expected);
    }
    free(token);
}

static void test_side_by_side(void)
{
    enum { COUNT = 4 };
    int32_t *token = made_tokens(120, 3, VOCAB);
    static const int64_t first[COUNT] = {0, 7, 60, 61}, length[COUNT] = {7, 53, 1, 30};
    struct advance advance[COUNT];
    struct cache cache[COUNT] = {0};
    struct network network;
    float logits[COUNT * VOCAB];

    make_model("m", families[2], &(struct flaws){0});
    load_network("m", &device_cpu, &network);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < COUNT; i++)
            advance[i] = (struct advance){&cache[i], token + first[i] + (step ? length[i] + step - 1 : 0),
                                          step ? 1 : length[i]};
        network_advance(&network, advance, COUNT, logits);
        for (int i = 0; i < COUNT; i++) {
            int64_t n = length[i] + step;
            float *expected = whole("m", &device_cpu, token + first[i], n);

            CHECK_AT_MOST(check_relative(logits + i * VOCAB, expected + (n - 1) * VOCAB, VOCAB), close_enough,
                          "side by side");
            free(expected);
        }
    }
    for (int i = 0; i < COUNT; i++)
        cache_free(&cache[i], &network);
    network_free(&network);
    free(token);
}

/* Prefixes with continuations between sequences of their own: each equal to the same text run as a whole. */
static void test_children(void)
{
    static const struct {
        int64_t first, n, parent;
    } made[] = {{0, 40, -1}, {40, 5, 0}, {50, 1, 0}, {60, 30, 0}, {3, 9, -1}, {100, 3, -1}, {90, 20, 5}, {10, 2, 5}};
    enum { COUNT = sizeof made / sizeof *made };
    int32_t *token = made_tokens(120, 4, VOCAB), text[80];
    struct sequence sequence[COUNT];

    for (int i = 0; i < COUNT; i++)
        sequence[i] = (struct sequence){token + made[i].first, made[i].n, made[i].parent};
    for (int f = 0; f < N_FAMILY; f++) {
        float *logits;
        int64_t row = 0;
        int rc;

        make_model("m", families[f], &(struct flaws){0});
        logits = pass_all("m", &device_cpu, sequence, COUNT, INT64_MAX, &rc);
        assert_int_equal(rc, EX_OK);
        for (int i = 0; i < COUNT; row += made[i++].n) {
            int64_t before = made[i].parent < 0 ? 0 : made[made[i].parent].n;
            float *expected;

            if (before)
                memcpy(text, sequence[made[i].parent].token, (size_t)before * sizeof *text);
            memcpy(text + before, sequence[i].token, (size_t)made[i].n * sizeof *text);
            expected = whole("m", &device_cpu, text, before + made[i].n);
            CHECK_AT_MOST(check_relative(logits + row * VOCAB, expected + before * VOCAB, made[i].n * VOCAB),
                          close_enough, "a part of a batch");
            free(expected);
        }
        free(logits);
    }
    free(token);
}

/* More rows than go through a block together: in one sequence with a continuation, and in many. */
static void test_long(void)
{
    enum { LONG = 5000, MORE = 1500, SHORT = 40, SHORTS = 130 };
    int32_t *token = made_tokens(LONG + MORE, 5, VOCAB);
    struct sequence sequence[SHORTS] = {{token, LONG, -1}, {token + LONG, MORE, 0}};
    float *parted, *one, *many;
    int rc;

    make_model("m", families[4], &(struct flaws){0});
    one = whole("m", &device_cpu, token, LONG + MORE);
    parted = pass_all("m", &device_cpu, sequence, 2, INT64_MAX, &rc);
    assert_int_equal(rc, EX_OK);
    CHECK_AT_MOST(check_relative(parted, one, (int64_t)(LONG + MORE) * VOCAB), close_enough, "in two parts");
    for (int i = 0; i < SHORTS; i++)
        sequence[i] = (struct sequence){token + i, SHORT, -1};
    many = pass_all("m", &device_cpu, sequence, SHORTS, INT64_MAX, &rc);
    for (int i = 0; i < SHORTS; i++) {
        float *alone = whole("m", &device_cpu, token + i, SHORT);

        CHECK_AT_MOST(check_relative(many + i * SHORT * VOCAB, alone, SHORT * VOCAB), close_enough, "one of many");
        free(alone);
    }
    free(one);
    free(parted);
    free(many);
    free(token);
}

static void test_reproducible(void)
{
    enum { LENGTH = 700, COUNT = 8 };
    int32_t *token = made_tokens(LENGTH * COUNT, 6, VOCAB);
    struct sequence sequence[COUNT];
    size_t bytes = (size_t)LENGTH * COUNT * VOCAB * sizeof(float);
    float *expected = NULL;

    for (int i = 0; i < COUNT; i++)
        sequence[i] = (struct sequence){token + i * LENGTH, LENGTH, -1};
    make_model("m", families[5], &(struct flaws){0});
    for (int run = 0; run < 6; run++) {
        float *logits;
        int rc;

        parallel_set(1 + run % 3);
        logits = pass_all("m", &device_cpu, sequence, COUNT, run < 3 ? INT64_MAX : 0, &rc);
        assert_int_equal(rc, EX_OK);
        if (expected)
            assert_memory_equal(logits, expected, bytes);
        else
            expected = xmalloc(bytes);
        memcpy(expected, logits, bytes);
        free(logits);
    }
    parallel_set(0);
    free(expected);
    free(token);
}

static void test_hidden(void)
{
    struct hidden hidden;
    float x[6] = {1, 2, 3, 4, 5, 6}, y[4];

    assert_int_equal(hidden_open(&hidden, 3, 2, 1), EX_OK);
    assert_null(hidden.data);
    assert_int_equal(hidden_write(&hidden, 0, 3, x), EX_OK);
    assert_int_equal(hidden_read(&hidden, 1, 2, y), EX_OK);
    assert_memory_equal(y, x + 2, sizeof y);
    hidden_close(&hidden);
    assert_int_equal(hidden_open(&hidden, 0, 2, 1), EX_OK);
    hidden_close(&hidden);
    error_capture(message, sizeof message);
    assert_int_equal(hidden_open(&hidden, INT64_MAX / 4, 2, 1), EX_DATAERR);
    setenv("TMPDIR", "/nowhere", 1);
    assert_int_equal(hidden_open(&hidden, 3, 2, 1), EX_CANTCREAT);
    unsetenv("TMPDIR");
    error_capture(NULL, 0);
    assert_non_null(strstr(message, "/nowhere"));
}

static void refused(const char *config, const struct flaws *flaws, const struct sequence *sequence, const char *says)
{
    float *logits;
    int rc;

    make_model("bad", config, flaws);
    error_capture(message, sizeof message);
    logits = pass_all("bad", &device_cpu, sequence, 1, INT64_MAX, &rc);
    error_capture(NULL, 0);
    if (rc != EX_DATAERR || logits || !strstr(message, says))
        fail_msg("exit code %d, message '%s', expected '%s'", rc, message, says);
}

static void test_refusals(void)
{
    static const int32_t good[] = {1, 2, 3}, high[] = {1, 96}, low[] = {-1};
    struct sequence fine = {good, 3, -1};
    int32_t *many = made_tokens(8193, 8, VOCAB);

    refused(llama, &(struct flaws){.missing = "model.embed_tokens.weight"}, &fine, "model.embed_tokens.weight");
    refused(llama, &(struct flaws){.missing = "model.layers.1.mlp.up_proj.weight"}, &fine,
            "layer 1 is incomplete: missing 'model.layers.1.mlp.up_proj.weight'");
    refused(families[1], &(struct flaws){.missing = "model.layers.2.self_attn.q_proj.bias"}, &fine, "q_proj.bias");
    refused(families[5], &(struct flaws){.missing = "model.layers.0.self_attn.k_norm.weight"}, &fine, "k_norm");
    refused(llama, &(struct flaws){.missing = "model.norm.weight"}, &fine, "missing 'model.norm.weight'");
    refused(llama, &(struct flaws){.missing = "lm_head.weight"}, &fine, "missing 'lm_head.weight'");
    refused(llama, &(struct flaws){.only = "model.layers.1."}, &fine, "a whole model is needed");
    refused(llama, &(struct flaws){.only = "model.embed"}, &fine, "layer 0 is missing");
    refused(llama, &(struct flaws){.reshaped = "model.layers.2.mlp.down_proj.weight"}, &fine,
            "shape [33,48], expected [32,48]");
    refused(llama, &(struct flaws){.reshaped = "model.norm.weight"}, &fine, "shape [33], expected [32]");
    refused(llama, &(struct flaws){.integers = "model.norm.weight"}, &fine, "dtype i32");
    refused(llama, &(struct flaws){.integers = "model.layers.0.mlp.gate_proj.weight"}, &fine, "dtype i32");
    refused(llama, &(struct flaws){0}, &(struct sequence){high, 2, -1}, "token 1 of sequence 0 is 96");
    refused(llama, &(struct flaws){0}, &(struct sequence){low, 1, -1}, "is -1");
    refused(llama, &(struct flaws){0}, &(struct sequence){many, 8193, -1}, "'max_position_embeddings' is 8192");
    free(many);
}

/* A head stored beside a tied embedding changes nothing, and counts as stored, not as parameters. */
static void test_stored_head(void)
{
    int32_t *token = made_tokens(10, 9, VOCAB);
    struct network plain, stored;
    struct cache cache[2] = {0};
    struct loader loader;
    float *a, *b;

    make_model("m", families[1], &(struct flaws){0});
    load_network("m", &device_cpu, &plain);
    make_model("m", families[1], &(struct flaws){.stored_head = true});
    assert_int_equal(loader_open(&loader, "m", &device_cpu, ACTIVATIONS_F32), EX_OK);
    assert_int_equal(network_load(&stored, &loader), EX_OK);
    assert_int_equal(loader.sizes.stored_parameters - loader.sizes.parameters, 96 * 32);
    assert_int_equal(loader.sizes.weight_bytes, 4 * loader.sizes.stored_parameters);
    assert_int_equal(loader.sizes.file_bytes, loader.sizes.weight_bytes);
    loader_close(&loader);
    assert_int_equal(stored.bytes, plain.bytes);
    a = advance_one(&plain, &cache[0], token, 10);
    b = advance_one(&stored, &cache[1], token, 10);
    assert_memory_equal(a, b, VOCAB * sizeof *a);
    cache_free(&cache[0], &plain);
    cache_free(&cache[1], &stored);
    network_free(&plain);
    network_free(&stored);
    free(a);
    free(b);
    free(token);
}

CHECK_MAIN({"devices agree, all families", test_devices},
           {"resident with a cache, in pieces, cut back, token by token: as layer by layer", test_network},
           {"sequences side by side", test_side_by_side},
           {"continuations of one prefix are as the whole", test_children},
           {"more rows than a block takes at once", test_long},
           {"the same bytes for 1, 2, 3 threads, and from a file", test_reproducible},
           {"hidden states in a file", test_hidden},
           {"broken models and bad tokens are refused by name", test_refusals},
           {"a stored head of a tied model is left alone", test_stored_head})
