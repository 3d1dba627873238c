/* config.c - reads config.json: every member's kind and range is checked before anything is computed from it. */
#include "model/config.h"
#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* transformers' defaults where a member is missing; 0 in kv means "as many as heads", in head "d_model / n_head". */
static const struct {
    const char *model_type;
    int64_t kv, head, max_position, window;
} families[] = {
    [FAMILY_LLAMA] = {"llama", 0, 0, 2048, 0},       [FAMILY_MISTRAL] = {"mistral", 8, 0, 131072, 4096},
    [FAMILY_GRANITE] = {"granite", 0, 0, 2048, 0},   [FAMILY_QWEN2] = {"qwen2", 32, 0, 32768, 4096},
    [FAMILY_QWEN3] = {"qwen3", 32, 128, 32768, 4096},
};

enum { N_FAMILY = sizeof families / sizeof *families };

/* An object being read. The first trouble is reported and kept; later calls do nothing. */
struct fields {
    const struct json *object;
    const char *where;
    int rc;
};

static void trouble(struct fields *f, const char *format, ...) PRINTF_LIKE(2, 3);

static void trouble(struct fields *f, const char *format, ...)
{
    char *where;
    va_list args;

    if (f->rc)
        return;
    where = xasprintf("cannot use the configuration of '%s'", f->where);
    va_start(args, format);
    f->rc = fail_in(EX_DATAERR, where, format, args);
    va_end(args);
}

/* NULL where the member is missing or null. */
static const struct json *member(const struct fields *f, const char *key)
{
    const struct json *value = json_at(f->object, key);

    return json_kind(value) == JSON_KIND_NULL ? NULL : value;
}

static int64_t get_int(struct fields *f, const char *key, int64_t least, int64_t most, int64_t otherwise)
{
    const struct json *value = member(f, key);
    double real = json_as_real(value, NAN);
    int64_t number;

    if (!value)
        return otherwise;
    /* Some programs write whole numbers as 10000.0. */
    if (json_kind(value) != JSON_KIND_INT && !(fabs(real) < 0x1p53 && real == floor(real))) {
        trouble(f, "'%s' is not a whole number", key);
        return otherwise;
    }
    number = json_as_int(value, (int64_t)(fabs(real) < 0x1p53 ? real : 0));
    if (number < least || number > most)
        trouble(f, "'%s' is %lld, expected %lld..%lld", key, (long long)number, (long long)least, (long long)most);
    return number < least ? least : number > most ? most : number;
}

static int64_t require_int(struct fields *f, const char *key, int64_t least, int64_t most)
{
    if (!member(f, key))
        trouble(f, "'%s' is missing", key);
    return get_int(f, key, least, most, least);
}

static double get_real(struct fields *f, const char *key, double least, double most, double otherwise)
{
    const struct json *value = member(f, key);
    double number = json_as_real(value, NAN);

    if (!value)
        return otherwise;
    if (isnan(number))
        trouble(f, "'%s' is not a number", key);
    else if (!(number >= least && number <= most))
        trouble(f, "'%s' is %g, expected %g..%g", key, number, least, most);
    return number;
}

static bool get_bool(struct fields *f, const char *key, bool otherwise)
{
    const struct json *value = member(f, key);

    if (value && json_kind(value) != JSON_KIND_BOOL)
        trouble(f, "'%s' is neither true nor false", key);
    return json_as_bool(value, otherwise);
}

/* A member that must be one text where it is there at all: what else it could ask for isn't supported. */
static void only_string(struct fields *f, const char *key, const char *text)
{
    const struct json *value = member(f, key);

    if (value && strcmp(json_as_string(value, ""), text))
        trouble(f, "'%s' is '%.40s': only '%s' is supported", key, json_as_string(value, "?"), text);
}

static void read_family(struct fields *f, struct config *c)
{
    const char *type = json_as_string(member(f, "model_type"), NULL);

    if (!type)
        trouble(f, "'model_type' is missing");
    for (int family = 0; type && family < N_FAMILY; family++)
        if (!strcmp(type, families[family].model_type)) {
            c->family = (enum config_family)family;
            return;
        }
    if (type)
        trouble(f, "'model_type' is '%.40s': only llama, mistral, granite, qwen2 and qwen3 are supported", type);
}

static void read_sizes(struct fields *f, struct config *c)
{
    int64_t kv = families[c->family].kv, head = families[c->family].head;

    c->vocab_size = require_int(f, "vocab_size", 1, 1 << 24);
    c->d_model = require_int(f, "hidden_size", 1, 1 << 20);
    c->d_ff = require_int(f, "intermediate_size", 1, 1 << 22);
    c->n_layer = require_int(f, "num_hidden_layers", 1, 4096);
    c->n_head = require_int(f, "num_attention_heads", 1, 1 << 16);
    /* A null asks for one per head; a missing one for the family's default. */
    if (!kv || json_kind(json_at(f->object, "num_key_value_heads")) == JSON_KIND_NULL)
        kv = c->n_head;
    c->n_kv_head = get_int(f, "num_key_value_heads", 1, 1 << 16, kv);
    if (c->n_head % c->n_kv_head)
        trouble(f, "'num_attention_heads' is %lld, not a multiple of 'num_key_value_heads', %lld", (long long)c->n_head,
                (long long)c->n_kv_head);
    if (!member(f, "head_dim") && !head && c->d_model % c->n_head)
        trouble(f, "'hidden_size' is %lld, not a multiple of 'num_attention_heads', %lld", (long long)c->d_model,
                (long long)c->n_head);
    c->head_dim = get_int(f, "head_dim", 2, 1 << 16, head ? head : c->d_model / c->n_head);
    if (c->head_dim % 2 || c->head_dim < 2)
        trouble(f, "'head_dim' is %lld, expected an even number", (long long)c->head_dim);
    c->max_position = get_int(f, "max_position_embeddings", 1, 1 << 30, families[c->family].max_position);
    c->norm_epsilon = get_real(f, "rms_norm_eps", 0, 1, 1e-6);
}

/* What changes the forward pass of other families, and would be left out in silence. */
static void refuse_unknown_parts(struct fields *f)
{
    static const char *const parts[] = {"num_local_experts", "num_experts", "attn_logit_softcapping",
                                        "final_logit_softcapping"};
    const struct json *types = member(f, "layer_types");

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (json_as_real(member(f, parts[i]), 0) != 0)
            trouble(f, "'%s' is not supported", parts[i]);
    for (size_t i = 0; i < json_count(types); i++) {
        const char *type = json_as_string(json_item(types, i), "?");

        if (strcmp(type, "full_attention") && strcmp(type, "sliding_attention"))
            trouble(f, "'layer_types': '%.40s' at layer %zu is not supported", type, i);
    }
}

static void read_switches(struct fields *f, struct config *c)
{
    bool attention_bias = c->family != FAMILY_MISTRAL && c->family != FAMILY_QWEN2 && get_bool(f, "attention_bias",
                                                                                               false);

    c->tied = get_bool(f, "tie_word_embeddings", false);
    c->qkv_bias = attention_bias || c->family == FAMILY_QWEN2;
    c->o_bias = attention_bias;
    c->mlp_bias = (c->family == FAMILY_LLAMA || c->family == FAMILY_GRANITE) && get_bool(f, "mlp_bias", false);
    c->qk_norm = c->family == FAMILY_QWEN3;
    only_string(f, "hidden_act", "silu");
    refuse_unknown_parts(f);
    if (member(f, "quantization_config"))
        trouble(f, "'quantization_config': checkpoints quantized by other programs are not supported");
    c->embedding_multiplier = c->residual_multiplier = c->logits_scaling = 1;
    c->attention_scale = 1 / sqrt((double)c->head_dim);
    if (c->family == FAMILY_GRANITE) {
        c->embedding_multiplier = get_real(f, "embedding_multiplier", -1e6, 1e6, 1);
        c->residual_multiplier = get_real(f, "residual_multiplier", -1e6, 1e6, 1);
        c->attention_scale = get_real(f, "attention_multiplier", -1e6, 1e6, 1);
        c->logits_scaling = get_real(f, "logits_scaling", 1e-6, 1e6, 1);
    }
}

/* "layer_types" must say what one number can: full attention up to a layer, sliding windows from there on. */
static void read_layer_types(struct fields *f, struct config *c, const struct json *types)
{
    bool sliding = false;

    if (json_kind(types) != JSON_KIND_ARRAY || json_count(types) != (size_t)c->n_layer)
        trouble(f, "'layer_types' is not a list of %lld", (long long)c->n_layer);
    c->first_window = c->n_layer;
    for (size_t i = 0; i < json_count(types); i++) {
        const char *type = json_as_string(json_item(types, i), "?");
        bool here = !strcmp(type, "sliding_attention");

        if ((!here && strcmp(type, "full_attention")) || (sliding && !here))
            trouble(f, "'layer_types': '%.40s' at layer %zu is not supported", type, i);
        if (here && !sliding)
            c->first_window = (int64_t)i;
        sliding = here;
    }
}

static void read_window(struct fields *f, struct config *c)
{
    bool qwen = c->family == FAMILY_QWEN2 || c->family == FAMILY_QWEN3;
    bool null = json_kind(json_at(f->object, "sliding_window")) == JSON_KIND_NULL;

    if (!families[c->family].window || (qwen && !get_bool(f, "use_sliding_window", false)))
        return;
    c->window = get_int(f, "sliding_window", 1, 1 << 30, null ? 0 : families[c->family].window);
    if (qwen)
        c->first_window = get_int(f, "max_window_layers", 0, 1 << 20, 28);
    if (qwen && member(f, "layer_types"))
        read_layer_types(f, c, member(f, "layer_types"));
    if (c->window >= c->max_position || c->first_window >= c->n_layer)
        c->window = 0;                   /* never reached */
}

/* Yarn's temperature, as its paper and transformers set it: 0.1 ln(factor) + 1. */
static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void read_yarn(struct fields *f, struct rope_scaling *rope)
{
    double mscale = get_real(f, "mscale", 0, 1e3, 0), all = get_real(f, "mscale_all_dim", 0, 1e3, 0);
    double otherwise = mscale && all ? yarn_mscale(rope->factor, mscale) / yarn_mscale(rope->factor, all)
                                     : yarn_mscale(rope->factor, 1);

    rope->beta_fast = get_real(f, "beta_fast", 0, 1e6, 32);
    rope->beta_slow = get_real(f, "beta_slow", 0, 1e6, 1);
    rope->beta_fast = rope->beta_fast > 0 ? rope->beta_fast : 32;        /* as transformers takes a 0 */
    rope->beta_slow = rope->beta_slow > 0 ? rope->beta_slow : 1;
    rope->attention_factor = get_real(f, "attention_factor", 0, 1e6, otherwise);
    rope->truncate = get_bool(f, "truncate", true);
}

/* original: "original_max_position_embeddings" beside the rotary parameters, which beats the one in them; or 0. */
static void read_scaling(struct fields *f, struct config *c, int64_t original)
{
    static const char *const kinds[] = {"default", "linear", "llama3", "yarn"};
    const char *type = json_as_string(json_at(f->object, member(f, "rope_type") ? "rope_type" : "type"), "default");
    struct rope_scaling *rope = &c->rope;
    int kind = 0;

    while (kind <= ROPE_YARN && strcmp(type, kinds[kind]))
        kind++;
    if (kind > ROPE_YARN) {
        trouble(f, "'rope_type' is '%.40s': only default, linear, llama3 and yarn are supported", type);
        return;
    }
    rope->kind = (enum config_rope)kind;
    if (kind == ROPE_DEFAULT)
        return;
    if (!member(f, "factor"))
        trouble(f, "'factor' of '%s' rotary embeddings is missing", type);
    rope->factor = get_real(f, "factor", 1, 1e6, 1);
    if (kind == ROPE_LINEAR)
        return;
    rope->original_max_position = get_int(f, "original_max_position_embeddings", 1, 1 << 30, c->max_position);
    rope->original_max_position = original ? original : rope->original_max_position;
    if (kind == ROPE_YARN)
        read_yarn(f, rope);
    else {
        rope->low_frequency_factor = get_real(f, "low_freq_factor", 1e-6, 1e6, 1);
        rope->high_frequency_factor = get_real(f, "high_freq_factor", 1e-6, 1e6, 4);
        if (!(rope->high_frequency_factor > rope->low_frequency_factor))
            trouble(f, "'high_freq_factor' is %g, expected more than 'low_freq_factor', %g",
                    rope->high_frequency_factor,
                    rope->low_frequency_factor);
    }
}

/* As in transformers, the old "rope_scaling" stands before "rope_parameters" where it says something. */
static void read_rope(struct fields *f, struct config *c)
{
    const struct json *parameters = member(f, "rope_parameters"), *scaling = member(f, "rope_scaling");
    bool old = scaling && (!parameters || json_kind(scaling) != JSON_KIND_OBJECT || json_count(scaling));
    struct fields inner = {.object = old ? scaling : parameters, .where = f->where, .rc = f->rc};
    double partial;
    int64_t original;

    c->rope = (struct rope_scaling){.factor = 1, .attention_factor = 1};
    c->rope_theta = get_real(f, "rope_theta", 1e-6, 1e12, 10000);
    partial = get_real(f, "partial_rotary_factor", 0, 1, 1);
    original = get_int(f, "original_max_position_embeddings", 1, 1 << 30, 0);
    inner.rc = f->rc;
    if (!f->rc && inner.object && json_kind(inner.object) != JSON_KIND_OBJECT)
        trouble(&inner, "'%s' is not an object", old ? "rope_scaling" : "rope_parameters");
    if (json_kind(json_at(inner.object, "full_attention")) == JSON_KIND_OBJECT)
        trouble(&inner, "'rope_parameters': different ones per kind of layer are not supported");
    c->rope_theta = get_real(&inner, "rope_theta", 1e-6, 1e12, c->rope_theta);
    if (get_real(&inner, "partial_rotary_factor", 0, 1, partial) != 1)
        trouble(&inner, "'partial_rotary_factor': only 1 is supported");
    read_scaling(&inner, c, original);
    f->rc = f->rc ? f->rc : inner.rc;
}

static void read_ids(struct fields *f, struct config *c)
{
    const struct json *eos = member(f, "eos_token_id");
    bool llama = c->family <= FAMILY_GRANITE;

    c->bos = get_int(f, "bos_token_id", -1, INT32_MAX, llama && !json_at(f->object, "bos_token_id") ? 1 : -1);
    c->pad = get_int(f, "pad_token_id", -1, INT32_MAX, -1);
    if (json_kind(eos) == JSON_KIND_ARRAY) {
        if (json_count(eos) > CONFIG_EOS)
            trouble(f, "'eos_token_id' lists %zu ids, expected %d at most", json_count(eos), CONFIG_EOS);
        for (size_t i = 0; i < json_count(eos) && i < CONFIG_EOS; i++)
            if ((c->eos[c->n_eos++] = json_as_int(json_item(eos, i), -1)) < 0)
                trouble(f, "'eos_token_id' lists something else than ids");
        return;
    }
    c->eos[0] = get_int(f, "eos_token_id", -1, INT32_MAX, llama && !json_at(f->object, "eos_token_id") ? 2 : -1);
    c->n_eos = c->eos[0] >= 0;
}

static void read_dtype(struct fields *f, struct config *c)
{
    static const struct {
        const char *name;
        enum dtype_kind kind;
    } known[] = {{"float32", DTYPE_F32}, {"float16", DTYPE_F16}, {"bfloat16", DTYPE_BF16}, {"float64", DTYPE_F32}};
    const struct json *value = member(f, member(f, "dtype") ? "dtype" : "torch_dtype");

    c->dtype = DTYPE(F32);
    if (!value)
        return;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(json_as_string(value, "?"), known[i].name)) {
            c->dtype.kind = known[i].kind;
            return;
        }
    trouble(f, "'dtype' is '%.40s': only float32, float16 and bfloat16 are supported", json_as_string(value, "?"));
}

int config_read(const struct json *json, const char *where, struct config *config)
{
    struct fields f = {.object = json, .where = where};

    *config = (struct config){0};
    if (json_kind(json) != JSON_KIND_OBJECT)
        trouble(&f, "it is %s", json ? "not an object" : "missing");
    read_family(&f, config);
    if (!f.rc)
        read_sizes(&f, config);
    if (f.rc)                    /* what follows computes with the sizes */
        return f.rc;
    read_switches(&f, config);
    read_rope(&f, config);
    read_window(&f, config);
    read_ids(&f, config);
    read_dtype(&f, config);
    return f.rc;
}

bool config_same_shapes(const struct config *a, const struct config *b)
{
    return a->vocab_size == b->vocab_size && a->d_model == b->d_model && a->d_ff == b->d_ff && a->n_layer == b->n_layer
        && a->n_head == b->n_head && a->n_kv_head == b->n_kv_head && a->head_dim == b->head_dim;
}

int64_t config_window(const struct config *config, int64_t layer)
{
    return layer >= config->first_window ? config->window : 0;
}
