/* config_tensors.c - the tensors a model has by its configuration: names, shapes, in numbered slots. */
#include "model/config.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum size { NONE, VOCAB, MODEL, FEED, QUERIES, KEYS, HEAD };

/* When a tensor stands in a model. */
enum when { ALWAYS, QKV_BIAS, O_BIAS, MLP_BIAS, QK_NORM, UNTIED, RARELY };

struct slot {
    const char *name;
    enum size shape[2];          /* a vector where the second is NONE */
    enum when when;
};

/* RARELY: rotary frequencies that old programs stored beside the weights. */
static const struct slot block_slots[] = {
    {"input_layernorm.weight", {MODEL, NONE}, ALWAYS},
    {"mlp.down_proj.bias", {MODEL, NONE}, MLP_BIAS},
    {"mlp.down_proj.weight", {MODEL, FEED}, ALWAYS},
    {"mlp.gate_proj.bias", {FEED, NONE}, MLP_BIAS},
    {"mlp.gate_proj.weight", {FEED, MODEL}, ALWAYS},
    {"mlp.up_proj.bias", {FEED, NONE}, MLP_BIAS},
    {"mlp.up_proj.weight", {FEED, MODEL}, ALWAYS},
    {"post_attention_layernorm.weight", {MODEL, NONE}, ALWAYS},
    {"self_attn.k_norm.weight", {HEAD, NONE}, QK_NORM},
    {"self_attn.k_proj.bias", {KEYS, NONE}, QKV_BIAS},
    {"self_attn.k_proj.weight", {KEYS, MODEL}, ALWAYS},
    {"self_attn.o_proj.bias", {MODEL, NONE}, O_BIAS},
    {"self_attn.o_proj.weight", {MODEL, QUERIES}, ALWAYS},
    {"self_attn.q_norm.weight", {HEAD, NONE}, QK_NORM},
    {"self_attn.q_proj.bias", {QUERIES, NONE}, QKV_BIAS},
    {"self_attn.q_proj.weight", {QUERIES, MODEL}, ALWAYS},
    {"self_attn.rotary_emb.inv_freq", {HEAD, NONE}, RARELY},
    {"self_attn.v_proj.bias", {KEYS, NONE}, QKV_BIAS},
    {"self_attn.v_proj.weight", {KEYS, MODEL}, ALWAYS},
};

static const struct slot embedding = {"model.embed_tokens.weight", {VOCAB, MODEL}, ALWAYS};
static const struct slot norm = {"model.norm.weight", {MODEL, NONE}, ALWAYS};
static const struct slot head = {"lm_head.weight", {VOCAB, MODEL}, UNTIED};

enum { N_SLOT = sizeof block_slots / sizeof *block_slots };

static int64_t size_of(const struct config *config, enum size size)
{
    switch (size) {
    case VOCAB:
        return config->vocab_size;
    case MODEL:
        return config->d_model;
    case FEED:
        return config->d_ff;
    case QUERIES:
        return config->n_head * config->head_dim;
    case KEYS:
        return config->n_kv_head * config->head_dim;
    case HEAD:
        return config->head_dim;
    default:
        return 1;
    }
}

static bool stands(const struct config *config, enum when when)
{
    switch (when) {
    case ALWAYS:
        return true;
    case QKV_BIAS:
        return config->qkv_bias;
    case O_BIAS:
        return config->o_bias;
    case MLP_BIAS:
        return config->mlp_bias;
    case QK_NORM:
        return config->qk_norm;
    case UNTIED:
        return !config->tied;
    default:
        return false;
    }
}

static void describe(const struct config *config, const struct slot *slot, struct expected *expected)
{
    expected->rank = slot->shape[1] == NONE ? 1 : 2;
    expected->shape[0] = size_of(config, slot->shape[0]);
    expected->shape[1] = size_of(config, slot->shape[1]);
    if (slot->when == RARELY)
        expected->shape[0] /= 2;
    expected->required = stands(config, slot->when);
}

int64_t config_expected_count(const struct config *config)
{
    return config->n_layer * N_SLOT + 3;
}

void config_expected(const struct config *config, int64_t index, struct expected *expected)
{
    int64_t last = config->n_layer * N_SLOT + 1, block = (index - 1) / N_SLOT;
    const struct slot *slot = index == 0 ? &embedding : index == last ? &norm : &head;

    assert(index >= 0 && index < config_expected_count(config));
    if (index > 0 && index < last) {
        slot = &block_slots[(index - 1) % N_SLOT];
        snprintf(expected->name, sizeof expected->name, "model.layers.%lld.%s", (long long)block, slot->name);
    } else
        snprintf(expected->name, sizeof expected->name, "%s", slot->name);
    describe(config, slot, expected);
}

int64_t config_expects(const struct config *config, const char *name, struct expected *expected)
{
    static const char layers[] = "model.layers.";
    int64_t index = -1, last = config->n_layer * N_SLOT + 1;

    if (!strcmp(name, embedding.name))
        index = 0;
    else if (!strcmp(name, norm.name))
        index = last;
    else if (!strcmp(name, head.name))
        index = last + 1;
    else if (!strncmp(name, layers, sizeof layers - 1)) {
        char *end = NULL;
        long long block = strtoll(name + sizeof layers - 1, &end, 10);

        if (block < 0 || block >= config->n_layer || *end != '.')
            return -1;
        for (int s = 0; s < N_SLOT && index < 0; s++)
            if (!strcmp(end + 1, block_slots[s].name))
                index = 1 + block * N_SLOT + s;
    }
    if (index < 0)
        return -1;
    config_expected(config, index, expected);
    return strcmp(expected->name, name) ? -1 : index;    /* one spelling only: "layers.07" is something else */
}
