/* test_gguf_bad.c - GGUF files that must be refused: cut short anywhere, damaged anywhere, hostile, or not
 * supported. */
#include "gguf_made.h"

#include <unistd.h>

/* Opens and, where that succeeds, reads everything; closes. The exit code. */
static int open_and_read(void)
{
    struct model model;
    int rc;

    error_capture(message, sizeof message);
    if (!(rc = model_open(&model, "x.gguf"))) {
        for (size_t i = 0; i < model.n_item && !rc; i++) {
            const struct item *item = &model.item[i];
            void *data = xmalloc((size_t)item->record.bytes);

            rc = model.container->read(&model, item, 0, (size_t)item->record.bytes, data);
            free(data);
        }
        model_close(&model);
    }
    error_capture(NULL, 0);
    return rc;
}

/* Every shorter file is refused, with one message that names the file. */
static void test_truncation(void)
{
    struct made made = {0};
    struct text file;

    fill(&made, "llama");
    file = finish(&made);
    save(file.data, file.length);
    assert_int_equal(open_and_read(), EX_OK);
    /* The last tensor's data is a multiple of 32: nothing behind it may be cut off. */
    for (size_t size = file.length; size-- > 0;) {
        assert_int_equal(truncate("x.gguf", (off_t)size), 0);
        assert_int_equal(open_and_read(), EX_DATAERR);
        assert_non_null(strstr(message, "cannot read 'x.gguf': "));
    }
    text_free(&file);
}

/* No damage to a byte of the header does more than a clean refusal or another model. */
static void test_damage(void)
{
    static const unsigned char values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    struct made made = {0};
    struct text file;
    size_t header;

    fill(&made, "llama");
    header = 24 + made.keys.length + made.infos.length;
    file = finish(&made);
    for (size_t at = 0; at < header; at++)
        for (size_t v = 0; v < sizeof values; v++) {
            char before = file.data[at];
            int rc;

            file.data[at] = (char)values[v];
            save(file.data, file.length);
            rc = open_and_read();
            if (rc != EX_OK && rc != EX_DATAERR)
                fail_msg("byte %zu as 0x%02x gives exit code %d", at, values[v], rc);
            file.data[at] = before;
        }
    text_free(&file);
}

/* What each file has instead of, or besides, the good parts; and what the message must say. */
struct bad {
    const char *expected;
    const char *skip;
    void (*add)(struct made *made);
};

static void add_nothing(struct made *made)
{
    (void)made;
}

static void add_version_1(struct made *made)
{
    made->version = 1;
}

static void add_big_endian(struct made *made)
{
    made->version = 0x03000000;
}

static void add_architecture(struct made *made)
{
    key_string(made, "general.architecture", "gpt\033neox");
}

static void add_same_key(struct made *made)
{
    key_u32(made, "llama.block_count", 1);
}

static void add_text_size(struct made *made)
{
    key_string(made, "llama.block_count", "one");
}

static void add_large_size(struct made *made)
{
    key_number(made, "llama.block_count", GGUF_U64, UINT64_MAX, 8);
}

static void add_split(struct made *made)
{
    key_number(made, "split.count", GGUF_U16, 3, 2);
}

static void add_alignment(struct made *made)
{
    key_u32(made, "general.alignment", 24);
}

static void add_long_string(struct made *made)
{
    if (begin_key(made, "long", GGUF_STRING))
        put(&made->keys, UINT64_MAX, 8);
}

static void add_many_items(struct made *made)
{
    if (begin_key(made, "many", GGUF_ARRAY)) {
        put(&made->keys, GGUF_F64, 4);
        put(&made->keys, UINT64_MAX / 8, 8);
    }
}

static void add_nested(struct made *made)
{
    if (begin_key(made, "nested", GGUF_ARRAY)) {
        put(&made->keys, GGUF_ARRAY, 4);
        put(&made->keys, 1, 8);
    }
}

static void add_many_keys(struct made *made)
{
    made->n_keys = (uint64_t)1 << 60;
}

static void add_many_tensors(struct made *made)
{
    made->n_tensors = (uint64_t)1 << 60;
}

static void add_experts(struct made *made)
{
    key_u32(made, "llama.expert_count", 8);
}

static void add_partial_rotation(struct made *made)
{
    key_u32(made, "llama.rope.dimension_count", 8);
    key_u32(made, "llama.attention.key_length", 16);
}

static void add_scaling(struct made *made)
{
    key_string(made, "llama.rope.scaling.type", "longrope");
}

static void add_factors(struct made *made)
{
    tensor(made, "rope_freqs.weight", F32, 8, 0);
}

static void add_unknown(struct made *made)
{
    tensor(made, "blk.0.ffn_gate_exps.weight", F32, 32, 32);
}

static void add_block(struct made *made)
{
    tensor(made, "blk.1.ffn_norm.weight", F32, 32, 0);
}

static void add_same_tensor(struct made *made)
{
    tensor(made, "blk.0.ffn_norm.weight", F32, 32, 0);
}

static void add_bias(struct made *made)
{
    tensor(made, "blk.0.attn_q.bias", F32, 32, 0);
}

static void add_quantized_vector(struct made *made)
{
    tensor(made, "output_norm.weight", Q8_0, 1, 32);
}

static void add_shape(struct made *made)
{
    tensor(made, "blk.0.ffn_up.weight", F32, 31, 32);
}

static void add_iq4(struct made *made)
{
    entry(made, "output.weight", IQ4_NL, 2, (const uint64_t[]){32, VOCAB}, -1);
}

static void add_type(struct made *made)
{
    entry(made, "output.weight", 1000, 2, (const uint64_t[]){32, VOCAB}, -1);
}

static void add_ragged(struct made *made)
{
    entry(made, "output.weight", Q4_0, 2, (const uint64_t[]){31, VOCAB}, -1);
}

static void add_dimensions(struct made *made)
{
    entry(made, "output.weight", F32, 5, (const uint64_t[]){1, 1, 1, 1, 1}, -1);
}

static void add_product(struct made *made)
{
    entry(made, "output.weight", F32, 2, (const uint64_t[]){(uint64_t)1 << 40, (uint64_t)1 << 40}, -1);
}

static void add_empty(struct made *made)
{
    entry(made, "output.weight", F32, 2, (const uint64_t[]){32, 0}, -1);
}

static void add_overlap(struct made *made)
{
    entry(made, "output.weight", F16, 2, (const uint64_t[]){32, VOCAB}, 32);
}

static void add_misplaced(struct made *made)
{
    entry(made, "output.weight", F16, 2, (const uint64_t[]){32, VOCAB}, 33);
}

static void add_outside(struct made *made)
{
    entry(made, "output.weight", F16, 2, (const uint64_t[]){32, VOCAB}, -1);
}

static void add_far(struct made *made)
{
    entry(made, "output.weight", F16, 2, (const uint64_t[]){32, VOCAB}, INT64_MAX & ~(int64_t)31);
}

static void add_pre(struct made *made)
{
    key_string(made, "tokenizer.ggml.pre", "chameleon");
}

static void add_tokenizer(struct made *made)
{
    key_string(made, "tokenizer.ggml.model", "rwkv");
}

static void add_tokens(struct made *made)
{
    static const char *const same[VOCAB] = {"<|end|>", "a", "b", "c", "ab", "d", "<think>", "a"};

    key_strings(made, "tokenizer.ggml.tokens", same, VOCAB);
}

static void add_latin1(struct made *made)
{
    static const char *const latin1[VOCAB] = {"<|end|>", "a", "b", "\xe9", "ab", "d", "<think>", "e"};

    key_strings(made, "tokenizer.ggml.tokens", latin1, VOCAB);
}

static void add_few_types(struct made *made)
{
    key_array(made, "tokenizer.ggml.token_type", GGUF_I32, kinds, VOCAB - 1);
}

static void add_merge(struct made *made)
{
    static const char *const line[] = {"a c"};

    key_strings(made, "tokenizer.ggml.merges", line, 1);
}

static void add_end(struct made *made)
{
    key_u32(made, "tokenizer.ggml.eos_token_id", VOCAB);
}

static const struct bad bads[] = {
    {"found version 1, expected 2 or 3", NULL, add_version_1},
    {"big-endian", NULL, add_big_endian},
    {"key 'general.architecture' is missing", "general.architecture", add_nothing},
    {"architecture 'gpt?neox' is not supported", "general.architecture", add_architecture},
    {"key 'llama.block_count' is missing", "llama.block_count", add_nothing},
    {"key 'llama.attention.layer_norm_rms_epsilon' is missing", "llama.attention.layer_norm_rms_epsilon", add_nothing},
    {"key 'llama.block_count' stands twice", NULL, add_same_key},
    {"key 'llama.block_count': found type string, expected an integer", "llama.block_count", add_text_size},
    {"key 'llama.block_count': found type u64, expected an integer", "llama.block_count", add_large_size},
    {"one of 3 parts", NULL, add_split},
    {"general.alignment': found 24, expected a power of two", NULL, add_alignment},
    {"key 'long': found", NULL, add_long_string},
    {"key 'many' at byte", NULL, add_many_items},
    {"an array of arrays", NULL, add_nested},
    {"keys, more than fit", NULL, add_many_keys},
    {"tensors, more than fit", NULL, add_many_tensors},
    {"mixtures of experts", NULL, add_experts},
    {"rotation of 8 dimensions", "llama.rope.dimension_count", add_partial_rotation},
    {"rotation scaling 'longrope' is not supported", NULL, add_scaling},
    {"not Llama 3's scaling", NULL, add_factors},
    {"tensor 'blk.0.ffn_gate_exps.weight' is unknown", NULL, add_unknown},
    {"tensor 'blk.1.ffn_norm.weight' is unknown", NULL, add_block},
    {"tensor 'blk.0.ffn_norm.weight' stands twice", NULL, add_same_tensor},
    {"tensor 'blk.0.attn_k.bias' is missing", NULL, add_bias},
    {"tensor 'blk.0.attn_v.weight' is missing", "blk.0.attn_v.weight", add_nothing},
    {"tensor 'token_embd.weight' is missing", "token_embd.weight", add_nothing},
    {"tensor 'output_norm.weight': found 2 dimensions", "output_norm.weight", add_quantized_vector},
    {"tensor 'blk.0.ffn_up.weight': found 2 dimensions, the first of 31, the last of 32, expected [32,32]",
     "blk.0.ffn_up.weight", add_shape},
    {"tensor 'output.weight': its element type IQ4_NL is not supported", NULL, add_iq4},
    {"found element type 1000", NULL, add_type},
    {"found rows of 31 elements, expected a multiple of 32 for Q4_0", NULL, add_ragged},
    {"found 5 dimensions, expected 1 to 4", NULL, add_dimensions},
    {"found a dimension of 1099511627776", NULL, add_product},
    {"found a dimension of 0", NULL, add_empty},
    {"within tensor 'token_embd.weight'", NULL, add_overlap},
    {"found offset 33, expected a multiple of 32", NULL, add_misplaced},
    {"tensor 'output.weight': found", NULL, add_outside},
    {"found offset 9223372036854775776", NULL, add_far},
    {"tokenizer.ggml.pre': 'chameleon' is not supported", "tokenizer.ggml.pre", add_pre},
    {"tokenizer.ggml.model': 'rwkv' is not supported", "tokenizer.ggml.model", add_tokenizer},
    {"found 'a' as token 1 and token 7", "tokenizer.ggml.tokens", add_tokens},
    {"expected token 3 to be UTF-8", "tokenizer.ggml.tokens", add_latin1},
    {"found 7 types, expected 8", "tokenizer.ggml.token_type", add_few_types},
    {"found 'a c' as item 0, expected two tokens of a third", "tokenizer.ggml.merges", add_merge},
    {"tokenizer.ggml.eos_token_id': found 8, expected less than 8", "tokenizer.ggml.eos_token_id", add_end},
};

static void test_refusals(void)
{
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        struct made made = {.skip = bads[i].skip};
        struct model model;
        int rc;

        fill(&made, "llama");
        made.skip = NULL;
        bads[i].add(&made);
        if ((rc = open_made(&made, &model)) != EX_DATAERR || !strstr(message, bads[i].expected))
            fail_msg("exit code %d, message \"%s\", expected \"%s\"", rc, message, bads[i].expected);
    }
}

/* Neither are files of other kinds taken. */
static void test_other_files(void)
{
    save("", 0);
    assert_int_equal(open_and_read(), EX_DATAERR);
    save("GGML", 4);
    assert_int_equal(open_and_read(), EX_DATAERR);
    assert_non_null(strstr(message, "no GGUF file"));
    assert_true(gguf_recognises((const unsigned char *)"GGUF\3", 5));
    assert_false(gguf_recognises((const unsigned char *)"GGUX", 4));
    assert_false(gguf_recognises((const unsigned char *)"GGU", 3));
}

CHECK_MAIN({"a file cut short anywhere is refused", test_truncation}, {"a damaged header is survived", test_damage},
           {"each bad file is refused for its reason", test_refusals}, {"other files are refused", test_other_files})
