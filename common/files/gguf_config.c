/* gguf_config.c - the keys of a GGUF file as sizes, config.json and generation_config.json. */
#include "files/gguf_internal.h"
#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MOST ((int64_t)INT32_MAX)

/* llama.cpp's converter turns the rows of q and k for LlamaForCausalLM and what it derives from it, Granite and
 * Mistral among them, and leaves Qwen's alone. */
static const struct gguf_architecture architectures[] = {
    {.name = "llama", .model_type = "llama", .class = "LlamaForCausalLM", .permuted = true, .output_bias = true},
    {.name = "mistral", .model_type = "mistral", .class = "MistralForCausalLM", .permuted = true, .output_bias = true},
    {.name = "granite", .model_type = "granite", .class = "GraniteForCausalLM", .permuted = true, .output_bias = true,
     .multipliers = true},
    {.name = "qwen2", .model_type = "qwen2", .class = "Qwen2ForCausalLM"},
    {.name = "qwen3", .model_type = "qwen3", .class = "Qwen3ForCausalLM", .output_bias = true, .qk_norm = true},
};

const char *gguf_key_name(const struct gguf_plan *plan, const char *suffix, char buffer[128])
{
    snprintf(buffer, 128, "%s.%s", plan->architecture->name, suffix);
    return buffer;
}

static int find_architecture(const struct gguf *g, struct gguf_plan *plan)
{
    struct gguf_string name = {0};
    char shown[84];
    int rc = gguf_text(g, "general.architecture", &name);

    if (rc)
        return rc;
    if (!name.data)
        return gguf_fail(g, "key 'general.architecture' is missing");
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (name.length == strlen(architectures[i].name) && !memcmp(name.data, architectures[i].name, name.length))
            plan->architecture = &architectures[i];
    if (!plan->architecture)
        return gguf_fail(g, "architecture '%s' is not supported, expected llama, mistral, granite, qwen2 or qwen3",
                         gguf_show(name, shown));
    return EX_OK;
}

/* A size of 1 or more; 0 where it is absent, which is an error if required is set. */
static int take_size(const struct gguf *g, const struct gguf_plan *plan, const char *suffix, bool required,
                     int64_t *size)
{
    char name[128];
    int rc;

    *size = 0;
    gguf_key_name(plan, suffix, name);
    if ((rc = gguf_int(g, name, 1, SIZE_MOST, size)))
        return rc;
    return required && !*size ? gguf_fail(g, "key '%s' is missing", name) : EX_OK;
}

/* head_dim: the key's length, or the rotated part, or hidden / heads. The three and the value's length must agree:
 * the models here rotate whole heads. */
static int take_head_dim(const struct gguf *g, struct gguf_plan *plan)
{
    int64_t key = 0, value = 0, rotated = 0;
    int rc;

    if ((rc = take_size(g, plan, "attention.key_length", false, &key)) ||
        (rc = take_size(g, plan, "attention.value_length", false, &value)) ||
        (rc = take_size(g, plan, "rope.dimension_count", false, &rotated)))
        return rc;
    plan->head_dim = key ? key : rotated ? rotated : plan->hidden / plan->heads;
    if ((value && value != plan->head_dim) || (rotated && rotated != plan->head_dim))
        return gguf_fail(g, "found keys of %lld, values of %lld, rotation of %lld dimensions, expected equal numbers",
                         (long long)plan->head_dim, (long long)value, (long long)rotated);
    if (plan->head_dim < 2 || plan->head_dim % 2)
        return gguf_fail(g, "found heads of %lld dimensions, expected an even number", (long long)plan->head_dim);
    if (plan->heads % plan->kv_heads)
        return gguf_fail(g, "found %lld heads over %lld key-value heads, expected a multiple", (long long)plan->heads,
                         (long long)plan->kv_heads);
    return EX_OK;
}

int gguf_plan(const struct gguf *g, struct gguf_plan *plan)
{
    const struct gguf_tensor *embedding = gguf_find_tensor(g, "token_embd.weight");
    int64_t experts = 0;
    char name[128];
    int rc = find_architecture(g, plan);

    if (rc || (rc = take_size(g, plan, "embedding_length", true, &plan->hidden)) ||
        (rc = take_size(g, plan, "feed_forward_length", true, &plan->inner)) ||
        (rc = take_size(g, plan, "block_count", true, &plan->layers)) ||
        (rc = take_size(g, plan, "context_length", true, &plan->context)) ||
        (rc = take_size(g, plan, "attention.head_count", true, &plan->heads)) ||
        (rc = take_size(g, plan, "attention.head_count_kv", false, &plan->kv_heads)) ||
        (rc = take_size(g, plan, "vocab_size", false, &plan->vocab)) ||
        (rc = gguf_int(g, gguf_key_name(plan, "expert_count", name), 0, SIZE_MOST, &experts)))
        return rc;
    if (experts)
        return gguf_fail(g, "key '%s': found %lld, expected 0: mixtures of experts are not supported", name,
                         (long long)experts);
    if (!embedding)
        return gguf_fail(g, "tensor 'token_embd.weight' is missing");
    if (!plan->kv_heads)
        plan->kv_heads = plan->heads;
    if (!plan->vocab)
        plan->vocab = embedding->shape[0];
    plan->attention_bias = gguf_find_tensor(g, "blk.0.attn_q.bias") != NULL;
    plan->mlp_bias = gguf_find_tensor(g, "blk.0.ffn_up.bias") != NULL;
    plan->tied = !gguf_find_tensor(g, "output.weight");
    return take_head_dim(g, plan);
}

/* ---- rotation ---- */

/* The factors by which Llama 3 divides the frequencies base^(-2i/head_dim), i = 0 .. head_dim/2 - 1: 1 for short
 * waves, factor for long ones, in between a blend that is linear in the frequency. */
static double llama3_factor(double frequency, double factor, double low, double high, double context)
{
    double turns = context * frequency / (2 * M_PI);     /* of the wave within the original context */

    if (turns > high)
        return 1;
    if (turns < low)
        return factor;
    return 1 / ((1 - (turns - low) / (high - low)) / factor + (turns - low) / (high - low));
}

/* rope_freqs.weight holds those factors instead of their rule. All published models share low 1, high 4 and an
 * original context of 8192; the factor is the greatest. It is taken if the rule then gives the tensor back. */
static int llama3_scaling(const struct gguf *g, const struct gguf_plan *plan, double theta, struct json **scaling)
{
    const struct gguf_tensor *tensor = gguf_find_tensor(g, "rope_freqs.weight");
    int64_t count = plan->head_dim / 2;
    const double low = 1, high = 4, context = 8192;
    float *found, most = 1;
    int rc;

    if (!tensor)
        return EX_OK;
    if (tensor->rank != 1 || tensor->shape[0] != count || strcmp(tensor->format->name, "F32"))
        return gguf_fail(g, "tensor 'rope_freqs.weight': expected %lld elements of F32", (long long)count);
    found = xmallocarray((size_t)count, sizeof *found);
    rc = file_read_at(g->fd, g->path, found, (size_t)tensor->bytes, tensor->offset);
    for (int64_t i = 0; i < count && !rc; i++)
        most = found[i] > most ? found[i] : most;
    for (int64_t i = 0; i < count && !rc; i++) {
        double frequency = pow(theta, -2.0 * (double)i / (double)plan->head_dim);
        double expected = llama3_factor(frequency, most, low, high, context);

        if (!(fabs(found[i] - expected) <= 1e-4 * expected))
            rc = gguf_fail(g, "tensor 'rope_freqs.weight': found %g as item %lld, expected %g: not Llama 3's scaling",
                           (double)found[i], (long long)i, expected);
    }
    free(found);
    if (rc || most == 1)
        return rc;
    *scaling = json_make_object();
    json_put(*scaling, "rope_type", json_make_string("llama3"));
    json_put(*scaling, "factor", json_make_real(most));
    json_put(*scaling, "low_freq_factor", json_make_real(low));
    json_put(*scaling, "high_freq_factor", json_make_real(high));
    json_put(*scaling, "original_max_position_embeddings", json_make_int((int64_t)context));
    return EX_OK;
}

/* rope.scaling.type linear and yarn. */
static int stated_scaling(const struct gguf *g, const struct gguf_plan *plan, struct json **scaling)
{
    static const char *const untranslated[] = {"rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier",
                                               "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
                                               "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
                                               "rope.scale_linear"};
    struct gguf_string type = {"none", 4};
    double factor = 0;
    int64_t context = 0;
    char name[128], shown[84];
    int rc;

    if ((rc = gguf_text(g, gguf_key_name(plan, "rope.scaling.type", name), &type)) ||
        (rc = gguf_real(g, gguf_key_name(plan, "rope.scaling.factor", name), &factor)) ||
        (rc = take_size(g, plan, "rope.scaling.original_context_length", false, &context)))
        return rc;
    for (size_t i = 0; i < sizeof untranslated / sizeof *untranslated; i++)
        if (gguf_find(g, gguf_key_name(plan, untranslated[i], name)))
            return gguf_fail(g, "key '%s' is not supported", name);
    if (type.length == 4 && !memcmp(type.data, "none", 4))
        return EX_OK;
    if ((type.length != 6 || memcmp(type.data, "linear", 6)) && (type.length != 4 || memcmp(type.data, "yarn", 4)))
        return gguf_fail(g, "rotation scaling '%s' is not supported, expected none, linear or yarn",
                         gguf_show(type, shown));
    if (*scaling)
        return gguf_fail(g, "found both rope_freqs.weight and rotation scaling, expected one of them");
    if (!(factor > 0))
        return gguf_fail(g, "key '%s': expected more than 0", gguf_key_name(plan, "rope.scaling.factor", name));
    *scaling = json_make_object();
    json_put(*scaling, "rope_type", json_make_stringn(type.data, type.length));
    json_put(*scaling, "factor", json_make_real(factor));
    if (context)
        json_put(*scaling, "original_max_position_embeddings", json_make_int(context));
    return EX_OK;
}

static int put_rotation(const struct gguf *g, const struct gguf_plan *plan, struct json *config)
{
    struct json *scaling = NULL;
    double theta = 10000;        /* what llama.cpp takes where the key is absent */
    char name[128];
    int rc = gguf_real(g, gguf_key_name(plan, "rope.freq_base", name), &theta);

    if (!rc && !(theta > 0))
        rc = gguf_fail(g, "key '%s': found %g, expected more than 0", name, theta);
    if (!rc && !(rc = llama3_scaling(g, plan, theta, &scaling)) && !(rc = stated_scaling(g, plan, &scaling))) {
        json_put(config, "rope_theta", json_make_real(theta));
        json_put(config, "rope_scaling", scaling ? scaling : json_make_null());
        return EX_OK;
    }
    json_drop(scaling);
    return rc;
}

/* ---- config.json ---- */

static int put_norm(const struct gguf *g, const struct gguf_plan *plan, struct json *config)
{
    double eps = 0;
    char name[128];
    int rc = gguf_real(g, gguf_key_name(plan, "attention.layer_norm_rms_epsilon", name), &eps);

    if (rc)
        return rc;
    if (!gguf_find(g, name))
        return gguf_fail(g, "key '%s' is missing", name);
    if (!(eps >= 0))
        return gguf_fail(g, "key '%s': found %g, expected 0 or more", name, eps);
    json_put(config, "rms_norm_eps", json_make_real(eps));
    return EX_OK;
}

/* Granite's factors. llama.cpp scales attention by 1/sqrt(head_dim) where the key is absent. */
static int put_multipliers(const struct gguf *g, const struct gguf_plan *plan, struct json *config)
{
    const struct {
        const char *suffix, *name;
        double otherwise;
    } factors[] = {
        {"embedding_scale", "embedding_multiplier", 1},
        {"residual_scale", "residual_multiplier", 1},
        {"logit_scale", "logits_scaling", 1},
        {"attention.scale", "attention_multiplier", 1 / sqrt((double)plan->head_dim)},
    };

    for (size_t i = 0; plan->architecture->multipliers && i < sizeof factors / sizeof *factors; i++) {
        double value = factors[i].otherwise;
        char name[128];
        int rc = gguf_real(g, gguf_key_name(plan, factors[i].suffix, name), &value);

        if (rc)
            return rc;
        if (value == 0)
            return gguf_fail(g, "key '%s': found 0, expected another number", name);
        json_put(config, factors[i].name, json_make_real(value));
    }
    return EX_OK;
}

int gguf_special(const struct gguf *g, struct gguf_special *special)
{
    const struct {
        const char *name;
        int64_t *id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &special->bos}, {"tokenizer.ggml.eos_token_id", &special->eos},
        {"tokenizer.ggml.unknown_token_id", &special->unknown}, {"tokenizer.ggml.padding_token_id", &special->pad},
        {"tokenizer.ggml.eot_token_id", &special->eot},
    };
    struct gguf_string model = {0};

    int rc = gguf_text(g, "tokenizer.ggml.model", &model);

    if (!rc && model.length == 5 && !memcmp(model.data, "llama", 5))
        *special = (struct gguf_special){.bos = 1, .eos = 2, .unknown = 0, .pad = -1, .eot = -1};
    else
        *special = (struct gguf_special){-1, -1, -1, -1, -1};
    for (size_t i = 0; i < sizeof ids / sizeof *ids && !rc; i++)
        rc = gguf_int(g, ids[i].name, -1, SIZE_MOST, ids[i].id);
    return rc;
}

static void put_id(struct json *config, const char *name, int64_t id)
{
    json_put(config, name, id < 0 ? json_make_null() : json_make_int(id));
}

/* The dtype of the payloads: that of the first block's q, which stands for the matrices. */
static const char *payload_dtype(const struct gguf *g)
{
    const struct gguf_tensor *tensor = gguf_find_tensor(g, "blk.0.attn_q.weight");
    enum dtype_kind kind = tensor ? tensor->format->dtype.kind : DTYPE_F32;

    return kind == DTYPE_F16 ? "float16" : kind == DTYPE_BF16 ? "bfloat16" : "float32";
}

static void put_sizes(const struct gguf_plan *plan, struct json *config)
{
    struct json *classes = json_make_array();

    json_append(classes, json_make_string(plan->architecture->class));
    json_put(config, "architectures", classes);
    json_put(config, "model_type", json_make_string(plan->architecture->model_type));
    json_put(config, "hidden_size", json_make_int(plan->hidden));
    json_put(config, "intermediate_size", json_make_int(plan->inner));
    json_put(config, "num_hidden_layers", json_make_int(plan->layers));
    json_put(config, "num_attention_heads", json_make_int(plan->heads));
    json_put(config, "num_key_value_heads", json_make_int(plan->kv_heads));
    json_put(config, "head_dim", json_make_int(plan->head_dim));
    json_put(config, "vocab_size", json_make_int(plan->vocab));
    json_put(config, "max_position_embeddings", json_make_int(plan->context));
    json_put(config, "hidden_act", json_make_string("silu"));
    json_put(config, "attention_bias", json_make_bool(plan->attention_bias));
    json_put(config, "mlp_bias", json_make_bool(plan->mlp_bias));
    json_put(config, "tie_word_embeddings", json_make_bool(plan->tied));
}

static int put_window(const struct gguf *g, const struct gguf_plan *plan, struct json *config)
{
    int64_t window = 0;
    int rc = take_size(g, plan, "attention.sliding_window", false, &window);

    /* Mistral's class takes 4096 for an absent member. */
    if (!rc && (window || !strcmp(plan->architecture->model_type, "mistral")))
        json_put(config, "sliding_window", window ? json_make_int(window) : json_make_null());
    return rc;
}

static void add_json(struct model *model, const char *name, const struct json *value)
{
    char *text = json_document(value);

    model_add_memory(model, name, text, strlen(text));
}

/* Generation ends at the end of the text and at the end of a turn. */
static void add_generation(struct model *model, const struct gguf_special *special)
{
    struct json *generation = json_make_object();

    put_id(generation, "bos_token_id", special->bos);
    if (special->eot >= 0 && special->eos >= 0 && special->eot != special->eos) {
        struct json *ends = json_make_array();

        json_append(ends, json_make_int(special->eos));
        json_append(ends, json_make_int(special->eot));
        json_put(generation, "eos_token_id", ends);
    } else
        put_id(generation, "eos_token_id", special->eos);
    put_id(generation, "pad_token_id", special->pad);
    add_json(model, "generation_config.json", generation);
    json_drop(generation);
}

int gguf_config(const struct gguf *g, const struct gguf_plan *plan, struct model *model)
{
    struct gguf_special special;
    struct json *config = json_make_object();
    int rc = gguf_special(g, &special);

    put_sizes(plan, config);
    if (rc || (rc = put_norm(g, plan, config)) || (rc = put_rotation(g, plan, config)) ||
        (rc = put_window(g, plan, config)) || (rc = put_multipliers(g, plan, config))) {
        json_drop(config);
        return rc;
    }
    put_id(config, "bos_token_id", special.bos);
    put_id(config, "eos_token_id", special.eos);
    put_id(config, "pad_token_id", special.pad);
    json_put(config, "torch_dtype", json_make_string(payload_dtype(g)));
    json_put(config, "use_cache", json_make_bool(true));
    add_json(model, "config.json", config);
    add_generation(model, &special);
    model->config = config;
    return EX_OK;
}
