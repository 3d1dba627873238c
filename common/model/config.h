/* config.h - the configuration of a Llama-family model (config.json), checked, with transformers' defaults filled in;
 * and the list of tensors that a model of this configuration has. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/json.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum config_family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_GRANITE, FAMILY_QWEN2, FAMILY_QWEN3 };
enum config_rope { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

enum { CONFIG_EOS = 16 };        /* the most end-of-text ids */
enum { CONFIG_NAME = 96 };       /* bytes of an expected tensor's name, terminated */

/* How rotary frequencies theta^(-2i/head_dim) are scaled for longer contexts. */
struct rope_scaling {
    enum config_rope kind;
    double factor;                       /* all but ROPE_DEFAULT; 1 otherwise */
    double low_frequency_factor, high_frequency_factor;          /* ROPE_LLAMA3 */
    double beta_fast, beta_slow;         /* ROPE_YARN */
    double attention_factor;             /* ROPE_YARN: cos and sin are multiplied by it; 1 otherwise */
    bool truncate;                       /* ROPE_YARN: the correction range is rounded to whole dimensions */
    int64_t original_max_position;       /* ROPE_LLAMA3, ROPE_YARN */
};

struct config {
    enum config_family family;
    int64_t vocab_size, d_model, d_ff, n_layer;
    int64_t n_head, n_kv_head, head_dim; /* n_head is a multiple of n_kv_head; head_dim is even */
    int64_t max_position;
    double norm_epsilon;
    double rope_theta;
    struct rope_scaling rope;
    bool tied;                           /* the head is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;                        /* RMS norms over head_dim on queries and keys (qwen3) */
    int64_t window;                      /* sliding window of the layers from first_window on; 0: none */
    int64_t first_window;
    double embedding_multiplier, residual_multiplier;            /* 1 but for granite */
    double attention_scale;              /* softmax scale: 1/sqrt(head_dim), or granite's attention_multiplier */
    double logits_scaling;               /* logits are divided by it; 1 but for granite */
    int64_t bos, pad;                    /* -1: none */
    int64_t eos[CONFIG_EOS];
    int n_eos;
    struct dtype dtype;                  /* "dtype" or "torch_dtype": f32, f16, bf16; f32 where it isn't given */
};

/* Reads the content of a config.json; where names the model in messages. Old ("rope_theta", "rope_scaling",
 * "torch_dtype") and new ("rope_parameters", "dtype") spelling are understood. EX_DATAERR after a message that names
 * the field: missing, of the wrong kind, out of range, or asking for what isn't supported. */
int config_read(const struct json *json, const char *where, struct config *config);

/* Whether all matrices of both have the same shapes. */
bool config_same_shapes(const struct config *a, const struct config *b);

/* The sliding window of a layer; 0 where it sees everything. */
int64_t config_window(const struct config *config, int64_t layer);

/* A tensor of the model in dense form. */
struct expected {
    char name[CONFIG_NAME];
    int rank;
    int64_t shape[2];                    /* matrices [out, in], embedding and head [vocab_size, d_model] */
    bool required;                       /* otherwise it may stand there and change nothing (a tied head) */
};

/* The expected tensors are numbered 0..config_expected_count()-1: embedding, blocks, final norm, head. */
int64_t config_expected_count(const struct config *config);
void config_expected(const struct config *config, int64_t index, struct expected *expected);

/* The number of the expected tensor that has this name, with its description in *expected; -1 where there is none. */
int64_t config_expects(const struct config *config, const char *name, struct expected *expected);

#endif
