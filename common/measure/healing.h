/* healing.h - a training from its first step to its last: batches from the text, the log, measurements on the way, and
 * states in a folder from which it goes on after whatever stopped it, to the same bytes. */
#ifndef MEASURE_HEALING_H
#define MEASURE_HEALING_H

#include "measure/teacher_logits.h"
#include "measure/training_text.h"
#include "train/trainer.h"

struct healing {
    struct trainer *trainer;
    struct training_text *text;
    struct teacher_logits *logits;               /* of the text, where the trainer has no teacher; NULL: none */
    struct ranks *ranks;         /* the trainer's */
    int64_t batch, accumulate;   /* windows to a micro-batch, micro-batches to a step, of all ranks together */
    const struct json *about;    /* of model, text and options: all that the result depends on */
    const char *work;            /* the folder; NULL: none */
    const char *log;             /* NULL: `log` in the folder, or none */
    enum products products;      /* that the device is set to; evaluations have f32 */
    int64_t checkpoint_every;    /* steps; 0: never */
    struct training_text *evaluation;            /* NULL: none */
    int64_t evaluate_every;      /* steps, and at the end; 0: at the end */

    int lock, log_fd;            /* -1 */
    int64_t block;               /* that is trained by itself, see measure/healing_blocks.h; -1: the whole model is */
    int64_t behind, all_steps;   /* then: steps of blocks before, and of all */
    int (*add)(void *context, const struct micro_batch *batch, int64_t window);          /* then: in place of */
    void *context;                                                                       /* trainer_add() */

    /* Private. */
    char *log_path;
    int64_t tokens, first_step;                  /* tokens since the start of this process; its step */
    int64_t log_bytes;           /* of the log at the state */
    double start, seconds;       /* seconds: of processes before */
    int64_t own_batch, own_count;                /* windows to a micro-batch of this rank, and how many of them to a
                                                  * step */
};

/* Shares the micro-batches of a step out to the trainer's ranks: as many to each, one after another; where they don't
 * come out even each is cut into as few equal parts as make it so. EX_USAGE after a message where a batch has too few
 * windows for that. Then what memory each rank takes: EX_OSERR after a message that names what would fit where there
 * isn't so much; it's said with `tell`. */
int healing_plan(struct healing *healing, bool tell);

/* Instead of a training: takes two steps, the first one to warm up, and prints to standard output what memory, messages
 * and time a step takes each rank. Where ranks are imagined, messages travel at link bytes a second, or where that is 0
 * as fast as memory is copied here. EX_IOERR; errors of trainer_step(). */
int healing_forecast(struct healing *healing, double link);

/* Of all ranks, of which the first has the folder and the log. EX_USAGE where they have other models, texts or options.
 * Makes the folder, and goes on from its newest whole state. A line of JSON per step goes to the log; every
 * checkpoint_every steps a state, `checkpoint-STEP`, of which the last two are kept. Errors are of trainer_step(), of
 * snapshot.h and of teacher_logits_read(): one rank that has the last of these ends all. EX_CANTCREAT where another
 * process has the folder. */
int healing_run(struct healing *healing);

/* Closes. done: its result is where it belongs, and no state is needed any more; the log stays. */
void healing_close(struct healing *healing, bool done);

#endif
