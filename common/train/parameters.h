/* parameters.h - what is trained of a model: its numbers by name and class, their gradients, and AdamW's moments. All
 * on the model's device, in float32. */
#ifndef TRAIN_PARAMETERS_H
#define TRAIN_PARAMETERS_H

#include "base/hash.h"
#include "base/options.h"
#include "model/block_train.h"
#include "model/network.h"

/* Classes beside those of operators (enum train). */
enum { TRAIN_NORMS = 8, TRAIN_ALL = TRAIN_CORES | TRAIN_SCALES | TRAIN_NORMS };

/* What is asked for: classes (bits), and names of weights that match. The embedding, and a head that is the embedding,
 * stay as they are. */
struct selection {
    unsigned classes;
    const struct globs *match;   /* borrowed; NULL: all */
    bool blocks;                 /* of blocks only: not the final norm, nor the head */
};

/* For struct loader's train; the context is a struct selection. */
unsigned selection_classes(void *selection, const char *name);

struct parameter {
    char *name;                  /* of the weight that it belongs to */
    unsigned class;
    struct applied *applied;     /* NULL: a norm */
    struct trainable trainable;  /* values and count of norms, too */
    int64_t first;               /* of its gradient and moments, in floats */
};

struct parameters {
    const struct device *device;
    struct parameter *list;
    int count;
    int64_t floats;              /* of each of the next three, with gaps up to whole cache lines, which hold zeros */
    float *gradient;             /* where the backward pass adds */
    float *mean, *square;        /* NULL before the first step */
    struct block_gradients *block;       /* [n_layer] */
    float *head_norm;            /* its gradient; NULL: not trained */
    int64_t first_layer;         /* the first block with anything to train; n_layer: none has */
    int64_t n_layer;

    /* Sums of 2^i micro-batches each, where there is one (private). */
    float *level[62];
    bool full[62];
};

/* Lists what is trained of a network that was loaded with this selection, and binds the gradients, all zero. The
 * network must outlive it. EX_USAGE after a message where that is nothing. */
int parameters_open(struct parameters *parameters, struct network *network, const struct selection *selection);

/* The same without a message: false where that is nothing, then there is nothing to close. */
bool parameters_find(struct parameters *parameters, struct network *network, const struct selection *selection);
void parameters_close(struct parameters *parameters);

/* Numbers of a class (bits). */
int64_t parameters_count(const struct parameters *parameters, unsigned classes);

/* Puts the gradient of a micro-batch aside and makes it zero for the next one. Micro-batches are added in a binary tree
 * over their numbers: neighbours first, so that ranks which hold neighbours add the same sums. */
void parameters_carry(struct parameters *parameters);

/* gradient = the sum of all that were put aside. */
void parameters_sum(struct parameters *parameters);

/* Names and numbers, as they are now. */
void parameters_hash(const struct parameters *parameters, struct hash *hash);

/* gradient = 0 */
void parameters_clear(struct parameters *parameters);

/* Makes the moments, all zero, where they aren't there yet. */
void parameters_moments(struct parameters *parameters);

/* The values or a gradient of a parameter in the order in which the model stores it; host [count]. */
void parameter_download(const struct parameters *parameters, const struct parameter *parameter, const float *from,
                        float *host);

#endif
