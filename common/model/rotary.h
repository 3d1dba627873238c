/* rotary.h - rotary position embeddings: their frequencies, scaled for longer contexts where the configuration says so,
 * and tables of angles. Computed as transformers does (modeling_rope_utils.py), in single precision and in its order of
 * operations: an angle at a late position is large, and another rounding of its frequency another angle. */
#ifndef MODEL_ROTARY_H
#define MODEL_ROTARY_H

#include "model/config.h"

/* cosine, sine [positions, head_dim / 2] of positions 0..positions-1, times the attention factor. */
void rotary_tables(const struct config *config, int64_t positions, float *cosine, float *sine);

#endif
