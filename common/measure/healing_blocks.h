/* healing_blocks.h - a training of one block after the other, each by itself: it learns to give what the teacher's
 * block gives for the states that leave the trained blocks before it (LOSS_FEATURE; Tseng et al., arXiv:2402.04396,
 * section 5, and Egiazarian et al., arXiv:2401.06118, section 3.4, train blocks in this way).
 *
 * A block of either model, the optimizer's state of the one, a micro-batch, and the hidden states of all tokens that
 * are used are what is there at a time, so that memory doesn't depend on how many blocks there are. Both models are
 * read twice, the student once more to write it: a survey finds sizes and faults before the first step. What was
 * trained of a finished block goes to a file in the folder, `block-NUMBER`; from those, and from states as in
 * healing.h, whatever stopped it goes on to the same bytes: the hidden states are made again. */
#ifndef MEASURE_HEALING_BLOCKS_H
#define MEASURE_HEALING_BLOCKS_H

#include "measure/healing.h"
#include "model/pass.h"

enum { HEALING_HALVES = 21 };    /* batches that are tried: the one asked for, half of it, ... */

/* Bytes in all phases; total is of the phase that takes most. */
struct blocks_memory {
    struct trainer_memory training;              /* of the block that takes most */
    int64_t hidden;              /* in memory */
    int64_t embedding;           /* which is there at first */
    int64_t total;
};

struct healing_blocks {
    struct healing *healing;     /* with trainer and text; all of these are borrowed */
    const char *model, *teacher_path;            /* neither is standard input */
    const struct device *device;
    struct selection *selection;
    const struct training *training;             /* memory: the most bytes of hidden states to keep in memory, a file in
                                                  * $TMPDIR has them otherwise */
    struct network *student, *teacher;           /* {0}; the block at hand */
    struct parameters *parameters;               /* {0}; of the student's block */

    /* Of the survey. */
    bool *trained;               /* [n_layer]: whether there is anything to train */
    int64_t count, last;         /* of blocks that are trained, and the last one of them */
    int64_t numbers[4];          /* that are trained: of cores, matrices, scales, norms */
    uint64_t student_hash, teacher_hash;         /* of all blocks, and the student's embedding */
    struct blocks_memory memory[HEALING_HALVES]; /* with batch, batch / 2, ... */

    /* Private. */
    struct loader student_loader, teacher_loader;
    bool student_open, teacher_open;
    struct hidden hidden;
    struct sequence *sequence;   /* of hidden: documents' pieces in windows, in the order of the first pass */
    int64_t n_sequence, *row;    /* row [windows]: where a window begins in hidden */
    float *states;               /* of a micro-batch */
    int64_t done, held;          /* blocks behind it; the one that is held, -1 */
    bool started;                /* the clock */
};

/* Reads both models, block by block. EX_USAGE after a message where no block has anything to train, or the models'
 * blocks can't be compared, and what loader.h says. */
int healing_blocks_survey(struct healing_blocks *blocks);

/* healing_plan() and healing_run() of blocks, in one process. healing needs a folder. */
int healing_blocks_plan(const struct healing_blocks *blocks);
int healing_blocks_run(struct healing_blocks *blocks);

/* Makes parameters those of the trained block that the weight of this name lies in, as they were trained; of other
 * names nothing changes. Names come in stream order. Errors are those of the loader and of snapshot.h. */
int healing_blocks_hold(struct healing_blocks *blocks, const char *name);

/* Closes. done: the result is where it belongs, and the files of blocks may go. */
void healing_blocks_close(struct healing_blocks *blocks, bool done);

#endif
