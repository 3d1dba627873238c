/* lanes.h - many sequences through a network side by side, token by token; one that is done makes room for the next.
 * The rows of all go through each matrix together, so that it is read once for all. */
#ifndef MODEL_LANES_H
#define MODEL_LANES_H

#include "model/network.h"
#include "text/tokenizer.h"

struct lanes {
    struct network *network;     /* borrowed */
    int count;                   /* lanes */
    bool full;                   /* idle lanes run along, for nothing: all steps have as many rows */

    /* Appends the tokens, one or more, with which the next sequence begins in this lane, and which fit into the model's
     * context; false: there is none any more, and the lane is idle for good. */
    bool (*begin)(void *context, int lane, struct ids *tokens);

    /* The sequence in lane[i], i < count, has come to row i of logits [count, vocab_size] (device, may be changed).
     * token[i] is to be the one that goes in next, which there must be room for, or -1: this sequence is done. */
    void (*step)(void *context, const int *lane, int count, float *logits, int32_t *token);
    void *context;
};

/* Runs until all lanes are idle; the number of tokens that ran through the model. Memory: keys and values of the tokens
 * in all lanes, and their logits. */
int64_t lanes_run(const struct lanes *lanes);

#endif
