/* device_reference.c - the definition of every operation: plain loops on the host, sums in double. Matrices are kept as
 * f32, whatever they were stored in. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/device_reference.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(size_t bytes)
{
    return xaligned(bytes, 1);
}

static void move(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

static void copy(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t n, int64_t d)
{
    for (int64_t i = 0; i < n; i++)
        move(y + i * y_stride, x + i * x_stride, (size_t)d * sizeof *y);
}

static void clear(float *x, int64_t count)
{
    memset(x, 0, (size_t)count * sizeof *x);
}

static struct placed *place(struct tensor *tensor, enum activations activations)
{
    struct reference_matrix *matrix = xcalloc(1, sizeof *matrix);
    int64_t count = tensor_count(tensor), rows = tensor->rank == 2 ? tensor->shape[0] : 0;

    assert(dtype_is_real(tensor->dtype) && (tensor->rank == 2 || tensor->rank == 4));
    if (tensor->rank == 4)       /* [1, r, c, 1], [1, r, 1, c] or [r, 1, c, 1] */
        rows = tensor->shape[0] * tensor->shape[1];
    matrix->placed = (struct placed){.rows = rows, .columns = rows ? count / rows : 0, .dtype = tensor->dtype,
                                     .activations = activations, .bytes = count * (int64_t)sizeof(float)};
    matrix->w = xaligned((size_t)count, sizeof *matrix->w);
    tensor_get(tensor, matrix->w);
    tensor_free(tensor);
    return &matrix->placed;
}

static void displace(struct placed *placed)
{
    struct reference_matrix *matrix = (struct reference_matrix *)placed;

    if (!matrix)
        return;
    free(matrix->w);
    free(matrix->scale);
    free(matrix->minimum);
    free(matrix);
}

/* x rounded to 8 bits in groups and back. A group with a magnitude that isn't finite becomes NaN; one whose scale is
 * below the normal numbers counts as zero. */
static void round_row(const float *x, int64_t columns, float *out)
{
    for (int64_t first = 0; first < columns; first += ACTIVATION_GROUP) {
        int64_t end = first + ACTIVATION_GROUP < columns ? first + ACTIVATION_GROUP : columns;
        float most = 0, scale;

        for (int64_t j = first; j < end; j++)
            most = isfinite(x[j]) ? fmaxf(most, fabsf(x[j])) : INFINITY;
        scale = most / 127;
        for (int64_t j = first; j < end; j++)
            out[j] = most > FLT_MAX ? NAN : scale < FLT_MIN ? 0 : rintf(x[j] / scale) * scale;
    }
}

struct multiplication {
    const struct reference_matrix *w;
    const float *x;
    int64_t x_stride, n, stride;
    float *y;
    bool add;
};

static void multiply_row(void *context, int64_t row, int thread)
{
    const struct multiplication *m = context;
    int64_t columns = m->w->placed.columns;

    (void)thread;
    for (int64_t i = 0; i < m->n; i++) {
        float *y = m->y + i * m->stride + row;
        double sum = 0;

        for (int64_t j = 0; j < columns; j++)
            sum += (double)m->x[i * m->x_stride + j] * reference_weight(m->w, row, j);
        *y = (float)(m->add ? *y + sum : sum);
    }
}

static void multiply(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n)
{
    for (int p = 0; p < count; p++) {
        const struct placed *w = product[p].w;
        struct multiplication m = {(const struct reference_matrix *)w, x, x_stride, n, product[p].stride, product[p].y,
                                   product[p].add};
        float *rounded = NULL;

        if (w->activations == ACTIVATIONS_INT8 && dtype_is_packed(w->dtype)) {
            rounded = xmallocarray((size_t)(n * w->columns), sizeof *rounded);
            for (int64_t i = 0; i < n; i++)
                round_row(x + i * x_stride, w->columns, rounded + i * w->columns);
            m.x = rounded;
            m.x_stride = w->columns;
        }
        parallel_for(w->rows, multiply_row, &m);
        free(rounded);
    }
}

static void gather(const struct placed *w, const int32_t *index, int64_t n, float *y, int64_t stride)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < w->columns; j++)
            y[i * stride + j] = (float)reference_weight((const struct reference_matrix *)w, index[i], j);
}

static void gemm(float alpha, const float *x, int64_t x_stride, const float *w, int64_t w_stride, float beta, float *y,
                 int64_t y_stride, int64_t n, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows; r++) {
            float *out = y + i * y_stride + r;
            double sum = 0;

            for (int64_t j = 0; j < columns; j++)
                sum += (double)x[i * x_stride + j] * (double)w[r * w_stride + j];
            *out = (float)((double)alpha * sum + (beta != 0 ? (double)beta * *out : 0));
        }
}

static void permute(float *y, const float *x, int rank, const int64_t *shape, const int *axes)
{
    int64_t stride[TENSOR_RANK] = {0}, step[TENSOR_RANK], index[TENSOR_RANK] = {0}, count = 1, at = 0;

    for (int axis = rank - 1; axis >= 0; axis--) {
        stride[axis] = count;
        count *= shape[axis];
    }
    for (int axis = 0; axis < rank; axis++)
        step[axis] = stride[axes[axis]];
    for (int64_t i = 0; i < count; i++) {
        y[i] = x[at];
        for (int axis = rank - 1; axis >= 0; axis--) {
            at += step[axis];
            if (++index[axis] < shape[axes[axis]])
                break;
            at -= step[axis] * index[axis];
            index[axis] = 0;
        }
    }
}

static void rms_norm(float *y, const float *x, int64_t stride, const float *weight, int64_t n, int64_t d,
                     double epsilon)
{
    for (int64_t i = 0; i < n; i++, x += stride, y += stride) {
        double sum = 0, factor;

        for (int64_t j = 0; j < d; j++)
            sum += (double)x[j] * (double)x[j];
        factor = 1 / sqrt(sum / (double)d + epsilon);
        for (int64_t j = 0; j < d; j++)
            y[j] = (float)(x[j] * factor * weight[j]);
    }
}

static void rope(float *x, int64_t stride, int64_t n, int64_t n_head, int64_t head_dim, const int32_t *position,
                 const float *cosine, const float *sine)
{
    int64_t half = head_dim / 2;

    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < n_head; h++)
            for (int64_t j = 0; j < half; j++) {
                float *a = x + i * stride + h * head_dim + j, *b = a + half;
                double c = cosine[position[i] * half + j], s = sine[position[i] * half + j], left = *a, right = *b;

                *a = (float)(left * c - right * s);
                *b = (float)(right * c + left * s);
            }
}

/* One span: first its blocks, then the sums over blocks. */
static void hadamard_span(float *y, const float *x, const float *sign, const struct hadamard *turn, bool inverse,
                          double *turned)
{
    int64_t block = turn->block, span = block * turn->mix;

    for (int64_t i = 0; i < span; i++) {
        turned[i] = 0;
        for (int64_t j = i / block * block; j < (i / block + 1) * block; j++) {
            double term = (double)x[j] * (inverse ? 1.0 : (double)sign[j]);

            turned[i] += __builtin_parityll((uint64_t)(i & j & (block - 1))) ? -term : term;
        }
    }
    for (int64_t i = 0; i < span; i++) {
        double sum = turn->mix > 1 ? 0 : turned[i];

        for (int64_t l = 0; l < turn->mix && turn->mix > 1; l++)
            sum += (double)turn->hartley[i / block * turn->mix + l] * turned[l * block + i % block];
        y[i] = (float)(sum / sqrt((double)block) * (inverse ? (double)sign[i] : 1.0));
    }
}

static void hadamard(float *y, int64_t y_stride, const float *x, int64_t x_stride, const struct hadamard *turn,
                     bool inverse, int64_t n, int64_t d)
{
    int64_t span = turn->block * turn->mix;
    double *turned = xmallocarray((size_t)span, sizeof *turned);

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j += span)
            hadamard_span(y + i * y_stride + j, x + i * x_stride + j, turn->sign + j, turn, inverse, turned);
    free(turned);
}

/* One query of one head: weight and sum hold doubles for all positions and for head_dim. */
static void attend_query(const struct attention *a, int64_t i, int64_t head, double *weight, double *sum)
{
    const float *q = a->q + i * a->q_stride + head * a->head_dim;
    float *out = a->out + i * a->out_stride + head * a->head_dim;
    int64_t column = head / (a->n_head / a->n_kv_head) * a->head_dim, end = a->past + i + 1;
    int64_t first = a->window > 0 && end > a->window ? end - a->window : 0;
    double most = -INFINITY, total = 0;

    for (int64_t p = first; p < end; p++) {
        const float *k = a->k + (p < a->shared ? p : a->own + p - a->shared) * a->kv_stride + column;
        double dot = 0;

        for (int64_t j = 0; j < a->head_dim; j++)
            dot += (double)q[j] * (double)k[j];
        weight[p] = dot * (double)a->scale;
        most = weight[p] > most ? weight[p] : most;
    }
    memset(sum, 0, (size_t)a->head_dim * sizeof *sum);
    for (int64_t p = first; p < end; p++) {
        const float *v = a->v + (p < a->shared ? p : a->own + p - a->shared) * a->kv_stride + column;
        double factor = exp(weight[p] - most);

        total += factor;
        for (int64_t j = 0; j < a->head_dim; j++)
            sum[j] += factor * (double)v[j];
    }
    for (int64_t j = 0; j < a->head_dim; j++)
        out[j] = (float)(sum[j] / total);
    if (a->lse)
        a->lse[i * a->n_head + head] = (float)(most + log(total));
}

static void attend_head(void *context, int64_t head, int thread)
{
    const struct attention *a = context;
    double *space = xmallocarray((size_t)(a->past + a->n + a->head_dim), sizeof *space);

    (void)thread;
    for (int64_t i = 0; i < a->n; i++)
        attend_query(a, i, head, space, space + a->past + a->n);
    free(space);
}

static void attend(const struct attention *attention)
{
    parallel_for(attention->n_head, attend_head, (void *)attention);
}

static void silu_multiply(float *gate, const float *up, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static void add_scaled(float *x, const float *y, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] += factor * y[i];
}

static void add_bias(float *y, int64_t stride, const float *bias, int64_t n, int64_t d)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            y[i * stride + j] += bias[j];
}

static void scale(float *x, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

static void log_sum_exp(const float *logits, int64_t n, int64_t d, double *lse, int32_t *argmax)
{
    for (int64_t i = 0; i < n; i++) {
        const float *x = logits + i * d;
        int64_t best = 0;
        double sum = 0;

        for (int64_t j = 0; j < d; j++)
            if (isnan(x[j]) || (!isnan(x[best]) && x[j] > x[best]))
                best = j;
        for (int64_t j = 0; j < d; j++)
            sum += exp((double)x[j] - (double)x[best]);
        if (lse)
            lse[i] = d == 0 ? -INFINITY : isinf(x[best]) ? x[best] : x[best] + log(sum);
        if (argmax)
            argmax[i] = d == 0 || isnan(x[best]) ? -1 : (int32_t)best;
    }
}

static void divergence(const float *p, const double *p_lse, const float *q, const double *q_lse, int64_t n, int64_t d,
                       double *kl)
{
    for (int64_t i = 0; i < n; i++) {
        kl[i] = 0;
        for (int64_t j = 0; j < d; j++) {
            double left = p[i * d + j] - p_lse[i], right = q[i * d + j] - q_lse[i], weight = exp(left);

            if (weight != 0)     /* 0 log 0 = 0; NaN goes on */
                kl[i] += weight * (left - right);
        }
    }
}

static bool set_products(enum products products)
{
    return products == PRODUCTS_F32;
}

const struct device device_reference = {
    .name = "reference", .allocate = allocate, .release = free, .upload = move, .download = move, .copy = copy,
    .clear = clear,
    .place = place, .displace = displace, .products = set_products, .multiply = multiply, .gather = gather, .gemm = gemm,
    .permute = permute,
    .rms_norm = rms_norm, .rope = rope, .hadamard = hadamard, .attend = attend, .silu_multiply = silu_multiply,
    .add_scaled = add_scaled, .add_bias = add_bias, .scale = scale, .log_sum_exp = log_sum_exp,
    .divergence = divergence, .place_trained = reference_place_trained, .numbers = reference_numbers,
    .multiply_back = reference_multiply_back, .multiply_gradient = reference_multiply_gradient,
    .gemm_back = reference_gemm_back, .gemm_gradient = reference_gemm_gradient,
    .rms_norm_back = reference_rms_norm_back, .attend_back = reference_attend_back,
    .silu_multiply_back = reference_silu_multiply_back, .loss = reference_loss, .deviation = reference_deviation,
    .sum_squares = reference_sum_squares, .adamw = reference_adamw,
};
