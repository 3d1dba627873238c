/* network.h - a whole model in memory, for generation token by token with a key-value cache. */
#ifndef MODEL_NETWORK_H
#define MODEL_NETWORK_H

#include "model/loader.h"

struct network {
    struct config config;
    const struct device *device;
    struct applied *embedding;
    struct block *block;         /* [n_layer] */
    struct head head;
    struct forward forward;
    int64_t bytes;               /* of the weights on the device */
    float *x;                    /* [rows, d_model] on the device, grown on demand, as are the next ones */
    int32_t *token;              /* [rows] */
    struct span *span;           /* [spans] */
    int64_t rows, spans;         /* that there is room for */
};

/* Loads all that the loader (just opened) has to give; the loader may be closed behind it. The network must not be
 * moved afterwards. Errors are the loader's. */
int network_load(struct network *network, struct loader *loader);
void network_free(struct network *network);

/* The same without weights, for who has the blocks one at a time: embedding and head are NULL. */
void network_begin(struct network *network, const struct loader *loader);

/* Reads over the blocks that come before this one, and loads it in place of the one that is there; bytes are its.
 * Ascending. Errors are the loader's. */
int network_block(struct network *network, struct loader *loader, int64_t layer);

/* Keys and values of one sequence in all layers, growing. {0} is an empty one. */
struct cache {
    int64_t n, capacity;         /* tokens */
    float **k, **v;              /* [n_layer] -> [capacity, n_kv_head * head_dim] on the device */
};

void cache_free(struct cache *cache, const struct network *network);

/* Forgets the tokens from n on (at most those that are there). */
void cache_cut(struct cache *cache, int64_t n);

/* Tokens that a sequence gets next: n at least 1, all positions below max_position (the caller's to see to). */
struct advance {
    struct cache *cache;
    const int32_t *token;
    int64_t n;
};

/* Runs the new tokens of count sequences at once; logits [count, vocab_size] (device) gets those behind each sequence's
 * last token. */
void network_advance(struct network *network, const struct advance *advance, int count, float *logits);

#endif
