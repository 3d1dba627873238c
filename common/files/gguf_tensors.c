/* gguf_tensors.c - tensors of a GGUF file as items under Hugging Face names, and what must, may and can't be there. */
#include "files/gguf_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* When a tensor stands in the file. */
enum presence { ALWAYS, MAYBE, WITH_ATTENTION_BIAS, WITH_OUTPUT_BIAS, WITH_MLP_BIAS, WITH_QK_NORM };

/* The length of an axis, by what it means. */
enum length { NONE, VOCAB, HIDDEN, INNER, QUERY, KEY, HEAD, HALF_HEAD, LENGTHS };

struct role {
    const char *from;            /* in the file; of a block behind "blk.N." */
    const char *to;              /* of a block behind "model.layers.N."; NULL: not a weight, left out */
    enum presence presence;
    enum length rows, columns;
    bool heads;                  /* its rows are heads that some architectures permute */
};

static const struct role once[] = {
    {"token_embd.weight", "model.embed_tokens.weight", ALWAYS, VOCAB, HIDDEN, false},
    {"output_norm.weight", "model.norm.weight", ALWAYS, HIDDEN, NONE, false},
    {"output.weight", "lm_head.weight", MAYBE, VOCAB, HIDDEN, false},
    {"rope_freqs.weight", NULL, MAYBE, HALF_HEAD, NONE, false},      /* config.json says it: gguf_config.c */
};

static const struct role each[] = {
    {"attn_norm.weight", "input_layernorm.weight", ALWAYS, HIDDEN, NONE, false},
    {"attn_q.weight", "self_attn.q_proj.weight", ALWAYS, QUERY, HIDDEN, true},
    {"attn_k.weight", "self_attn.k_proj.weight", ALWAYS, KEY, HIDDEN, true},
    {"attn_v.weight", "self_attn.v_proj.weight", ALWAYS, KEY, HIDDEN, false},
    {"attn_output.weight", "self_attn.o_proj.weight", ALWAYS, HIDDEN, QUERY, false},
    {"attn_q.bias", "self_attn.q_proj.bias", WITH_ATTENTION_BIAS, QUERY, NONE, true},
    {"attn_k.bias", "self_attn.k_proj.bias", WITH_ATTENTION_BIAS, KEY, NONE, true},
    {"attn_v.bias", "self_attn.v_proj.bias", WITH_ATTENTION_BIAS, KEY, NONE, false},
    {"attn_output.bias", "self_attn.o_proj.bias", WITH_OUTPUT_BIAS, HIDDEN, NONE, false},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", WITH_QK_NORM, HEAD, NONE, false},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", WITH_QK_NORM, HEAD, NONE, false},
    {"ffn_norm.weight", "post_attention_layernorm.weight", ALWAYS, HIDDEN, NONE, false},
    {"ffn_gate.weight", "mlp.gate_proj.weight", ALWAYS, INNER, HIDDEN, false},
    {"ffn_up.weight", "mlp.up_proj.weight", ALWAYS, INNER, HIDDEN, false},
    {"ffn_down.weight", "mlp.down_proj.weight", ALWAYS, HIDDEN, INNER, false},
    {"ffn_gate.bias", "mlp.gate_proj.bias", WITH_MLP_BIAS, INNER, NONE, false},
    {"ffn_up.bias", "mlp.up_proj.bias", WITH_MLP_BIAS, INNER, NONE, false},
    {"ffn_down.bias", "mlp.down_proj.bias", WITH_MLP_BIAS, HIDDEN, NONE, false},
};

enum { ONCE = sizeof once / sizeof *once, EACH = sizeof each / sizeof *each };

static bool expected(const struct gguf_plan *plan, enum presence presence)
{
    switch (presence) {
    case ALWAYS:
        return true;
    case WITH_ATTENTION_BIAS:
        return plan->attention_bias;
    case WITH_OUTPUT_BIAS:
        return plan->attention_bias && plan->architecture->output_bias;
    case WITH_MLP_BIAS:
        return plan->mlp_bias;
    case WITH_QK_NORM:
        return plan->architecture->qk_norm;
    default:
        return false;
    }
}

static const struct role *find_role(const struct role *roles, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(roles[i].from, name))
            return &roles[i];
    return NULL;
}

/* The role of a tensor; *block is its block or -1. A number with leading zeros or signs is no block's. NULL where
 * there is none under this plan. */
static const struct role *role_of(const struct gguf_plan *plan, const char *name, int64_t *block)
{
    const struct role *role;
    const char *rest;
    char number[24];
    char *end;

    *block = -1;
    if (strncmp(name, "blk.", 4))
        return find_role(once, ONCE, name);
    *block = strtoll(name + 4, &end, 10);
    if (*block < 0 || *block >= plan->layers || *end != '.')
        return NULL;
    rest = end + 1;
    snprintf(number, sizeof number, "%lld", (long long)*block);
    if (strlen(number) != (size_t)(end - name - 4) || strncmp(number, name + 4, strlen(number)))
        return NULL;
    role = find_role(each, EACH, rest);
    return role && (role->presence == MAYBE || expected(plan, role->presence)) ? role : NULL;
}

static int check_shape(const struct gguf *g, const struct gguf_plan *plan, const struct gguf_tensor *tensor,
                       const struct role *role)
{
    const int64_t length[LENGTHS] = {
        [VOCAB] = plan->vocab, [HIDDEN] = plan->hidden, [INNER] = plan->inner, [QUERY] = plan->heads * plan->head_dim,
        [KEY] = plan->kv_heads * plan->head_dim, [HEAD] = plan->head_dim, [HALF_HEAD] = plan->head_dim / 2,
    };
    int rank = role->columns == NONE ? 1 : 2;
    int64_t rows = length[role->rows], columns = length[role->columns];

    if (tensor->rank == rank && tensor->shape[0] == rows && (rank == 1 || tensor->shape[1] == columns))
        return EX_OK;
    if (rank == 1)
        return gguf_fail(g, "tensor '%s': found %d dimensions, the first of %lld, expected [%lld]", tensor->name,
                         tensor->rank, (long long)tensor->shape[0], (long long)rows);
    return gguf_fail(g, "tensor '%s': found %d dimensions, the first of %lld, the last of %lld, expected [%lld,%lld]",
                     tensor->name, tensor->rank, (long long)tensor->shape[0],
                     (long long)tensor->shape[tensor->rank - 1], (long long)rows, (long long)columns);
}

static int add_tensor(const struct gguf *g, const struct gguf_plan *plan, const struct gguf_tensor *tensor,
                      struct model *model)
{
    int64_t block = -1;
    const struct role *role = role_of(plan, tensor->name, &block);
    bool permuted = role && role->heads && plan->architecture->permuted;
    struct record record;
    struct item *item;
    char name[160];
    int rc;

    if (!role)
        return gguf_fail(g, "tensor '%s' is unknown in a model of architecture '%s' with %lld blocks", tensor->name,
                         plan->architecture->name, (long long)plan->layers);
    if ((rc = check_shape(g, plan, tensor, role)) || !role->to)
        return rc;
    if (tensor->rank == 1 && tensor->format->decode)
        return gguf_fail(g, "tensor '%s': found type %s, expected F32, F16 or BF16 for a vector", tensor->name,
                         tensor->format->name);
    if (block < 0)
        snprintf(name, sizeof name, "%s", role->to);
    else
        snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)block, role->to);
    record = record_tensor(name, tensor->format->dtype, tensor->rank, tensor->shape);
    item = model_add(model, &record);
    snprintf(item->stored, sizeof item->stored, "%s", tensor->format->name);
    item->stored_bytes = tensor->bytes;
    item->file = 0;
    item->place[0] = tensor->offset;
    item->place[1] = tensor->format->id;
    item->place[2] = permuted ? plan->head_dim : 0;
    return EX_OK;
}

/* Nothing that the model needs is missing. */
static int check_whole(const struct gguf *g, const struct gguf_plan *plan)
{
    char name[160];

    for (int i = 0; i < ONCE; i++)
        if (expected(plan, once[i].presence) && !gguf_find_tensor(g, once[i].from))
            return gguf_fail(g, "tensor '%s' is missing", once[i].from);
    for (int64_t block = 0; block < plan->layers; block++)
        for (int i = 0; i < EACH; i++) {
            snprintf(name, sizeof name, "blk.%lld.%s", (long long)block, each[i].from);
            if (expected(plan, each[i].presence) && !gguf_find_tensor(g, name))
                return gguf_fail(g, "tensor '%s' is missing", name);
        }
    return EX_OK;
}

int gguf_tensors(const struct gguf *g, const struct gguf_plan *plan, struct model *model)
{
    int rc = check_whole(g, plan);

    for (int64_t i = 0; i < g->n_tensor && !rc; i++)
        rc = add_tensor(g, plan, &g->tensor[i], model);
    return rc;
}
