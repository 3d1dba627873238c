/* test_gguf.c - the GGUF container on files made here: formats, translation, tokenizer. */
#include "gguf_made.h"

/* ---- reading what was made ---- */

static const struct item *find(const struct model *model, const char *name)
{
    for (size_t i = 0; i < model->n_item; i++)
        if (!strcmp(model->item[i].record.name, name))
            return &model->item[i];
    fail_msg("there is no '%s'", name);
    return NULL;
}

static void *payload(const struct model *model, const char *name)
{
    const struct item *item = find(model, name);
    void *data = xaligned((size_t)item->record.bytes, 1);

    assert_int_equal(model->container->read(model, item, 0, (size_t)item->record.bytes, data), EX_OK);
    return data;
}

static struct json *parsed(const struct model *model, const char *name)
{
    char *text = payload(model, name);
    struct json *value = json_parse(text, (size_t)find(model, name)->record.bytes, name);

    assert_non_null(value);
    free(text);
    return value;
}

/* ---- formats ---- */

static void check_values(uint32_t type, const unsigned char *block, const int *at, const float *expected, int count)
{
    float out[GGUF_BLOCK_ELEMENTS];

    gguf_format(type)->decode(block, 1, out);
    for (int i = 0; i < count; i++)
        if (out[at[i]] != expected[i])
            fail_msg("%s: element %d is %g, expected %g", gguf_format(type)->name, at[i], (double)out[at[i]],
                     (double)expected[i]);
}

#define CHECK_VALUES(type, block, ...)                                                                        \
    do {                                                                                                      \
        static const struct { int at; float value; } list[] = {__VA_ARGS__};                                  \
        int at[sizeof list / sizeof *list];                                                                   \
        float value[sizeof list / sizeof *list];                                                              \
                                                                                                              \
        for (size_t n = 0; n < sizeof list / sizeof *list; n++) {                                             \
            at[n] = list[n].at;                                                                               \
            value[n] = list[n].value;                                                                         \
        }                                                                                                     \
        check_values(type, block, at, value, (int)(sizeof list / sizeof *list));                              \
    } while (0)

/* f16: 0.5 is 0x3800, 1 is 0x3c00, 2 is 0x4000, -1 is 0xbc00. */
static void test_small_blocks(void)
{
    static const unsigned char q4_0[18] = {0x00, 0x38, [2] = 0x1f, [17] = 0x80};
    static const unsigned char q4_1[20] = {0x00, 0x38, 0x00, 0xbc, [4] = 0x1f, [19] = 0x80};
    static const unsigned char q5_0[22] = {0x00, 0x40, 0x01, 0x00, 0x01, 0x80, [6] = 0x2f, [21] = 0xf0};
    static const unsigned char q5_1[24] = {0x00, 0x40, 0x00, 0x3c, 0x01, 0x00, 0x01, 0x80, [8] = 0x2f, [23] = 0xf0};
    static const unsigned char q8_0[34] = {0x00, 0x38, [2] = 127, [3] = 0x80, [33] = 0xff};

    CHECK_VALUES(Q4_0, q4_0, {0, 3.5f}, {16, -3.5f}, {1, -4}, {15, -4}, {31, 0});
    CHECK_VALUES(Q4_1, q4_1, {0, 6.5f}, {16, -0.5f}, {1, -1}, {31, 3});
    /* High bits of elements 0, 16 and 31: 31, 18, 31 less 16, times 2. */
    CHECK_VALUES(Q5_0, q5_0, {0, 30}, {16, 4}, {31, 30}, {15, -32}, {1, -32});
    CHECK_VALUES(Q5_1, q5_1, {0, 63}, {16, 37}, {31, 63}, {15, 1});
    CHECK_VALUES(Q8_0, q8_0, {0, 63.5f}, {1, -64}, {31, -0.5f}, {2, 0});
}

static void test_large_blocks(void)
{
    /* Sub-block 0: scale 2, minimum 1; sub-block 15: scale 15, minimum 15; d 0.5, dmin 1. */
    static const unsigned char q2_k[84] = {0x12, [15] = 0xff, [16] = 0x03, [79] = 0xc0, [80] = 0x00, 0x38, 0x00, 0x3c};
    /* Scales 0: low nibble 1, high pair 2, so 33 - 32; 15: low nibble 15, high pair 3, so 63 - 32. Third bits of
     * elements 0 and 255 are set; that of 1 is clear, which takes 4 off. */
    static const unsigned char q3_k[110] = {[0] = 0x01, [31] = 0x80, [32] = 0x03, [95] = 0x40, [96] = 0x01,
                                            [103] = 0xf0, [104] = 0x02, [107] = 0xc0, [108] = 0x00, 0x40};
    /* d 1, dmin 0.5. Sub-block 0: scale 63, minimum 2. Sub-block 4: of the packed bytes the low nibble of the 8th,
     * 10, and the top pair of the 0th, 3, make scale 58; the high nibble of the 8th, 1, and the top pair of the 4th,
     * 2, minimum 33. */
    static const unsigned char q4_k[144] = {0x00, 0x3c, 0x00, 0x38, [4] = 0xff, [8] = 0x82, [12] = 0x1a, [16] = 0x25,
                                            [80] = 0x07};
    static const unsigned char q5_k[176] = {0x00, 0x3c, 0x00, 0x38, [4] = 0xff, [8] = 0x82, [12] = 0x1a, [16] = 0x11,
                                            [48] = 0x25, [112] = 0x07};
    /* d 0.5; scale of sub-block 0 is -2, of 15 is 3. Element 0: nibble 15, pair 3: 63 - 32; element 255: nibble 8,
     * pair 1. */
    static const unsigned char q6_k[210] = {[0] = 0x0f, [127] = 0x80, [128] = 0x03, [191] = 0x40, [192] = 0xfe,
                                            [207] = 3, [208] = 0x00, 0x38};

    CHECK_VALUES(Q2_K, q2_k, {0, 2}, {1, -1}, {255, 7.5f}, {240, -15}, {16, 0});
    CHECK_VALUES(Q3_K, q3_k, {0, 6}, {1, -8}, {255, 62}, {254, -248});
    CHECK_VALUES(Q4_K, q4_k, {0, 314}, {1, -1}, {32, 0}, {128, 389.5f}, {129, -16.5f});
    CHECK_VALUES(Q5_K, q5_k, {0, 1322}, {1, -1}, {32, 0}, {128, 1317.5f}, {129, -16.5f});
    CHECK_VALUES(Q6_K, q6_k, {0, -31}, {1, 32}, {255, -12}, {254, -48});
}

/* ---- translation ---- */

static void test_model(void)
{
    struct made made = {0};
    struct model model;
    const struct item *item;
    float *k, *q;
    char *text;

    fill(&made, "llama");
    assert_int_equal(open_made(&made, &model), EX_OK);
    assert_string_equal(model.container->format, "gguf");
    assert_int_equal(json_as_int(json_at(model.config, "hidden_size"), -1), 32);
    assert_int_equal(json_as_int(json_at(model.config, "head_dim"), -1), 16);
    assert_int_equal(json_as_int(json_at(model.config, "vocab_size"), -1), VOCAB);
    assert_true(json_as_bool(json_at(model.config, "tie_word_embeddings"), false));
    assert_true(json_as_real(json_at(model.config, "rms_norm_eps"), 0) == 1e-5);
    assert_string_equal(json_as_string(json_at(model.config, "model_type"), ""), "llama");
    item = find(&model, "model.layers.0.self_attn.q_proj.weight");
    assert_string_equal(item->stored, "Q8_0");
    assert_int_equal(item->stored_bytes, 32 * 34);
    assert_int_equal(item->record.bytes, 32 * 32 * 4);
    assert_int_equal(find(&model, "model.embed_tokens.weight")->record.dtype.kind, DTYPE_F16);
    assert_int_equal(model.file_bytes > 4096, 1);
    /* Rows carry their number in the file: halves of heads of 16 come from even and odd rows. */
    q = payload(&model, "model.layers.0.self_attn.q_proj.weight");
    k = payload(&model, "model.layers.0.self_attn.k_proj.weight");
    for (int row = 0; row < 32; row++) {
        int within = row % 16, from = row - within + (within < 8 ? 2 * within : 2 * within - 15);

        assert_true(q[32 * row] == (float)from && q[32 * row + 31] == (float)from);
        assert_true(row >= 16 || k[32 * row] == (float)from);
    }
    free(k);
    free(q);
    k = payload(&model, "model.layers.0.mlp.down_proj.weight");
    assert_true(k[0] == 0 && k[32] == 1 && k[32 * 31] == 31);
    free(k);
    text = payload(&model, "config.json");
    assert_non_null(strstr(text, "\"LlamaForCausalLM\""));
    free(text);
    model_close(&model);
}

/* Qwen keeps the rows, and has biases. */
static void test_qwen(void)
{
    struct made made = {0};
    struct model model;
    float *k;

    fill(&made, "qwen2");
    tensor(&made, "blk.0.attn_q.bias", F32, 32, 0);
    tensor(&made, "blk.0.attn_k.bias", F32, 16, 0);
    tensor(&made, "blk.0.attn_v.bias", F32, 16, 0);
    assert_int_equal(open_made(&made, &model), EX_OK);
    assert_true(json_as_bool(json_at(model.config, "attention_bias"), false));
    k = payload(&model, "model.layers.0.self_attn.k_proj.weight");
    assert_true(k[32] == 1 && k[32 * 8] == 8);
    free(k);
    model_close(&model);
}

/* Any range of any payload is the same bytes as in the whole. */
static void test_ranges(void)
{
    static const size_t pieces[] = {1, 3, 7, 33, 129, 1000};
    struct made made = {0};
    struct model model;

    fill(&made, "llama");
    assert_int_equal(open_made(&made, &model), EX_OK);
    for (size_t n = 0; n < model.n_item; n++) {
        const struct item *item = &model.item[n];
        int64_t bytes = item->record.bytes;
        unsigned char *whole = payload(&model, item->record.name), *part = xmalloc((size_t)bytes + 1);

        for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
            for (int64_t from = 0; from < bytes; from += (int64_t)pieces[p]) {
                size_t take = bytes - from < (int64_t)pieces[p] ? (size_t)(bytes - from) : pieces[p];

                assert_int_equal(model.container->read(&model, item, from, take, part + 1 + from), EX_OK);
            }
            assert_memory_equal(whole, part + 1, (size_t)bytes);
        }
        free(whole);
        free(part);
    }
    model_close(&model);
}

/* ---- tokenizer ---- */

static const char *pair_item(const struct json *merge, size_t pair, size_t side)
{
    return json_as_string(json_item(json_item(merge, pair), side), "");
}

static void test_byte_level(void)
{
    struct made made = {0};
    struct model model;
    struct json *value, *bpe;

    fill(&made, "llama");
    assert_int_equal(open_made(&made, &model), EX_OK);
    value = parsed(&model, "tokenizer.json");
    bpe = json_at(value, "model");
    for (int i = 0; i < VOCAB; i++)
        assert_int_equal(json_as_int(json_at(json_at(bpe, "vocab"), tokens[i]), -1), i);
    assert_int_equal(json_count(json_at(bpe, "merges")), 2);
    assert_string_equal(pair_item(json_at(bpe, "merges"), 1, 0), "\xc4\xa0");
    assert_string_equal(pair_item(json_at(bpe, "merges"), 1, 1), "ab");
    assert_int_equal(json_count(json_at(value, "added_tokens")), 2);
    assert_true(json_as_bool(json_at(json_item(json_at(value, "added_tokens"), 0), "special"), false));
    assert_false(json_as_bool(json_at(json_item(json_at(value, "added_tokens"), 1), "special"), true));
    assert_string_equal(json_as_string(json_at(json_item(json_at(json_at(value, "pre_tokenizer"), "pretokenizers"), 0),
                                               "type"), ""), "Digits");
    json_drop(value);
    value = parsed(&model, "tokenizer_config.json");
    assert_string_equal(json_as_string(json_at(value, "eos_token"), ""), "<|end|>");
    json_drop(value);
    model_close(&model);
}

/* Merges are derived from scores: best first; of equal ones the longer left part first. */
static void test_pieces(void)
{
    static const char *const pieces[VOCAB] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "\xe2\x96\x81""a", "aa",
                                              "\xe2\x96\x81""aa"};
    static const float scores[VOCAB] = {0, 0, 0, -1, -2, -5, -4, -6};
    static const int32_t types[VOCAB] = {2, 3, 3, 1, 1, 1, 1, 1};
    struct made made = {0};
    struct model model;
    struct json *value, *merge;

    fill_sizes(&made, "llama");
    fill_tensors(&made);
    key_string(&made, "tokenizer.ggml.model", "llama");
    key_strings(&made, "tokenizer.ggml.tokens", pieces, VOCAB);
    key_array(&made, "tokenizer.ggml.scores", GGUF_F32, scores, VOCAB);
    key_array(&made, "tokenizer.ggml.token_type", GGUF_I32, types, VOCAB);
    assert_int_equal(open_made(&made, &model), EX_OK);
    value = parsed(&model, "tokenizer.json");
    merge = json_at(json_at(value, "model"), "merges");
    assert_int_equal(json_count(merge), 4);
    assert_string_equal(pair_item(merge, 0, 1), "a");                        /* a a */
    assert_string_equal(pair_item(merge, 1, 0), "\xe2\x96\x81");             /* _ a */
    assert_string_equal(pair_item(merge, 2, 0), "\xe2\x96\x81""a");          /* _a a, before */
    assert_string_equal(pair_item(merge, 3, 1), "aa");                       /* _ aa */
    assert_int_equal(json_count(json_at(json_at(value, "post_processor"), "single")), 2);
    json_drop(value);
    model_close(&model);
}

/* Without a tokenizer there are weights all the same. */
static void test_no_tokenizer(void)
{
    struct made made = {0};
    struct model model;

    fill_sizes(&made, "granite");
    fill_tensors(&made);
    key_f32(&made, "granite.embedding_scale", 12);
    key_f32(&made, "granite.residual_scale", 0.22f);
    assert_int_equal(open_made(&made, &model), EX_OK);
    assert_int_equal(model.n_item, 13);
    assert_true(json_as_real(json_at(model.config, "embedding_multiplier"), 0) == 12);
    assert_true(json_as_real(json_at(model.config, "residual_multiplier"), 0) == 0.22);
    assert_true(json_as_real(json_at(model.config, "attention_multiplier"), 0) == 0.25);
    model_close(&model);
}

CHECK_MAIN({"blocks of 32 elements", test_small_blocks}, {"blocks of 256 elements", test_large_blocks},
           {"a llama is translated, q and k put back into halves", test_model}, {"qwen2 keeps its rows", test_qwen},
           {"any range of a payload can be read", test_ranges}, {"byte-level tokenizer", test_byte_level},
           {"SentencePiece merges follow from scores", test_pieces},
           {"granite's multipliers, no tokenizer", test_no_tokenizer})
