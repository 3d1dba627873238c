/* healing_internal.h - what trainings of whole models and of single blocks share, private to measure. */
#ifndef MEASURE_HEALING_INTERNAL_H
#define MEASURE_HEALING_INTERNAL_H

#include "measure/healing.h"

/* The path of a state by the number of its step, of all blocks' steps; the caller frees. */
char *healing_state_path(const struct healing *healing, int64_t step);

static inline double mib(int64_t bytes)
{
    return (double)bytes / 0x1p20;
}

/* EX_OSERR, after a message: so much memory of each of `local` ranks is more than the limit; what would fit instead. */
int healing_refuse(int64_t bytes, double limit, int local, const char *instead);

/* The steps of all states, newest first; the caller's. */
int64_t *healing_states(const struct healing *healing, int *count);

/* Removes all states but that of this number and the newest one before it; rank 0 does. -1: all. */
void healing_keep_state(const struct healing *healing, int64_t number);

/* Both of rank 0. The log is as it was at the state, of log_bytes: what came behind comes again. */
int healing_open_folder(struct healing *healing);
int healing_open_log(struct healing *healing);

/* All ranks go on from the newest whole state of the block, or of the model. */
int healing_resume(struct healing *healing);

/* Where it is, for states, and back there. */
struct json *healing_position(const struct healing *healing);
void healing_take(struct healing *healing, const struct json *position);

/* Starts the clock and the progress line, and takes the steps that are left. */
void healing_start(struct healing *healing);
int healing_steps(struct healing *healing);

/* Adds the micro-batches that this rank has in this step, from number first on. Errors of teacher_logits_read() and of
 * healing->add; of one of many ranks it doesn't return. */
int healing_add(struct healing *healing, int64_t first);

#endif
