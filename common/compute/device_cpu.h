/* device_cpu.h - what the files of device_cpu share; tests may include it. */
#ifndef COMPUTE_DEVICE_CPU_H
#define COMPUTE_DEVICE_CPU_H

#include "compute/device.h"
#include "compute/kernels.h"

_Static_assert((int)BLOCK == (int)ACTIVATION_GROUP, "x is rounded in blocks");

enum layout {
    LAYOUT_ROWS,                 /* f32, f16, bf16 row by row */
    LAYOUT_TILES,                /* packed, groups a multiple of BLOCK or whole rows: see struct tiles */
    LAYOUT_STRIPS,               /* trellis codes, whole strips of 16 rows: see struct strips */
    LAYOUT_STORED,               /* packed in other groups, or other trellis codes: as it came */
    LAYOUT_TRAINED,              /* packed: codes as they came, scales and minima beside */
};

struct cpu_matrix {
    struct placed placed;
    enum layout layout;
    enum dtype_kind kind;        /* of LAYOUT_ROWS */
    struct tensor tensor;        /* the payload, but for tiles and strips */
    struct tiles tiles;
    struct strips strips;
    unsigned char *tile_data;
    float *scale, *minimum;      /* of LAYOUT_TRAINED, and of strips that are: [rows, groups]; or NULL */
    int64_t group, groups;
};

/* The kernels in use. Tests set others (NULL: the best again). */
const struct kernels *cpu_kernels(void);
void cpu_kernels_set(const struct kernels *kernels);

/* Whether products of many rows are of bf16, and with what; NULL: they aren't. */
bool cpu_products(enum products wanted);
const struct pair_kernels *cpu_pairs(void);

/* Working memory that is kept between calls, for one purpose each. */
enum scratch { SCRATCH_PANELS, SCRATCH_PACKED, SCRATCH_ROUNDED, SCRATCH_BACK, SCRATCH_PADDED, SCRATCH_ATTEND,
               SCRATCH_PARTIAL, SCRATCH_GRADIENT, SCRATCHES };
void *cpu_scratch(enum scratch purpose, size_t bytes);

/* A row of LAYOUT_ROWS. */
const unsigned char *cpu_row(const struct cpu_matrix *w, int64_t row);

struct placed *cpu_place(struct tensor *tensor, enum activations activations);
/* Lays a trellis-coded tensor out and frees it; false, and nothing done, where it has no whole strips. */
bool cpu_place_strips(struct cpu_matrix *matrix, struct tensor *tensor);

/* The scales [rows] of trained strips (of no other matrix), which change between products; NULL: 1. */
void cpu_set_strips(const struct cpu_matrix *matrix, const float *scale);

/* y [columns] = a row, rounded as the reference rounds. */
void cpu_gather_strip(const struct strips *w, int64_t row, int64_t columns, float *y);

void cpu_displace(struct placed *placed);
void cpu_gather(const struct placed *w, const int32_t *index, int64_t n, float *y, int64_t stride);

void cpu_multiply(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n);
/* The same with scales as cpu_set_strips() set them last. */
void cpu_multiply_placed(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n);
void cpu_gemm(float alpha, const float *x, int64_t x_stride, const float *w, int64_t w_stride, float beta, float *y,
              int64_t y_stride, int64_t n, int64_t rows, int64_t columns);

/* Rows first..first+rows-1 of LAYOUT_STORED or LAYOUT_TRAINED as f32. */
void cpu_unpack(const struct cpu_matrix *w, int64_t first, int64_t rows, float *out);

struct placed *cpu_place_trained(struct tensor *tensor);
float *cpu_numbers(const struct placed *w, enum numbers which, int64_t *count);
void cpu_multiply_back(const struct placed *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                       bool add, int64_t n);
/* The same for the other layouts. */
void cpu_multiply_lines(const struct cpu_matrix *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                        bool add, int64_t n);
void cpu_multiply_gradient(const struct placed *w, float *const d[NUMBERS], const float *dy, int64_t dy_stride,
                           const float *x, int64_t x_stride, int64_t n);
void cpu_gemm_back(const float *y, int64_t y_stride, const float *w, int64_t w_stride, float beta, float *x,
                   int64_t x_stride, int64_t n, int64_t rows, int64_t columns);
void cpu_gemm_gradient(float *w, int64_t w_stride, const float *y, int64_t y_stride, const float *x, int64_t x_stride,
                       int64_t n, int64_t rows, int64_t columns);

void cpu_attend(const struct attention *attention);
void cpu_attend_back(const struct attention_back *back, int count);
void cpu_permute(float *y, const float *x, int rank, const int64_t *shape, const int *axes);

void cpu_rms_norm_back(float *dx, bool add, float *dweight, const float *dy, const float *x, int64_t stride,
                       const float *weight, int64_t n, int64_t d, double epsilon);
void cpu_silu_multiply_back(float *gate, float *up, const float *dy, int64_t count);
void cpu_loss(float *logits, const struct loss_rows *rows, float factor, int64_t n, int64_t d, double *cost);
void cpu_deviation(float *dx, bool add, const float *x, const float *y, const float *weight, int64_t n, int64_t d,
                   double *cost);
double cpu_sum_squares(const float *x, int64_t count);
void cpu_adamw(float *x, const float *dx, float *mean, float *square, const struct adamw *step, int64_t count);

#endif
