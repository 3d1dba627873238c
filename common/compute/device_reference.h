/* device_reference.h - what the files of device_reference share. */
#ifndef COMPUTE_DEVICE_REFERENCE_H
#define COMPUTE_DEVICE_REFERENCE_H

#include "compute/device.h"

struct reference_matrix {
    struct placed placed;
    float *w;                    /* [rows, columns]; where there are scales, what they multiply */
    float *scale, *minimum;      /* of a matrix in a group format that is trained: [rows, groups]; otherwise NULL */
    int64_t group, groups;
};

static inline double reference_weight(const struct reference_matrix *m, int64_t row, int64_t column)
{
    double w = (double)m->w[row * m->placed.columns + column];
    int64_t at = m->scale ? row * m->groups + column / m->group : 0;

    return !m->scale ? w : m->minimum ? m->scale[at] * w + m->minimum[at] : m->scale[at] * w;
}

struct placed *reference_place_trained(struct tensor *tensor);
float *reference_numbers(const struct placed *w, enum numbers which, int64_t *count);
void reference_multiply_back(const struct placed *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                             bool add, int64_t n);
void reference_multiply_gradient(const struct placed *w, float *const d[NUMBERS], const float *dy, int64_t dy_stride,
                                 const float *x, int64_t x_stride, int64_t n);
void reference_gemm_back(const float *y, int64_t y_stride, const float *w, int64_t w_stride, float beta, float *x,
                         int64_t x_stride, int64_t n, int64_t rows, int64_t columns);
void reference_gemm_gradient(float *w, int64_t w_stride, const float *y, int64_t y_stride, const float *x,
                             int64_t x_stride, int64_t n, int64_t rows, int64_t columns);
void reference_rms_norm_back(float *dx, bool add, float *dweight, const float *dy, const float *x, int64_t stride,
                             const float *weight, int64_t n, int64_t d, double epsilon);
void reference_attend_back(const struct attention_back *back, int count);
void reference_silu_multiply_back(float *gate, float *up, const float *dy, int64_t count);
void reference_loss(float *logits, const struct loss_rows *rows, float factor, int64_t n, int64_t d, double *cost);
void reference_deviation(float *dx, bool add, const float *x, const float *y, const float *weight, int64_t n, int64_t d,
                         double *cost);
double reference_sum_squares(const float *x, int64_t count);
void reference_adamw(float *x, const float *dx, float *mean, float *square, const struct adamw *step, int64_t count);

#endif
