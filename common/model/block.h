/* block.h - the forward pass of a Llama-family model, block by block, on a device.
 *
 *     x = x + residual_multiplier * attention(rms_norm(x))       then the same with the MLP:
 *     x = x + residual_multiplier * down(silu(gate(h)) * up(h)),  h = rms_norm(x)
 *
 * with rotary embeddings, grouped key heads, optional biases and norms of queries and keys, as struct config says. */
#ifndef MODEL_BLOCK_H
#define MODEL_BLOCK_H

#include "compute/device.h"
#include "model/config.h"
#include "operator/apply.h"

/* The weights of a block, owned; vectors are on the device, NULL where the model has none. */
struct block {
    struct applied *q, *k, *v, *o, *gate, *up, *down;
    float *input_norm, *post_norm;               /* [d_model] */
    float *q_norm, *k_norm;                      /* [head_dim] */
    float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    int64_t vector_bytes;        /* of all these vectors */
};

void block_free(struct block *block, const struct device *device);
int64_t block_bytes(const struct block *block);  /* on the device */

/* Final norm and head. */
struct head {
    float *norm;                 /* [d_model], owned */
    const struct applied *w;     /* [vocab_size, d_model] */
    struct applied *own;         /* w, where it isn't the embedding */
};

void head_free(struct head *head, const struct device *device);

/* The inputs of a block's matrices, in the order in which they come. */
enum block_part {
    PART_QKV,                    /* the first norm's output [n, d_model] */
    PART_O,                      /* what attention mixes [n, n_head * head_dim] */
    PART_GATEUP,                 /* the second norm's output [n, d_model] */
    PART_DOWN,                   /* silu(gate) * up [n, d_ff] */
    PARTS,
};

extern const char *const part_names[];           /* "qkv", "o", "gateup", "down"; NULL-terminated */

/* The width of a part's input. */
int64_t part_width(const struct config *config, enum block_part part);

/* Looks on while rows go through a block. */
struct tap {
    /* Gets the inputs x (device, rows contiguous) of a part, of rows first..first+n-1. */
    void (*see)(void *context, enum block_part part, int64_t first, const float *x, int64_t n);
    void *context;
    enum block_part last;        /* the rows go no further than its input, x is of no use then; PARTS: through */
    int64_t first;               /* number of row 0 */
};

/* What all blocks of a model share while it runs: tables of rotary embeddings, workspace. */
struct forward {
    const struct device *device;
    const struct config *config; /* borrowed */
    struct tap *tap;             /* borrowed; NULL: none */
    float *cosine, *sine;        /* [positions, head_dim / 2] on the device */
    float *back_sine;            /* -sine: what turns gradients */
    int64_t positions;
    void *work;                  /* workspace on the device, grown on demand */
    size_t work_bytes;
    int32_t *position;           /* of the rows at hand; host */
    int64_t n_position;          /* that there is room for */
};

void forward_begin(struct forward *forward, const struct device *device, const struct config *config);
void forward_end(struct forward *forward);

/* n rows of a batch, from row first on, that stand one after another in one sequence, the first of them at position
 * past (so many tokens of the sequence have been through this block before). k and v hold what the block keeps of the
 * sequence: rows of n_kv_head * head_dim floats on the device, where the key at position p lies in row p (p < shared)
 * or own + (p - shared), as struct attention has it. The rows of new positions are written, so there must be room. */
struct span {
    int64_t first, n, past;
    float *k, *v;
    int64_t shared, own;
};

/* The part of a span that lies in rows first..first+n-1, which become rows 0..n-1; false where there is none. */
bool span_clip(const struct span *span, int64_t first, int64_t n, struct span *part);

/* x [n, d_model] (device): looks tokens up, scaled by the embedding multiplier. Tokens (host) are below vocab_size. */
void embed(struct forward *forward, const struct applied *embedding, const int32_t *token, int64_t n, float *x);

/* x [n, d_model] (device) goes through the block of this number, in place. The spans cover the rows in ascending order,
 * and a span that shares rows (past is at least shared) comes behind the one that writes them. Rows are done in parts:
 * what stands beside x takes some 128 MiB at most. */
void block_forward(struct forward *forward, const struct block *block, int64_t layer, const struct span *span,
                   int n_span, float *x, int64_t n);

/* Bytes of the workspace that block_forward() takes for n rows. */
int64_t block_work(const struct config *config, int64_t n);

/* logits [n, vocab_size] = head(norm(x)) / logits_scaling, both on the device. x is left as it was. */
void head_logits(struct forward *forward, const struct head *head, const float *x, int64_t n, float *logits);

#endif
