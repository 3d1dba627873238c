/* trainer.h - trains a model on batches of whole sequences: forwards and backwards, losses, steps of AdamW.
 *
 * A step is the sum over its micro-batches, divided by the number of tokens that count, of all of them. Blocks come
 * back from their inputs: what a block keeps besides is made again, but for as many of the last blocks as fit into
 * `memory`.
 * Losses of whole vocabularies are computed in chunks of rows: no logits of a whole batch are ever there. */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "train/parameters.h"

/* Cross entropy of the next token; KL(teacher || student) at temperature 1; or cross_weight of the former and the rest
 * of the latter; or the deviation of the states y that leave the blocks from the teacher's, y':
 *
 *     sum over blocks of |y - y'|^2 / |y'|^2,
 *
 * of each token by itself: what reads the states sees them through an RMS norm, so that only what they are off by in
 * proportion to their own length matters; and the few states that are hundreds of times as long as the others (Sun et
 * al., arXiv:2402.17762) count like any other. Hidden states as targets: Jiao et al., arXiv:1909.10351, equation 8;
 * each in proportion to its length: Sun et al., arXiv:1908.09355, equation 7; block by block on the compressed
 * prefix's output: Tseng et al., arXiv:2402.04396, section 5. Blocks before the first that is trained can't change, and
 * aren't counted. */
enum loss { LOSS_CE, LOSS_KL, LOSS_MIX, LOSS_FEATURE };
enum schedule { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };

/* NULL-terminated: "ce", "kl", "mix", "feature"; ... */
extern const char *const loss_names[], *const schedule_names[];

struct training {
    enum loss loss;
    double cross_weight;         /* of LOSS_MIX */
    int64_t steps, warmup;
    enum schedule schedule;
    double rate, beta1, beta2, epsilon, decay;   /* decay: of cores and matrices; norms and scales have none. AdamW's
                                                  * steps are as long as the rate, whatever the numbers are: of scales
                                                  * and minima it is taken times their root mean square before the
                                                  * first step, since their unit is that of the weights */
    double clip;                 /* of the gradient's norm over all that is trained; 0: none */
    int64_t memory;              /* bytes for what blocks keep, besides one block's */
    struct ranks *ranks;         /* that train together, borrowed; NULL: this process alone */
    bool shard;                  /* each rank has and updates its part of the moments */
    int64_t top;                 /* ids of each token that micro-batches bring from an absent teacher; 0: none */
    bool skip;                   /* a step whose loss or gradient isn't finite changes nothing, and it goes on */
};

/* Defaults: KL, 100 steps, 10 of warm-up, cosine from 1e-3, betas .9 and .95, epsilon 1e-8, no decay, clipped at 1. */
extern const struct training training_usual;

/* The rate of step number step (from 0 on) of all: it rises linearly through the warm-up, times the schedule: half a
 * cosine or a straight line from 1 at the first step to 0 behind the last, or 1. */
double training_rate(const struct training *training, int64_t step);

/* A step is shared by ranks as micro-batches are: sums over all of them. What it gives is equal, byte for byte, for
 * equal numbers of ranks, with and without shares of moments.
 *
 * Sequences: tokens one behind the other (host), and how many each has. Tokens count where their cost does: with
 * LOSS_KL and LOSS_FEATURE all, otherwise those with a next one in their sequence. counts (NULL: all do) may take more
 * out: 0 for a token that isn't to be predicted from. */
struct micro_batch {
    const int32_t *token;
    const int64_t *length;
    int sequences;
    const unsigned char *counts;
    bool last;                   /* of its step: gradients set out for other ranks while it is under way */
    const struct loss_top *top;  /* of all tokens, with training.top; whatever it says of those that don't count */
};

/* Seconds of a step: forwards (the teacher, too), backwards, for what is done behind that (without waiting), waiting
 * for other ranks; and those in which messages were under way. */
struct trainer_seconds {
    double forward, backward, update, waited, busy;
};

/* What a step did. Losses are means over tokens that count. */
struct stepped {
    double loss, cross, divergence;              /* cross, divergence: 0 where the loss has no such part. With
                                                  * LOSS_FEATURE the deviation is the divergence */
    double norm;                 /* of the gradient, before it was clipped */
    double rate;
    int64_t counted, tokens;
    bool skipped;                /* something wasn't finite, or no token counted */
    struct trainer_seconds seconds;
};

struct trainer {
    struct network *student, *teacher;           /* borrowed */
    struct training training;
    struct parameters *parameters;               /* borrowed */
    int64_t step;                /* done */
    int64_t updates;             /* of what is trained: without the steps that were skipped */
    int64_t skipped;             /* the last so many, as something wasn't finite */

    /* Private: sums since the last step, and memory on the device that grows on demand. */
    double cross, divergence;
    const struct loss_top *top;  /* of the micro-batch on its way */
    int64_t counted, tokens, micro_batches;
    int64_t unsent;              /* gradients of blocks before this one aren't on their way yet */
    struct trainer_seconds seconds;
    float *memory, *forward_x, *forward_keys;
    int64_t rows, held;          /* room; the block whose results the shared memory has, -1: none */
};

/* teacher may be NULL with LOSS_CE or training->top; otherwise it has the student's vocabulary: EX_DATAERR after a
 * message where not. With LOSS_FEATURE it has as many blocks, of the same width: EX_USAGE. */
int trainer_open(struct trainer *trainer, struct network *student, struct network *teacher,
                 struct parameters *parameters, const struct training *training);
void trainer_close(struct trainer *trainer);

/* Adds the gradients of a micro-batch of this rank. Token ids are below the vocabulary's size, lengths at most
 * max_position. */
void trainer_add(struct trainer *trainer, const struct micro_batch *batch);

/* The same with LOSS_FEATURE for one block: the states [rows, d_model] (host) of the batch's tokens enter it in both
 * models, of which no more than this block need be there; its deviation alone counts. Nothing sets out for other ranks
 * before trainer_step(). */
void trainer_add_states(struct trainer *trainer, int64_t layer, const struct micro_batch *batch, const float *states);

/* Changes what is trained by the gradients added since the last step, or passes over a step in which no token counts.
 * EX_DATAERR after a message, with nothing changed, where loss or gradient isn't finite; with training.skip only where
 * that has been so TRAINER_SKIPS times in a row. */
enum { TRAINER_SKIPS = 10 };
int trainer_step(struct trainer *trainer, struct stepped *stepped);

/* What the student gives a batch as it is: adds the cross entropies of next tokens that count, in nats, and their
 * number. */
void trainer_measure(struct trainer *trainer, const struct micro_batch *batch, double *cross, int64_t *counted);

/* Bytes that a training takes at once on each rank, with micro-batches of so many rows, several of them to a step. */
struct trainer_memory {
    int64_t weights, teacher, trained, blocks, logits, total;    /* trained: gradients, their sums, moments, messages */
};

struct trainer_memory trainer_memory(const struct trainer *trainer, int64_t rows, int64_t accumulate);

/* The same of trainer_add_states(); parameters are those of the one block, weights and teacher that block's. */
struct trainer_memory trainer_states_memory(const struct trainer *trainer, int64_t layer, int64_t rows,
                                            int64_t accumulate);

#endif
