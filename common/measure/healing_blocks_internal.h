/* healing_blocks_internal.h - what a survey and a training of blocks share, private to measure. */
#ifndef MEASURE_HEALING_BLOCKS_INTERNAL_H
#define MEASURE_HEALING_BLOCKS_INTERNAL_H

#include "measure/healing_blocks.h"

/* Opens both models, or the student alone, from their beginning. */
int blocks_open(struct healing_blocks *blocks, bool with_teacher);
void blocks_shut(struct healing_blocks *blocks);

/* Where what was trained of a block goes; the caller frees. */
char *blocks_path(const struct healing_blocks *blocks, int64_t layer);

/* How many windows are used. */
int64_t blocks_windows(const struct healing_blocks *blocks);

#endif
