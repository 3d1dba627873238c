/* round.h - rounding to nearest: a matrix or core to a packed format; a trellis format by compensate_trellis(), a
 * group format with scale and offset from the range of each group.
 *
 *   none   scale = the value of largest magnitude / -2^(bits-1), as llama.cpp's Q4_0: that value keeps its sign
 *   and is hit
 *   int    scale = (max - min) / (2^bits - 1) over a range that includes 0, zero = round(-min / scale)
 *   min    minimum = min, scale = (max - min) / (2^bits - 1), as llama.cpp's Q4_1
 *
 * Scale and minimum are rounded to what is stored first (tensor/scales.h), codes are chosen for the rounded ones. In
 * formats with scale_bits the range starts at the stored minimum, and without an offset the scales of a super-block
 * share the sign for which the sum of their squares is least. */
#ifndef FIT_ROUND_H
#define FIT_ROUND_H

#include "operator/difference.h"

/* Replaces the tensor by its rounding to a packed format (the old payload is freed), row by row in parallel, and adds
 * to *error. Peak memory is old and new payload; of a trellis format, two f32 copies beside. EX_DATAERR where a value
 * is not finite or a scale overflows f16; name is for the message. */
int round_nearest(struct tensor *tensor, struct dtype dtype, const char *name, struct difference *difference);

/* The inverse: replaces a tensor of any real dtype by its values in f32, f16 or bf16. EX_DATAERR where one is not
 * finite, or too large for f16; then the tensor is as it was. */
int round_inverse(struct tensor *tensor, struct dtype dtype, const char *name);

#endif
