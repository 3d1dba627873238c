/* test_config.c - config.json of five families, defaults, both spellings, refusals; the tensors a model must have. */
#include "base/error.h"
#include "base/memory.h"
#include "check.h"
#include "model/config.h"
#include "model/config_inventory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char message[2048];

/* The smallest configuration of a family, with further members behind. */
static int read_text(const char *family, const char *more, struct config *config)
{
    char *text = xasprintf("{\"model_type\":\"%s\",\"vocab_size\":96,\"hidden_size\":32,\"intermediate_size\":48,"
                           "\"num_hidden_layers\":3,\"num_attention_heads\":4%s%s}", family, *more ? "," : "", more);
    struct json *json = json_parse(text, strlen(text), "config");
    int rc;

    assert_non_null(json);
    error_capture(message, sizeof message);
    rc = config_read(json, "m", config);
    error_capture(NULL, 0);
    json_drop(json);
    free(text);
    return rc;
}

static void test_defaults(void)
{
    struct config c;

    assert_int_equal(read_text("llama", "", &c), EX_OK);
    assert_int_equal(c.family, FAMILY_LLAMA);
    assert_int_equal(c.n_kv_head, 4);
    assert_int_equal(c.head_dim, 8);
    assert_int_equal(c.max_position, 2048);
    assert_true(c.norm_epsilon == 1e-6 && c.rope_theta == 10000 && c.rope.kind == ROPE_DEFAULT && c.rope.factor == 1);
    assert_false(c.tied || c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
    assert_true(c.attention_scale == 1 / sqrt(8));
    assert_true(c.embedding_multiplier == 1 && c.residual_multiplier == 1 && c.logits_scaling == 1);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.pad, -1);
    assert_int_equal(c.window, 0);
    assert_int_equal(c.dtype.kind, DTYPE_F32);
}

static void test_families(void)
{
    struct config c;

    assert_int_equal(read_text("mistral", "\"num_key_value_heads\":2", &c), EX_OK);
    assert_int_equal(config_window(&c, 0), 4096);
    assert_int_equal(read_text("mistral", "\"num_key_value_heads\":null,\"sliding_window\":null", &c), EX_OK);
    assert_int_equal(c.n_kv_head, 4);
    assert_int_equal(config_window(&c, 0), 0);
    assert_int_equal(read_text("granite", "\"attention_multiplier\":0.0078125,\"embedding_multiplier\":12,"
                               "\"residual_multiplier\":0.22,\"logits_scaling\":16.0,\"attention_bias\":true", &c),
                     EX_OK);
    assert_true(c.attention_scale == 0.0078125 && c.embedding_multiplier == 12 && c.residual_multiplier == 0.22
                && c.logits_scaling == 16);
    assert_true(c.qkv_bias && c.o_bias && !c.mlp_bias);
    assert_int_equal(read_text("qwen2", "\"num_key_value_heads\":2,\"torch_dtype\":\"bfloat16\"", &c), EX_OK);
    assert_true(c.qkv_bias && !c.o_bias);
    assert_int_equal(c.window, 0);
    assert_int_equal(c.dtype.kind, DTYPE_BF16);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(read_text("qwen3", "\"num_key_value_heads\":2,\"eos_token_id\":[7,9]", &c), EX_OK);
    assert_int_equal(c.head_dim, 128);
    assert_true(c.qk_norm && !c.qkv_bias);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 9);
}

static void test_windows(void)
{
    struct config c;

    assert_int_equal(read_text("qwen2", "\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":16,"
                               "\"max_window_layers\":2", &c), EX_OK);
    assert_int_equal(config_window(&c, 1), 0);
    assert_int_equal(config_window(&c, 2), 16);
    assert_int_equal(read_text("qwen3", "\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":16,"
                               "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\"]", &c),
                     EX_OK);
    assert_int_equal(config_window(&c, 0), 0);
    assert_int_equal(config_window(&c, 1), 16);
    assert_int_equal(read_text("qwen3", "\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":16,"
                               "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]", &c),
                     EX_DATAERR);
    assert_non_null(strstr(message, "layer_types"));
}

static void test_rope(void)
{
    static const char llama3[] = "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                                 "\"original_max_position_embeddings\":8192";
    struct config c, d;
    char *old_text = xasprintf("\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",%s}", llama3);
    char *new_text = xasprintf("\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\",%s}", llama3);

    assert_int_equal(read_text("llama", old_text, &c), EX_OK);
    assert_int_equal(read_text("llama", new_text, &d), EX_OK);
    assert_memory_equal(&c, &d, sizeof c);
    assert_true(c.rope.kind == ROPE_LLAMA3 && c.rope_theta == 500000 && c.rope.factor == 8
                && c.rope.high_frequency_factor == 4 && c.rope.original_max_position == 8192);
    assert_int_equal(read_text("llama", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", &c), EX_OK);
    assert_true(c.rope.kind == ROPE_LINEAR && c.rope.factor == 2);
    assert_int_equal(read_text("llama", "\"rope_scaling\":null,\"rope_theta\":1e7", &c), EX_OK);
    assert_true(c.rope.kind == ROPE_DEFAULT && c.rope_theta == 1e7);
    assert_int_equal(read_text("llama", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"rope_parameters\":"
                               "{\"rope_type\":\"default\",\"rope_theta\":5.0}", &c), EX_OK);
    assert_int_equal(c.rope.kind, ROPE_LINEAR);
    assert_true(c.rope_theta == 10000);
    assert_int_equal(read_text("llama", "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0}", &c), EX_OK);
    assert_true(c.rope.kind == ROPE_YARN
        && c.rope.beta_fast == 32 && fabs(c.rope.attention_factor - 1.1386294361) < 1e-9);
    assert_int_equal(read_text("llama", "\"original_max_position_embeddings\":512,\"rope_parameters\":{\"rope_type\":"
                               "\"yarn\",\"factor\":4.0,\"beta_fast\":0,\"original_max_position_embeddings\":64}", &c),
                     EX_OK);
    assert_true(c.rope.original_max_position == 512 && c.rope.beta_fast == 32);
    free(old_text);
    free(new_text);
}

static void test_refusals(void)
{
    static const struct {
        const char *family, *more, *says;
    } bad[] = {
        {"gpt2", "", "'model_type' is 'gpt2'"},
        {"llama", "\"num_key_value_heads\":3", "num_key_value_heads"},
        {"llama", "\"num_key_value_heads\":0", "num_key_value_heads"},
        {"mistral", "", "num_key_value_heads"},
        {"llama", "\"head_dim\":7", "head_dim"},
        {"llama", "\"head_dim\":\"8\"", "head_dim"},
        {"llama", "\"head_dim\":8.5", "head_dim"},
        {"llama", "\"hidden_act\":\"gelu\"", "hidden_act"},
        {"llama", "\"rms_norm_eps\":-1", "rms_norm_eps"},
        {"llama", "\"rope_theta\":0", "rope_theta"},
        {"llama", "\"rope_theta\":\"big\"", "rope_theta"},
        {"llama", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", "dynamic"},
        {"llama", "\"rope_scaling\":{\"type\":\"linear\"}", "factor"},
        {"llama", "\"rope_scaling\":[]", "rope_scaling"},
        {"llama", "\"num_local_experts\":8", "num_local_experts"},
        {"llama", "\"final_logit_softcapping\":30.0", "final_logit_softcapping"},
        {"llama", "\"layer_types\":[\"linear_attention\"]", "layer_types"},
        {"llama", "\"rope_parameters\":{\"partial_rotary_factor\":0.5}", "partial_rotary_factor"},
        {"llama", "\"tie_word_embeddings\":1", "tie_word_embeddings"},
        {"llama", "\"torch_dtype\":\"int8\"", "dtype"},
        {"llama", "\"eos_token_id\":[1,\"x\"]", "eos_token_id"},
        {"llama", "\"max_position_embeddings\":0", "max_position_embeddings"},
        {"llama", "\"quantization_config\":{\"quant_method\":\"gptq\"}", "quantization_config"},
        {"granite", "\"logits_scaling\":0", "logits_scaling"},
    };
    static const char *const required[] = {"model_type", "vocab_size", "hidden_size", "intermediate_size",
                                           "num_hidden_layers",
                                           "num_attention_heads"};
    struct config c;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = read_text(bad[i].family, bad[i].more, &c);

        if (rc != EX_DATAERR || !strstr(message, bad[i].says))
            fail_msg("%s: exit code %d, message '%s'", bad[i].more, rc, message);
    }
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        struct json *json = json_make_object();

        for (size_t k = 0; k < sizeof required / sizeof *required; k++)
            if (k != i)
                json_put(json, required[k], k ? json_make_int(4) : json_make_string("llama"));
        error_capture(message, sizeof message);
        assert_int_equal(config_read(json, "m", &c), EX_DATAERR);
        error_capture(NULL, 0);
        assert_non_null(strstr(message, required[i]));
        assert_non_null(strstr(message, "missing"));
        json_drop(json);
    }
}

static void test_expected(void)
{
    struct config c;
    struct expected e, again;

    assert_int_equal(read_text("qwen3", "\"num_key_value_heads\":2,\"head_dim\":16,\"tie_word_embeddings\":true", &c),
                     EX_OK);
    for (int64_t i = 0; i < config_expected_count(&c); i++) {
        config_expected(&c, i, &e);
        assert_int_equal(config_expects(&c, e.name, &again), i);
        assert_memory_equal(&e.shape, &again.shape, sizeof e.shape);
        assert_int_equal(e.required, again.required);
    }
    assert_true(config_expects(&c, "model.layers.2.self_attn.q_proj.weight", &e) > 0);
    assert_true(e.rank == 2 && e.shape[0] == 64 && e.shape[1] == 32 && e.required);
    assert_true(config_expects(&c, "model.layers.0.self_attn.k_norm.weight", &e) > 0);
    assert_true(e.rank == 1 && e.shape[0] == 16 && e.required);
    assert_true(config_expects(&c, "model.layers.0.self_attn.q_proj.bias", &e) > 0);
    assert_false(e.required);
    assert_true(config_expects(&c, "lm_head.weight", &e) > 0);
    assert_false(e.required);
    assert_int_equal(config_expects(&c, "model.layers.3.self_attn.q_proj.weight", &e), -1);
    assert_int_equal(config_expects(&c, "model.layers.02.self_attn.q_proj.weight", &e), -1);
    assert_int_equal(config_expects(&c, "model.layers.x", &e), -1);
    assert_int_equal(config_expects(&c, "model.layers.1", &e), -1);
    assert_int_equal(config_expects(&c, "", &e), -1);
}

static int take(struct inventory *inventory, struct record record)
{
    int rc;

    error_capture(message, sizeof message);
    rc = inventory_take(inventory, &record, "s");
    error_capture(NULL, 0);
    record_free(&record);
    return rc;
}

static struct record core(const char *name, const int *place, const int64_t *shape)
{
    struct tensor tensor = {.dtype = DTYPE(F32), .rank = 4};

    memcpy(tensor.shape, shape, 4 * sizeof *shape);
    tensor.bytes = dtype_payload(tensor.dtype, 4, shape);
    return record_core(name, place[0], place[1], place[2], place[3], &tensor);
}

static int complete(struct inventory *inventory)
{
    int rc;

    error_capture(message, sizeof message);
    rc = inventory_complete(inventory);
    error_capture(NULL, 0);
    return rc;
}

static void take_all_but(struct inventory *inventory, const struct config *c, const char *left_out)
{
    for (int64_t i = 0; i < config_expected_count(c); i++) {
        struct expected e;

        config_expected(c, i, &e);
        if (e.required && !strstr(e.name, left_out))
            assert_int_equal(take(inventory, record_tensor(e.name, DTYPE(F32), e.rank, e.shape)), EX_OK);
    }
}

static void test_inventory(void)
{
    static const char down[] = "model.layers.1.mlp.down_proj.weight";
    static const struct {
        const char *left_out, *says;
    } missing[] = {
        {"layers.1.", "missing layers 1"},   {"layers.", "missing layers 0-2"}, {"lm_head", "missing 'lm_head.weight'"},
        {"proj.weight", "and 18 more"},      {"model.norm", "'model.norm.weight'"},
    };
    struct config c;
    struct inventory inventory;

    assert_int_equal(read_text("llama", "", &c), EX_OK);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        inventory_open(&inventory, &c);
        take_all_but(&inventory, &c, missing[i].left_out);
        assert_int_equal(complete(&inventory), EX_DATAERR);
        if (!strstr(message, missing[i].says))
            fail_msg("'%s', expected '%s' in it", message, missing[i].says);
        inventory_close(&inventory);
    }
    inventory_open(&inventory, &c);
    take_all_but(&inventory, &c, down);
    assert_int_equal(take(&inventory, record_tensor(down, DTYPE(F32), 2, (int64_t[]){48, 32})), EX_DATAERR);
    assert_non_null(strstr(message, "[48,32], expected [32,48]"));
    assert_int_equal(take(&inventory, core(down, (int[]){0, 2, 0, 2}, (int64_t[]){1, 32, 1, 5})), EX_OK);
    assert_int_equal(complete(&inventory), EX_DATAERR);
    assert_int_equal(take(&inventory, core(down, (int[]){0, 2, 1, 2}, (int64_t[]){5, 1, 48, 1})), EX_OK);
    assert_int_equal(complete(&inventory), EX_DATAERR);
    assert_int_equal(take(&inventory, core(down, (int[]){1, 2, 0, 1}, (int64_t[]){1, 32, 48, 1})), EX_OK);
    assert_int_equal(complete(&inventory), EX_OK);
    inventory_close(&inventory);
}

static void test_bad_chains(void)
{
    static const char q[] = "model.layers.0.self_attn.q_proj.weight";
    static const struct {
        int place[2][4];
        int64_t shape[2][4];
    } bad[] = {
        {{{0, 1, 0, 2}, {0, 1, 1, 2}}, {{1, 32, 1, 4}, {4, 1, 31, 1}}},                  /* another matrix */
        {{{0, 1, 0, 2}, {0, 1, 1, 2}}, {{1, INT64_C(1) << 40, 1, 1}, {1, INT64_C(1) << 40, 1, 1}}},
    };
    struct config c;

    assert_int_equal(read_text("llama", "", &c), EX_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct inventory inventory;
        int rc;

        inventory_open(&inventory, &c);
        rc = take(&inventory, core(q, bad[i].place[0], bad[i].shape[0]));
        if (!rc && bad[i].place[1][1])
            rc = take(&inventory, core(q, bad[i].place[1], bad[i].shape[1]));
        if (rc != EX_DATAERR)
            fail_msg("chain %zu: exit code %d", i, rc);
        inventory_close(&inventory);
    }
}

CHECK_MAIN({"missing members get transformers' defaults", test_defaults}, {"each family has its own", test_families},
           {"sliding windows", test_windows}, {"rotary embeddings in both spellings", test_rope},
           {"what isn't supported is refused by name", test_refusals}, {"names and numbers of expected tensors",
                                                                        test_expected},
           {"an inventory finds what is missing", test_inventory}, {"an inventory holds chains to their size",
                                                                    test_bad_chains})
