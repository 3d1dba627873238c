/* parameters.h - what is trained of a model: its numbers by name and class, their gradients, and AdamW's moments. All
 * on the model's device, in float32. */
#ifndef TRAIN_PARAMETERS_H
#define TRAIN_PARAMETERS_H

#include "base/options.h"
#include "model/block_train.h"
#include "model/network.h"
#include "train/ranks.h"

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
    int64_t first;               /* of its gradient, in floats */
    double unit;                 /* of the learning rate, see struct training */
};

/* Floats of gradients that go to other ranks in one piece: of one block, or of the head, at most RANKS_FLOATS. */
struct segment {
    int64_t first, count;
    int64_t mine, mine_count;    /* those that this rank updates */
    int64_t moments;             /* where the moments of `mine` begin */
};

struct parameters {
    const struct device *device;
    struct parameter *list;
    int count;
    int64_t floats;              /* of all gradients, with gaps up to whole cache lines, which hold zeros */
    float *gradient;             /* where the backward pass adds */
    float *mean, *square;        /* NULL before the first step; of what this rank updates, in the order of segments */
    int64_t moments;             /* floats of each of them */
    struct segment *segment;     /* [segments], in the order of gradients */
    int segments;
    int *block_segment;          /* [n_layer + 2]: the first one of each block, of the head, and `segments` */
    struct block_gradients *block;       /* [n_layer] */
    float *head_norm;            /* its gradient; NULL: not trained */
    int64_t first_layer;         /* the first block with anything to train; n_layer: none has */
    int64_t n_layer;

    /* Private: where blocks, the head and nothing begin, [n_layer + 2]; sums of 2^i micro-batches each, where there is
     * one. */
    int64_t *block_first;
    float *level[62];
    bool full[62];
};

/* Lists what is trained of a network that was loaded with this selection, and binds the gradients, all zero. The
 * network must outlive it. EX_USAGE after a message where that is nothing. */
int parameters_open(struct parameters *parameters, struct network *network, const struct selection *selection);

/* The same without a message: false where that is nothing, then there is nothing to close. */
bool parameters_find(struct parameters *parameters, struct network *network, const struct selection *selection);
void parameters_close(struct parameters *parameters);

/* Divides the work of updating what is trained, and its moments, among so many ranks (shard), or leaves all of it to
 * each. Before the first step; all is this rank's where it isn't called. */
void parameters_share(struct parameters *parameters, int rank, int count, bool shard);

/* What parameters have of the floats from first up to end, one after another: *at is 0 at the beginning. False behind
 * the last. */
struct stretch {
    const struct parameter *parameter;
    int64_t from, count;         /* of its numbers */
    int64_t first;               /* where that is among the floats */
};
bool parameters_stretch(const struct parameters *parameters, int64_t first, int64_t end, int *at,
                        struct stretch *stretch);

/* Numbers of a class (bits). */
int64_t parameters_count(const struct parameters *parameters, unsigned classes);

/* y = x, n floats on the device, in rows, so that threads share them. Private to train. */
void parameters_copy(const struct device *device, float *y, const float *x, int64_t n);

/* Puts the gradient of a micro-batch aside and makes it zero for the next one. Micro-batches are added in a binary tree
 * over their numbers: neighbours first, so that ranks which hold neighbours add the same sums. */
void parameters_carry(struct parameters *parameters);

/* Adds all that were put aside to the gradient, that of the last micro-batch, in the same tree: of these floats. */
void parameters_add(struct parameters *parameters, int64_t first, int64_t count);

/* What was put aside is forgotten. */
void parameters_added(struct parameters *parameters);

/* gradient = 0 */
void parameters_clear(struct parameters *parameters);

/* Makes the moments, all zero, where they aren't there yet. */
void parameters_moments(struct parameters *parameters);

/* The values or a gradient of a parameter in the order in which the model stores it; host [count]. */
void parameter_download(const struct parameters *parameters, const struct parameter *parameter, const float *from,
                        float *host);

#endif
