/* scales.h - the scales and minima of packed tensors: taken out of them, and as a format can store them: f16, or, with
 * scale_bits, an f16 factor per super-block times an integer per group. The same steps for all group formats:
 *
 *     minima_round()       min only: the wished minima give stored ones
 *     scales_round()       the scales wished for a range that starts at the stored minimum give stored ones
 *     tensor_put_row()     with zero points and codes chosen for the stored values
 *
 * Nothing is allocated; all are safe in many threads. */
#ifndef TENSOR_SCALES_H
#define TENSOR_SCALES_H

#include "tensor/tensor.h"

/* scale [groups] f32, of a row of the format dtype: fills row->scale and row->scale_factor, and stored [groups] with
 * the exact f32 values that a reader will see; stored may be scale. weight [groups] (NULL: all 1) says what a squared
 * error of each scale costs. False where a scale isn't finite or overflows what is stored.
 *
 * With scale_bits a factor is searched for, from the largest scale on, that makes the weighted squared error least. A
 * scale that isn't 0 gets an integer of at least 1: codes to nearest for it are never worse than those for a scale of
 * 0. All scales of a super-block get the sign of its largest in magnitude and keep their magnitudes. So with ZERO_NONE,
 * where the sign says which end of the range has one code more, choose one sign for all groups of a super-block, and
 * scales that reach far enough with it. */
bool scales_round(struct dtype dtype, int64_t groups, const float *scale, const float *weight, struct group_row *row,
                  float *stored);

/* The parts of a packed tensor, w = scale * unit + minimum: numbers of a row that share a scale are a group, all of a
 * row in a trellis format. */
struct scaling {
    int64_t rows, length, group, groups;         /* groups: of a row */
    bool minima;                 /* ZERO_MIN */
};

struct scaling scales_of(const struct tensor *tensor);

/* unit [rows, length] of rows first..: code - zero point (ZERO_MIN: the code), or the values of a trellis. */
void scales_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit);

/* scale, minimum [all rows, groups] f32, minimum NULL but where there are minima. */
void scales_get(const struct tensor *tensor, float *scale, float *minimum);

/* Replaces the scales, and minima where the format has them, of a whole packed tensor by these [rows, groups],
 * rounded; codes and zero points stay. False where one isn't finite or overflows what is stored: then some rows may
 * have changed. */
bool scales_replace(struct tensor *tensor, const float *scale, const float *minimum);

/* The same as scales_round() for minima [groups] of a ZERO_MIN format: fills row->zero and row->minimum_factor. scale
 * [groups], the wished scales (0 or more), serves to choose the sign.
 *
 * With scale_bits all minima of a super-block have one sign, and those of the other sign are stored as 0: a positive
 * minimum that becomes 0 costs resolution (the group's range has to start at 0: take the range from the stored
 * minimum, not from the wished one), a negative one that becomes 0 costs the values below 0. The sign whose estimate
 * of both is lower is taken. */
bool minima_round(struct dtype dtype, int64_t groups, const float *minimum, const float *scale, const float *weight,
                  struct group_row *row, float *stored);

#endif
