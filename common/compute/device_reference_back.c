/* device_reference_back.c - the definition of every operation that training adds: plain loops, sums in double. */
#include "base/memory.h"
#include "compute/device_reference.h"
#include "tensor/scales.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t matrix_columns(const struct tensor *tensor)
{
    int64_t rows = tensor->rank == 2 ? tensor->shape[0] : tensor->shape[0] * tensor->shape[1];

    return rows ? tensor_count(tensor) / rows : 0;
}

struct placed *reference_place_trained(struct tensor *tensor)
{
    struct reference_matrix *m;
    struct scaling s = {0};
    float *unit = NULL, *scale = NULL, *minimum = NULL;

    /* In one column groups run down the rows: such a matrix is trained as it is, number by number. */
    if (dtype_is_packed(tensor->dtype) && tensor_row_length(tensor) == matrix_columns(tensor)) {
        s = scales_of(tensor);
        unit = xaligned((size_t)tensor_count(tensor), sizeof *unit);
        scale = xaligned((size_t)(s.rows * s.groups), sizeof *scale);
        if (s.minima)
            minimum = xaligned((size_t)(s.rows * s.groups), sizeof *minimum);
        scales_get_units(tensor, 0, s.rows, unit);
        scales_get(tensor, scale, minimum);
    }
    m = (struct reference_matrix *)device_reference.place(tensor, ACTIVATIONS_F32);
    if (unit) {
        free(m->w);
        m->w = unit;
        m->scale = scale;
        m->minimum = minimum;
        m->group = s.group;
        m->groups = s.groups;
    }
    return &m->placed;
}

float *reference_numbers(const struct placed *w, enum numbers which, int64_t *count)
{
    const struct reference_matrix *m = (const struct reference_matrix *)w;
    float *all[NUMBERS] = {m->scale ? NULL : m->w, m->scale, m->minimum};

    *count = all[which] ? w->rows * (which == NUMBERS_VALUES ? w->columns : m->groups) : 0;
    return all[which];
}

void reference_multiply_back(const struct placed *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                             bool add, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < w->columns; j++) {
            float *out = dx + i * dx_stride + j;
            double sum = add ? (double)*out : 0;

            for (int64_t r = 0; r < w->rows; r++)
                sum += (double)dy[i * dy_stride + r] * reference_weight((const struct reference_matrix *)w, r, j);
            *out = (float)sum;
        }
}

void reference_multiply_gradient(const struct placed *w, float *const d[NUMBERS], const float *dy, int64_t dy_stride,
                                 const float *x, int64_t x_stride, int64_t n)
{
    const struct reference_matrix *m = (const struct reference_matrix *)w;
    double *row = xmallocarray((size_t)w->columns, sizeof *row);

    for (int64_t r = 0; r < w->rows; r++) {
        memset(row, 0, (size_t)w->columns * sizeof *row);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < w->columns; j++)
                row[j] += (double)dy[i * dy_stride + r] * (double)x[i * x_stride + j];
        for (int64_t first = 0; first < w->columns; first += m->scale ? m->group : w->columns) {
            int64_t end = m->scale && first + m->group < w->columns ? first + m->group : w->columns;
            int64_t at = m->scale ? r * m->groups + first / m->group : 0;
            double scale = 0, minimum = 0;

            for (int64_t j = first; j < end; j++) {
                scale += row[j] * (double)m->w[r * w->columns + j];
                minimum += row[j];
                if (!m->scale && d[NUMBERS_VALUES])
                    d[NUMBERS_VALUES][r * w->columns + j] += (float)row[j];
            }
            if (m->scale && d[NUMBERS_SCALES])
                d[NUMBERS_SCALES][at] += (float)scale;
            if (m->minimum && d[NUMBERS_MINIMA])
                d[NUMBERS_MINIMA][at] += (float)minimum;
        }
    }
    free(row);
}

void reference_gemm_back(const float *y, int64_t y_stride, const float *w, int64_t w_stride, float beta, float *x,
                         int64_t x_stride, int64_t n, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < columns; j++) {
            float *out = x + i * x_stride + j;
            double sum = 0;

            for (int64_t r = 0; r < rows; r++)
                sum += (double)y[i * y_stride + r] * (double)w[r * w_stride + j];
            *out = (float)(sum + (beta != 0 ? (double)beta * *out : 0));
        }
}

void reference_gemm_gradient(float *w, int64_t w_stride, const float *y, int64_t y_stride, const float *x,
                             int64_t x_stride, int64_t n, int64_t rows, int64_t columns)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++) {
            double sum = 0;

            for (int64_t i = 0; i < n; i++)
                sum += (double)y[i * y_stride + r] * (double)x[i * x_stride + j];
            w[r * w_stride + j] += (float)sum;
        }
}

/* With f = 1 / sqrt(mean(x^2) + epsilon): dx = f (w dy) - x f^3 / d sum(w dy x). */
void reference_rms_norm_back(float *dx, bool add, float *dweight, const float *dy, const float *x, int64_t stride,
                             const float *weight, int64_t n, int64_t d, double epsilon)
{
    double *sum = xcalloc((size_t)d, sizeof *sum);

    for (int64_t i = 0; i < n; i++, x += stride, dx += stride, dy += stride) {
        double square = 0, dot = 0, f;

        for (int64_t j = 0; j < d; j++) {
            square += (double)x[j] * (double)x[j];
            dot += (double)weight[j] * (double)dy[j] * (double)x[j];
        }
        f = 1 / sqrt(square / (double)d + epsilon);
        for (int64_t j = 0; j < d; j++) {
            double change = f * weight[j] * dy[j] - x[j] * f * f * f / (double)d * dot;

            sum[j] += (double)dy[j] * x[j] * f;
            dx[j] = (float)(add ? dx[j] + change : change);
        }
    }
    for (int64_t j = 0; dweight && j < d; j++)
        dweight[j] += (float)sum[j];
    free(sum);
}

/* p = exp(s - lse), o = sum p v; ds = p (do v - do o), dq = scale ds k, dk = scale ds q, dv = p do. */
static void attend_back_query(const struct attention_back *b, int64_t i, int64_t head, double *dk, double *dv,
                              double *dq)
{
    const struct attention *a = b->forward;
    int64_t width = a->n_kv_head * a->head_dim, column = head * a->head_dim;
    int64_t kv_column = head / (a->n_head / a->n_kv_head) * a->head_dim;
    int64_t first = a->window > 0 && i + 1 > a->window ? i + 1 - a->window : 0;
    const float *q = a->q + i * a->q_stride + column, *dout = b->dout + i * a->out_stride + column;
    const float *out = a->out + i * a->out_stride + column;
    double inner = 0;

    memset(dq, 0, (size_t)a->head_dim * sizeof *dq);
    for (int64_t j = 0; j < a->head_dim; j++)
        inner += (double)dout[j] * (double)out[j];
    for (int64_t p = first; p <= i; p++) {
        const float *k = a->k + p * a->kv_stride + kv_column, *v = a->v + p * a->kv_stride + kv_column;
        double score = 0, dp = 0, weight, ds;

        for (int64_t j = 0; j < a->head_dim; j++) {
            score += (double)q[j] * (double)k[j];
            dp += (double)dout[j] * (double)v[j];
        }
        weight = exp(score * (double)a->scale - (double)a->lse[i * a->n_head + head]);
        ds = weight * (dp - inner) * (double)a->scale;
        for (int64_t j = 0; j < a->head_dim; j++) {
            dq[j] += ds * (double)k[j];
            dk[p * width + kv_column + j] += ds * (double)q[j];
            dv[p * width + kv_column + j] += weight * (double)dout[j];
        }
    }
    for (int64_t j = 0; j < a->head_dim; j++)
        b->dq[i * a->q_stride + column + j] = (float)dq[j];
}

void reference_attend_back(const struct attention_back *back, int count)
{
    for (const struct attention_back *b = back; b < back + count; b++) {
        const struct attention *a = b->forward;
        int64_t width = a->n_kv_head * a->head_dim;
        double *dk = xcalloc((size_t)(2 * a->n * width + a->head_dim), sizeof *dk), *dv = dk + a->n * width;

        for (int64_t i = 0; i < a->n; i++)
            for (int64_t head = 0; head < a->n_head; head++)
                attend_back_query(b, i, head, dk, dv, dv + a->n * width);
        for (int64_t p = 0; p < a->n; p++)
            for (int64_t j = 0; j < width; j++) {
                b->dk[p * a->kv_stride + j] = (float)dk[p * width + j];
                b->dv[p * a->kv_stride + j] = (float)dv[p * width + j];
            }
        free(dk);
    }
}

void reference_silu_multiply_back(float *gate, float *up, const float *dy, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double x = gate[i], logistic = 1 / (1 + exp(-x)), d = dy[i];

        gate[i] = (float)(d * up[i] * logistic * (1 + x * (1 - logistic)));
        up[i] = (float)(d * x * logistic);
    }
}

static void loss_row(float *x, const struct loss_rows *rows, float factor, int64_t i, int64_t d, double cost[2])
{
    double cross = rows->cross[i], distill = rows->distill[i], lse = rows->lse[i];

    cost[0] = cross != 0 ? lse - x[rows->target[i]] : 0;
    cost[1] = 0;
    for (int64_t j = 0; j < d; j++) {
        double p = exp(x[j] - lse), gradient = (cross + distill) * p;

        if (distill != 0) {
            double left = rows->teacher[i * d + j] - rows->teacher_lse[i], q = exp(left);

            cost[1] += q != 0 ? q * (left - (x[j] - lse)) : 0;
            gradient -= distill * q;
        }
        if (cross != 0 && j == rows->target[i])
            gradient -= cross;
        x[j] = (float)(gradient * factor);
    }
}

/* log(sum(exp(x))) of the numbers that are not among the k ids. */
static double lse_of_others(const float *x, int64_t d, const int32_t *id, int64_t k)
{
    double largest = -INFINITY, sum = 0;

    for (int64_t j = 0, at = 0; j < d; j++)
        if (at < k && j == id[at])
            at++;
        else
            largest = fmax(largest, x[j]);
    for (int64_t j = 0, at = 0; j < d; j++)
        if (at < k && j == id[at])
            at++;
        else
            sum += exp(x[j] - largest);
    return sum != 0 ? largest + log(sum) : -INFINITY;
}

/* Of the others q r / s = r exp(x - their lse). */
static void loss_top_row(float *x, const struct loss_rows *rows, float factor, int64_t i, int64_t d, double cost[2])
{
    const struct loss_top *top = rows->top;
    const int32_t *id = top->id + i * top->k;
    double cross = rows->cross[i], distill = rows->distill[i], lse = rows->lse[i], rest = top->rest[i];
    double others = rest > 0 ? lse_of_others(x, d, id, top->k) : 0;

    cost[0] = cross != 0 ? lse - x[rows->target[i]] : 0;
    cost[1] = rest > 0 ? rest * (log(rest) - (others - lse)) : 0;
    for (int64_t j = 0, at = 0; j < d; j++) {
        double gradient = (cross + distill) * exp(x[j] - lse), p = rest > 0 ? rest * exp(x[j] - others) : 0;

        if (at < top->k && j == id[at]) {
            double left = top->log_p[i * top->k + at++];

            p = exp(left);
            cost[1] += p * (left - (x[j] - lse));
        }
        gradient -= distill * p;
        if (cross != 0 && j == rows->target[i])
            gradient -= cross;
        x[j] = (float)(gradient * factor);
    }
}

void reference_loss(float *logits, const struct loss_rows *rows, float factor, int64_t n, int64_t d, double *cost)
{
    for (int64_t i = 0; i < n; i++) {
        double both[2];

        if (rows->top && rows->distill[i] != 0)
            loss_top_row(logits + i * d, rows, factor, i, d, both);
        else
            loss_row(logits + i * d, rows, factor, i, d, both);
        cost[i] = both[0];
        cost[n + i] = both[1];
    }
}

void reference_deviation(float *dx, bool add, const float *x, const float *y, const float *weight, int64_t n, int64_t d,
                         double *cost)
{
    for (int64_t i = 0; i < n; i++, dx += d, x += d, y += d) {
        double apart = 0, size = 0;

        for (int64_t j = 0; j < d; j++) {
            apart += ((double)x[j] - (double)y[j]) * ((double)x[j] - (double)y[j]);
            size += (double)y[j] * (double)y[j];
        }
        cost[i] = weight[i] != 0 ? apart / size : 0;
        for (int64_t j = 0; j < d; j++) {
            double slope = weight[i] != 0 ? 2 * (double)weight[i] / size * ((double)x[j] - (double)y[j]) : 0;

            dx[j] = (float)(slope + (add ? dx[j] : 0));
        }
    }
}

double reference_sum_squares(const float *x, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

void reference_adamw(float *x, const float *dx, float *mean, float *square, const struct adamw *s, int64_t count)
{
    double first = 1 - pow(s->beta1, (double)s->step), second = 1 - pow(s->beta2, (double)s->step);

    for (int64_t i = 0; i < count; i++) {
        double g = dx[i] * s->factor, w = x[i] * (1 - s->rate * s->decay);

        mean[i] = (float)(s->beta1 * mean[i] + (1 - s->beta1) * g);
        square[i] = (float)(s->beta2 * square[i] + (1 - s->beta2) * g * g);
        x[i] = (float)(w - s->rate * (mean[i] / first) / (sqrt(square[i] / second) + s->epsilon));
    }
}
