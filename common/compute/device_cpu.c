/* device_cpu.c - the fast device on the host: the table, and the operations on rows. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 14 };        /* elements per item: less isn't worth a second thread */

static const struct kernels *chosen;

const struct kernels *cpu_kernels(void)
{
    if (!chosen)
        chosen = kernels_best();
    return chosen;
}

void cpu_kernels_set(const struct kernels *kernels)
{
    chosen = kernels;
}

static enum products products;

bool cpu_products(enum products wanted)
{
    if (wanted == PRODUCTS_BF16 && !kernels_pairs(cpu_kernels()))
        return false;
    products = wanted;
    return true;
}

const struct pair_kernels *cpu_pairs(void)
{
    return products == PRODUCTS_BF16 ? kernels_pairs(cpu_kernels()) : NULL;
}

void *cpu_scratch(enum scratch purpose, size_t bytes)
{
    static struct {
        void *memory;
        size_t bytes;
    } kept[SCRATCHES];

    if (kept[purpose].bytes < bytes) {
        free(kept[purpose].memory);
        kept[purpose].memory = xaligned(bytes, 1);
        kept[purpose].bytes = bytes;
    }
    return kept[purpose].memory;
}

static void *allocate(size_t bytes)
{
    return xaligned(bytes, 1);
}

static void move(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

/* An operation on n rows of d, or on count elements (n == count, d == 1), in pieces. */
struct rows {
    const struct kernels *kernels;
    void (*one)(const struct rows *rows, int64_t first, int64_t count);
    float *y;
    const float *x, *weight, *sine;
    const int32_t *position;
    int64_t y_stride, x_stride, n, d, piece, heads;
    const struct hadamard *turn;
    bool inverse;
    double factor;
    const double *p_lse, *q_lse;
    double *result;
    int32_t *argmax;
};

static void rows_item(void *context, int64_t item, int thread)
{
    const struct rows *p = context;
    int64_t first = item * p->piece;

    (void)thread;
    p->one(p, first, p->n - first < p->piece ? p->n - first : p->piece);
}

static void rows_run(struct rows p)
{
    int64_t width = p.d > 0 ? p.d : 1;

    p.kernels = cpu_kernels();
    p.piece = width < PIECE ? PIECE / width : 1;
    if (p.n > p.piece)
        parallel_for((p.n + p.piece - 1) / p.piece, rows_item, &p);
    else if (p.n > 0)
        p.one(&p, 0, p.n);
}

static void copy_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++)
        move(p->y + i * p->y_stride, p->x + i * p->x_stride, (size_t)p->d * sizeof *p->y);
}

static void copy(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t n, int64_t d)
{
    rows_run((struct rows){.one = copy_rows, .y = y, .x = x, .y_stride = y_stride, .x_stride = x_stride, .n = n,
                           .d = d});
}

static void clear_rows(const struct rows *p, int64_t first, int64_t count)
{
    memset(p->y + first, 0, (size_t)count * sizeof *p->y);
}

static void clear(float *x, int64_t count)
{
    rows_run((struct rows){.one = clear_rows, .y = x, .n = count, .d = 1});
}

static void rms_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++)
        p->kernels->rms_norm(p->y + i * p->y_stride, p->x + i * p->y_stride, p->weight, p->d, p->factor);
}

static void rms_norm(float *y, const float *x, int64_t stride, const float *weight, int64_t n, int64_t d,
                     double epsilon)
{
    rows_run((struct rows){.one = rms_rows, .y = y, .x = x, .y_stride = stride, .n = n, .d = d, .weight = weight,
                           .factor = epsilon});
}

static void rope_rows(const struct rows *p, int64_t first, int64_t count)
{
    int64_t dim = p->d / p->heads, half = dim / 2;

    for (int64_t i = first; i < first + count; i++)
        p->kernels->rope(p->y + i * p->y_stride, p->heads, dim, p->weight + p->position[i] * half,
                         p->sine + p->position[i] * half);
}

static void rope(float *x, int64_t stride, int64_t n, int64_t n_head, int64_t head_dim, const int32_t *position,
                 const float *cosine, const float *sine)
{
    if (n_head > 0)
        rows_run((struct rows){.one = rope_rows, .y = x, .y_stride = stride, .n = n, .d = n_head * head_dim,
                               .heads = n_head, .position = position, .weight = cosine, .sine = sine});
}

static void hadamard_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++)
        p->kernels->hadamard(p->y + i * p->y_stride, p->x + i * p->x_stride, p->turn, p->inverse, p->d);
}

static void hadamard(float *y, int64_t y_stride, const float *x, int64_t x_stride, const struct hadamard *turn,
                     bool inverse, int64_t n, int64_t d)
{
    rows_run((struct rows){.one = hadamard_rows, .y = y, .x = x, .y_stride = y_stride, .x_stride = x_stride, .n = n,
                           .d = d, .turn = turn, .inverse = inverse});
}

static void silu_rows(const struct rows *p, int64_t first, int64_t count)
{
    p->kernels->silu_multiply(p->y + first, p->x + first, count);
}

static void silu_multiply(float *gate, const float *up, int64_t count)
{
    rows_run((struct rows){.one = silu_rows, .y = gate, .x = up, .n = count, .d = 1});
}

static void add_rows(const struct rows *p, int64_t first, int64_t count)
{
    p->kernels->add_scaled(p->y + first, p->x + first, (float)p->factor, count);
}

static void add_scaled(float *x, const float *y, float factor, int64_t count)
{
    rows_run((struct rows){.one = add_rows, .y = x, .x = y, .n = count, .d = 1, .factor = factor});
}

static void bias_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++)
        p->kernels->add_scaled(p->y + i * p->y_stride, p->weight, 1, p->d);
}

static void add_bias(float *y, int64_t stride, const float *bias, int64_t n, int64_t d)
{
    rows_run((struct rows){.one = bias_rows, .y = y, .y_stride = stride, .weight = bias, .n = n, .d = d});
}

static void scale_rows(const struct rows *p, int64_t first, int64_t count)
{
    p->kernels->scale(p->y + first, (float)p->factor, count);
}

static void scale(float *x, float factor, int64_t count)
{
    rows_run((struct rows){.one = scale_rows, .y = x, .n = count, .d = 1, .factor = factor});
}

static void log_sum_exp_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++) {
        double lse = p->kernels->log_sum_exp(p->x + i * p->d, p->d, p->argmax ? p->argmax + i : NULL);

        if (p->result)
            p->result[i] = lse;
    }
}

static void log_sum_exp(const float *logits, int64_t n, int64_t d, double *lse, int32_t *argmax)
{
    rows_run((struct rows){.one = log_sum_exp_rows, .x = logits, .n = n, .d = d, .result = lse, .argmax = argmax});
}

static void divergence_rows(const struct rows *p, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++)
        p->result[i] = p->kernels->divergence(p->x + i * p->d, p->p_lse[i], p->weight + i * p->d, p->q_lse[i], p->d);
}

static void divergence(const float *p, const double *p_lse, const float *q, const double *q_lse, int64_t n, int64_t d,
                       double *kl)
{
    rows_run((struct rows){.one = divergence_rows, .x = p, .p_lse = p_lse, .weight = q, .q_lse = q_lse, .n = n, .d = d,
                           .result = kl});
}

const struct device device_cpu = {
    .name = "cpu", .allocate = allocate, .release = free, .upload = move, .download = move, .copy = copy,
    .clear = clear,
    .place = cpu_place, .displace = cpu_displace, .products = cpu_products, .multiply = cpu_multiply, .gather = cpu_gather, .gemm = cpu_gemm,
    .permute = cpu_permute, .rms_norm = rms_norm, .rope = rope, .hadamard = hadamard, .attend = cpu_attend,
    .silu_multiply = silu_multiply, .add_scaled = add_scaled, .add_bias = add_bias, .scale = scale,
    .log_sum_exp = log_sum_exp, .divergence = divergence, .place_trained = cpu_place_trained, .numbers = cpu_numbers,
    .multiply_back = cpu_multiply_back, .multiply_gradient = cpu_multiply_gradient, .gemm_back = cpu_gemm_back,
    .gemm_gradient = cpu_gemm_gradient, .rms_norm_back = cpu_rms_norm_back, .attend_back = cpu_attend_back,
    .silu_multiply_back = cpu_silu_multiply_back, .loss = cpu_loss, .deviation = cpu_deviation,
    .sum_squares = cpu_sum_squares, .adamw = cpu_adamw,
};
