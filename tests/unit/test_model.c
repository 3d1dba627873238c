/* test_model.c - stories260K against transformers in double precision: losses, logits, and the text it goes on with. */
#include "base/file.h"
#include "model_made.h"

/* Made with transformers 5.24.0 in float64 from "Once upon a time, there was a little girl named Lily.": ids, what each
 * costs, the first logits behind the last, and the most likely ids from there on. */
static const int32_t prompt[] = {1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426};
static const double nll[] = {0.2437434798, 0.0175127018, 0.0121103911, 0.0007238578, 0.031702852, 0.0684234983,
                             0.0159548843, 0.0007841519, 0.4939786029, 0.4458665197, 0.0048910125, 0.0006584957,
                             0.0187888985, 0.0765997234, 0.070320996};
static const double last_logits[] = {-3.8516595851, 4.9811867978, -3.8525957201, -3.8519616454, -3.8516024815,
                                     -3.8528272368, -3.8525294957, -3.8530073042, -3.852407519, -3.8527632683,
                                     -3.8520631166, -3.8523447447, -3.8378800562, 9.085032159, -3.8518835748,
                                     -3.8526938154};
static const int32_t greedy[] = {338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295, 433, 426,
                                 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426, 338, 391, 266,
                                 267, 337, 335, 312, 432, 398, 312, 286, 267, 414, 270, 333, 415, 426, 13,  438,
                                 310, 439, 419, 357, 336, 432, 313, 438, 310, 432, 278, 316, 439, 419, 298, 414};

enum { VOCAB = 512, N_PROMPT = sizeof prompt / sizeof *prompt, N_GREEDY = sizeof greedy / sizeof *greedy };

static const struct device *const devices[] = {&device_reference, &device_cpu};

static char *stories(void)
{
    return file_join(getenv("TOP"), "pipelines/models/stories260K");
}

static double loss(const float *logits, int32_t token)
{
    double sum = 0;

    for (int i = 0; i < VOCAB; i++)
        sum += exp(logits[i]);
    return log(sum) - logits[token];
}

static int largest(const float *logits)
{
    int best = 0;

    for (int i = 1; i < VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* Single precision through five layers against double: some 1e-5 of the largest logit, 9. */
static void check_logits(const float *logits)
{
    double worst = 0;

    for (size_t i = 0; i < sizeof last_logits / sizeof *last_logits; i++)
        worst = fmax(worst, fabs(logits[i] - last_logits[i]));
    CHECK_AT_MOST(worst, 1e-4, "difference of a logit");
}

static void test_pass(void)
{
    int32_t token[N_PROMPT + N_GREEDY];
    struct sequence sequence = {token, N_PROMPT + N_GREEDY - 1, -1};
    char *path = stories();

    memcpy(token, prompt, sizeof prompt);
    memcpy(token + N_PROMPT, greedy, sizeof greedy);
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        int rc;
        float *logits = pass_all(path, devices[d], &sequence, 1, INT64_MAX, &rc);
        double worst = 0;

        assert_int_equal(rc, EX_OK);
        for (int i = 0; i < N_PROMPT - 1; i++)
            worst = fmax(worst, fabs(loss(logits + i * VOCAB, prompt[i + 1]) - nll[i]));
        CHECK_AT_MOST(worst, 2e-5, "difference of a loss");
        check_logits(logits + (N_PROMPT - 1) * VOCAB);
        for (int i = 0; i < N_GREEDY; i++)
            assert_int_equal(largest(logits + (N_PROMPT - 1 + i) * VOCAB), greedy[i]);
        free(logits);
    }
    free(path);
}

/* The prompt in pieces of so many tokens, then what is most likely. */
static void generate(struct network *network, int64_t piece)
{
    struct cache cache = {0};
    float *logits = NULL;

    for (int64_t at = 0; at < N_PROMPT; at += piece) {
        int64_t n = N_PROMPT - at < piece ? N_PROMPT - at : piece;

        free(logits);
        logits = advance_one(network, &cache, prompt + at, n);
    }
    check_logits(logits);
    for (int i = 0; i < N_GREEDY; i++) {
        int32_t token = largest(logits);

        assert_int_equal(token, greedy[i]);
        free(logits);
        logits = advance_one(network, &cache, &token, 1);
    }
    free(logits);
    assert_int_equal(cache.n, N_PROMPT + N_GREEDY);
    cache_free(&cache, network);
}

static void test_network(void)
{
    char *path = stories();

    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        struct network network;

        load_network(path, devices[d], &network);
        generate(&network, 1);
        generate(&network, 5);
        generate(&network, N_PROMPT);
        network_free(&network);
    }
    free(path);
}

static void test_companions(void)
{
    struct tokenizer *tokenizer;
    struct ids ids = {0};
    struct loader loader;
    char *path = stories();
    static const char text[] = "Once upon a time, there was a little girl named Lily.";

    assert_int_equal(loader_open(&loader, path, &device_cpu, ACTIVATIONS_F32), EX_OK);
    assert_string_equal(loader_name(&loader), "stories260K");
    assert_non_null(loader_companion(&loader, "config.json"));
    assert_null(loader_companion(&loader, "vocab.json"));
    assert_int_equal(loader_tokenizer(&loader, &tokenizer), EX_OK);
    tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZE_TEMPLATE, &ids);
    assert_int_equal(ids.count, N_PROMPT);
    assert_memory_equal(ids.id, prompt, sizeof prompt);
    ids_free(&ids);
    tokenizer_close(tokenizer);
    loader_close(&loader);
    free(path);
}

/* As tensor-info counts them: 64 wide, 5 layers, tied. */
static void test_sizes(void)
{
    struct applied *embedding;
    struct loader loader;
    struct block block;
    struct head head;
    char *path = stories();

    assert_int_equal(loader_open(&loader, path, &device_cpu, ACTIVATIONS_F32), EX_OK);
    assert_int_equal(loader_embedding(&loader, &embedding), EX_OK);
    for (int64_t layer = 0; layer < loader.config.n_layer; layer++) {
        assert_int_equal(loader_block(&loader, layer, &block), EX_OK);
        assert_true(block_bytes(&block) >= 4 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64));
        block_free(&block, &device_cpu);
    }
    assert_int_equal(loader_head(&loader, embedding, &head), EX_OK);
    assert_ptr_equal(head.w, embedding);
    assert_int_equal(loader.sizes.parameters, 260032);
    assert_int_equal(loader.sizes.linear_parameters, 5 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64));
    assert_int_equal(loader.sizes.stored_parameters, 260032);
    assert_int_equal(loader.sizes.linear_bytes, 4 * loader.sizes.linear_parameters);
    assert_int_equal(loader.sizes.weight_bytes, 4 * 260032);
    assert_int_equal(loader.sizes.file_bytes, 1044992);
    head_free(&head, &device_cpu);
    apply_free(embedding);
    loader_close(&loader);
    free(path);
}

CHECK_MAIN({"layer by layer: losses, logits and 64 tokens as transformers gives them", test_pass},
           {"resident: one token at a time, five, all: the same 64 tokens", test_network},
           {"the model's tokenizer comes with it", test_companions},
           {"parameters and bytes are counted", test_sizes})
