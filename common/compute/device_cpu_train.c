/* device_cpu_train.c - what training adds to the fast device: matrices that change, and the backward passes of products
 * and of operations on rows. */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"
#include "tensor/scales.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BAND = 512,                  /* rows of a packed matrix that are f32 at a time */
    UNPACKED = 16,               /* that an item unpacks */
    SUMMED = 64,                 /* rows whose scales' gradients are summed by one item */
    PIECE = 1 << 14,             /* elements per item */
    NORM_ROWS = 64,              /* rows whose gradients of a norm's weight are summed by one item */
};

/* ---- matrices ---- */

/* Codes as they are, in strips where there are whole ones, and f32 scales and minima beside. */
static struct placed *place_scaled(struct tensor *tensor)
{
    struct cpu_matrix *matrix = xcalloc(1, sizeof *matrix);
    struct scaling s = scales_of(tensor);
    size_t count = (size_t)(s.rows * s.groups);

    matrix->placed = (struct placed){.rows = s.rows, .columns = s.length, .dtype = tensor->dtype,
                                     .activations = ACTIVATIONS_F32, .bytes = tensor->bytes};
    matrix->group = s.group;
    matrix->groups = s.groups;
    matrix->scale = xaligned(count, sizeof *matrix->scale);
    matrix->minimum = s.minima ? xaligned(count, sizeof *matrix->minimum) : NULL;
    scales_get(tensor, matrix->scale, matrix->minimum);
    if (tensor->dtype.kind != DTYPE_TRELLIS || !cpu_place_strips(matrix, tensor)) {
        matrix->layout = LAYOUT_TRAINED;
        matrix->tensor = *tensor;
    }
    matrix->placed.bytes += (int64_t)(count * sizeof(float) * (s.minima ? 2 : 1));
    *tensor = (struct tensor){0};
    return &matrix->placed;
}

struct placed *cpu_place_trained(struct tensor *tensor)
{
    int64_t rows = tensor->rank == 2 ? tensor->shape[0] : tensor->shape[0] * tensor->shape[1];
    int64_t count = tensor_count(tensor);
    struct tensor wide;

    /* In one column groups run down the rows: such a matrix is trained number by number. */
    if (dtype_is_packed(tensor->dtype) && count && tensor_row_length(tensor) == count / rows)
        return place_scaled(tensor);
    wide = tensor_new(DTYPE(F32), tensor->rank, tensor->shape);
    tensor_get(tensor, (float *)(void *)wide.data);
    tensor_free(tensor);
    return cpu_place(&wide, ACTIVATIONS_F32);
}

float *cpu_numbers(const struct placed *w, enum numbers which, int64_t *count)
{
    const struct cpu_matrix *m = (const struct cpu_matrix *)w;
    bool plain = m->layout == LAYOUT_ROWS && m->kind == DTYPE_F32;
    float *all[NUMBERS] = {plain ? (float *)(void *)m->tensor.data : NULL, m->scale, m->minimum};

    *count = all[which] ? w->rows * (which == NUMBERS_VALUES ? w->columns : m->groups) : 0;
    return all[which];
}

static void scale_row(const struct cpu_matrix *w, int64_t row, float *unit)
{
    for (int64_t g = 0; g < w->groups; g++) {
        float scale = w->scale[row * w->groups + g], minimum = w->minimum ? w->minimum[row * w->groups + g] : 0;

        for (int64_t j = g * w->group; j < least((g + 1) * w->group, w->placed.columns); j++)
            unit[j] = scale * unit[j] + minimum;
    }
}

void cpu_unpack(const struct cpu_matrix *w, int64_t first, int64_t rows, float *out)
{
    if (w->layout != LAYOUT_TRAINED) {
        tensor_get_rows(&w->tensor, first, rows, out);
        return;
    }
    scales_get_units(&w->tensor, first, rows, out);
    for (int64_t r = 0; r < rows; r++)
        scale_row(w, first + r, out + r * w->placed.columns);
}

/* ---- products ---- */

/* A band of a matrix that is unpacked in parallel, or of the gradient of one. */
struct band {
    const struct cpu_matrix *w;
    int64_t first, rows;
    float *values;               /* [rows, columns] */
    float *const *d;
};

static void unpack_item(void *context, int64_t item, int thread)
{
    const struct band *b = context;
    int64_t row = item * UNPACKED;

    (void)thread;
    cpu_unpack(b->w, b->first + row, least(b->rows - row, UNPACKED), b->values + row * b->w->placed.columns);
}

void cpu_multiply_back(const struct placed *placed, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                       bool add, int64_t n)
{
    const struct cpu_matrix *w = (const struct cpu_matrix *)placed;
    struct band b = {.w = w};

    if (w->layout < LAYOUT_STORED) {
        cpu_set_strips(w, w->scale);
        cpu_multiply_lines(w, dy, dy_stride, dx, dx_stride, add, n);
        return;
    }
    b.values = cpu_scratch(SCRATCH_GRADIENT, (size_t)(BAND * placed->columns) * sizeof *b.values);
    for (; b.first < placed->rows; b.first += BAND) {
        b.rows = least(placed->rows - b.first, BAND);
        parallel_for(divide_up(b.rows, UNPACKED), unpack_item, &b);
        cpu_gemm_back(dy + b.first, dy_stride, b.values, placed->columns, add || b.first, dx, dx_stride, n, b.rows,
                      placed->columns);
    }
}

/* values: the gradient of these rows, that of a number the sum over its group. */
static void gather_scales(void *context, int64_t item, int thread)
{
    const struct band *b = context;
    const struct cpu_matrix *w = b->w;
    int64_t columns = w->placed.columns;
    float *unit = xmallocarray((size_t)columns, sizeof *unit);

    (void)thread;
    for (int64_t row = item * UNPACKED; row < least(b->rows, (item + 1) * UNPACKED); row++) {
        const float *value = b->values + row * columns;

        scales_get_units(&w->tensor, b->first + row, 1, unit);
        for (int64_t g = 0; g < w->groups; g++) {
            int64_t at = (b->first + row) * w->groups + g;
            double scale = 0, minimum = 0;

            for (int64_t j = g * w->group; j < least((g + 1) * w->group, columns); j++) {
                scale += (double)value[j] * (double)unit[j];
                minimum += (double)value[j];
            }
            if (b->d[NUMBERS_SCALES])
                b->d[NUMBERS_SCALES][at] += (float)scale;
            if (w->minimum && b->d[NUMBERS_MINIMA])
                b->d[NUMBERS_MINIMA][at] += (float)minimum;
        }
    }
    free(unit);
}

/* Scales of rows: what they multiply is y of scales that are 1. */
struct row_scales {
    const float *dy, *y;
    int64_t dy_stride, n, rows;
    float *d;
};

static void sum_rows(void *context, int64_t item, int thread)
{
    const struct row_scales *s = context;
    int64_t first = item * SUMMED, count = least(s->rows - first, SUMMED);
    double sum[SUMMED] = {0};

    (void)thread;
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t r = 0; r < count; r++)
            sum[r] += (double)s->dy[i * s->dy_stride + first + r] * (double)s->y[i * s->rows + first + r];
    for (int64_t r = 0; r < count; r++)
        s->d[first + r] += (float)sum[r];
}

static void strip_gradient(const struct cpu_matrix *w, float *d, const float *dy, int64_t dy_stride, const float *x,
                           int64_t x_stride, int64_t n)
{
    int64_t rows = w->placed.rows;
    float *y = xmallocarray((size_t)(n * rows), sizeof *y);
    struct row_scales s = {dy, y, dy_stride, n, rows, d};

    cpu_set_strips(w, NULL);
    cpu_multiply_placed(&(struct product){&w->placed, y, rows, false}, 1, x, x_stride, n);
    parallel_for(divide_up(rows, SUMMED), sum_rows, &s);
    free(y);
}

void cpu_multiply_gradient(const struct placed *placed, float *const d[NUMBERS], const float *dy, int64_t dy_stride,
                           const float *x, int64_t x_stride, int64_t n)
{
    const struct cpu_matrix *w = (const struct cpu_matrix *)placed;
    struct band b = {.w = w, .d = d};

    if (!w->scale) {
        if (d[NUMBERS_VALUES])
            cpu_gemm_gradient(d[NUMBERS_VALUES], placed->columns, dy, dy_stride, x, x_stride, n, placed->rows,
                              placed->columns);
        return;
    }
    if (w->layout == LAYOUT_STRIPS) {
        if (d[NUMBERS_SCALES])
            strip_gradient(w, d[NUMBERS_SCALES], dy, dy_stride, x, x_stride, n);
        return;
    }
    b.values = cpu_scratch(SCRATCH_GRADIENT, (size_t)(BAND * placed->columns) * sizeof *b.values);
    for (; b.first < placed->rows; b.first += BAND) {
        b.rows = least(placed->rows - b.first, BAND);
        memset(b.values, 0, (size_t)(b.rows * placed->columns) * sizeof *b.values);
        cpu_gemm_gradient(b.values, placed->columns, dy + b.first, dy_stride, x, x_stride, n, b.rows, placed->columns);
        parallel_for(divide_up(b.rows, UNPACKED), gather_scales, &b);
    }
}

/* ---- rows ---- */

struct norm_back {
    const struct kernels *kernels;
    float *dx, *partial;         /* partial [items, d]: sums for the weight; NULL: not wanted */
    const float *dy, *x, *weight;
    int64_t stride, n, d, item_rows;
    double epsilon;
    bool add;
};

static void norm_item(void *context, int64_t item, int thread)
{
    const struct norm_back *b = context;
    float *sum = b->partial ? b->partial + item * b->d : NULL;

    (void)thread;
    if (sum)
        memset(sum, 0, (size_t)b->d * sizeof *sum);
    for (int64_t i = item * b->item_rows; i < least(b->n, (item + 1) * b->item_rows); i++)
        b->kernels->rms_norm_back(b->dx + i * b->stride, b->add, sum, b->dy + i * b->stride, b->x + i * b->stride,
                                  b->weight, b->d, b->epsilon);
}

void cpu_rms_norm_back(float *dx, bool add, float *dweight, const float *dy, const float *x, int64_t stride,
                       const float *weight, int64_t n, int64_t d, double epsilon)
{
    struct norm_back b = {.kernels = cpu_kernels(), .dx = dx, .dy = dy, .x = x, .weight = weight, .stride = stride,
                          .n = n, .d = d, .epsilon = epsilon, .add = add,
                          .item_rows = most(NORM_ROWS, PIECE / (d + 1))};
    int64_t items = divide_up(n, b.item_rows);

    if (dweight)
        b.partial = cpu_scratch(SCRATCH_GRADIENT, (size_t)(items * d) * sizeof *b.partial);
    parallel_for(items, norm_item, &b);
    for (int64_t j = 0; dweight && j < d; j++) {
        double sum = 0;

        for (int64_t item = 0; item < items; item++)
            sum += (double)b.partial[item * d + j];
        dweight[j] += (float)sum;
    }
}

/* Operations on count numbers, or on n rows, in pieces. */
struct pieces {
    const struct kernels *kernels;
    float *x, *up, *mean, *square;
    const float *dx;
    int64_t count, d;
    const struct adamw *step;
    double first, second, *result;
    const struct loss_rows *rows;
    float factor;
};

static void silu_piece(void *context, int64_t item, int thread)
{
    const struct pieces *p = context;
    int64_t at = item * PIECE;

    (void)thread;
    p->kernels->silu_multiply_back(p->x + at, p->up + at, p->dx + at, least(p->count - at, PIECE));
}

void cpu_silu_multiply_back(float *gate, float *up, const float *dy, int64_t count)
{
    struct pieces p = {.kernels = cpu_kernels(), .x = gate, .up = up, .dx = dy, .count = count};

    parallel_for(divide_up(count, PIECE), silu_piece, &p);
}

/* log(sum(exp(x))) of the numbers between the k ids. */
static double lse_between(const struct pieces *p, const float *x, const int32_t *id, int64_t k)
{
    double largest = -INFINITY, sum = 0;

    for (int64_t at = 0, j = 0; j <= k; j++) {
        int64_t end = j < k ? id[j] : p->d;

        if (end > at) {
            double part = p->kernels->log_sum_exp(x + at, end - at, NULL);

            sum = part > largest ? sum * exp(largest - part) + 1 : sum + exp(part - largest);
            largest = part > largest ? part : largest;
        }
        at = end + 1;
    }
    return sum != 0 ? largest + log(sum) : -INFINITY;
}

/* The k ids of a row one by one, the numbers between them with the kernel: the teacher's there are r exp(x - their
 * lse). Returns the divergence; student and teacher are the factors of both in the gradient. */
static double loss_top_row(const struct pieces *p, float *x, int64_t i, float student, float teacher)
{
    const struct loss_top *top = p->rows->top;
    const int32_t *id = top->id + i * top->k;
    double lse = p->rows->lse[i], rest = (double)top->rest[i], others = rest > 0 ? lse_between(p, x, id, top->k) : 0;
    double cost = rest > 0 ? rest * (log(rest) - (others - lse)) : 0;

    for (int64_t at = 0, j = 0; j <= top->k; j++) {
        int64_t end = j < top->k ? id[j] : p->d;

        if (end > at)
            p->kernels->loss(x + at, lse, rest > 0 ? x + at : NULL, others, student, (float)(teacher * rest), end - at);
        if (j < top->k) {
            double left = (double)top->log_p[i * top->k + j], q = exp(left);

            cost += q * (left - ((double)x[end] - lse));
            x[end] = (float)(student * exp((double)x[end] - lse) - teacher * q);
        }
        at = end + 1;
    }
    return cost;
}

static void loss_item(void *context, int64_t i, int thread)
{
    const struct pieces *p = context;
    const struct loss_rows *r = p->rows;
    float *x = p->x + i * p->d, cross = r->cross[i], distill = r->distill[i];
    const float *teacher = distill != 0 && !r->top ? r->teacher + i * p->d : NULL;

    (void)thread;
    p->result[i] = cross != 0 ? r->lse[i] - (double)x[r->target[i]] : 0;
    p->result[p->count + i] = 0;
    if (teacher)
        p->result[p->count + i] = p->kernels->divergence(teacher, r->teacher_lse[i], x, r->lse[i], p->d);
    if (cross == 0 && distill == 0)              /* not counted, whatever its numbers are */
        memset(x, 0, (size_t)p->d * sizeof *x);
    else if (distill != 0 && r->top)
        p->result[p->count + i] = loss_top_row(p, x, i, (cross + distill) * p->factor, distill * p->factor);
    else
        p->kernels->loss(x, r->lse[i], teacher, teacher ? r->teacher_lse[i] : 0, (cross + distill) * p->factor,
                         distill * p->factor, p->d);
    if (cross != 0)
        x[r->target[i]] -= cross * p->factor;
}

void cpu_loss(float *logits, const struct loss_rows *rows, float factor, int64_t n, int64_t d, double *cost)
{
    struct pieces p = {.kernels = cpu_kernels(), .x = logits, .rows = rows, .factor = factor, .count = n, .d = d,
                       .result = cost};

    parallel_for(n, loss_item, &p);
}

struct deviation {
    float *dx;
    bool add;
    const float *x, *y, *weight;
    int64_t d;
    double *cost;
};

static void deviation_row(void *context, int64_t i, int thread)
{
    const struct deviation *p = context;
    const float *x = p->x + i * p->d, *y = p->y + i * p->d;
    float *dx = p->dx + i * p->d, factor;
    double apart[8] = {0}, size[8] = {0};

    (void)thread;
    if (!p->add)
        memset(dx, 0, (size_t)p->d * sizeof *dx);
    p->cost[i] = 0;
    if (p->weight[i] == 0)
        return;
    for (int64_t j = 0; j < p->d; j++) {
        double between = (double)x[j] - (double)y[j];

        apart[j % 8] += between * between;
        size[j % 8] += (double)y[j] * (double)y[j];
    }
    for (int k = 1; k < 8; k++) {
        apart[0] += apart[k];
        size[0] += size[k];
    }
    p->cost[i] = apart[0] / size[0];
    factor = (float)(2 * (double)p->weight[i] / size[0]);
    for (int64_t j = 0; j < p->d; j++)
        dx[j] += factor * (x[j] - y[j]);
}

void cpu_deviation(float *dx, bool add, const float *x, const float *y, const float *weight, int64_t n, int64_t d,
                   double *cost)
{
    parallel_for(n, deviation_row, &(struct deviation){dx, add, x, y, weight, d, cost});
}

static void squares_piece(void *context, int64_t item, int thread)
{
    const struct pieces *p = context;
    const float *x = p->dx + item * PIECE;
    int64_t count = least(p->count - item * PIECE, PIECE);
    double lane[8] = {0};

    (void)thread;
    for (int64_t j = 0; j < count; j++)
        lane[j % 8] += (double)x[j] * (double)x[j];
    p->result[item] = ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

double cpu_sum_squares(const float *x, int64_t count)
{
    struct pieces p = {.dx = x, .count = count};
    int64_t items = divide_up(count, PIECE);
    double sum = 0;

    p.result = xmallocarray((size_t)items, sizeof *p.result);
    parallel_for(items, squares_piece, &p);
    for (int64_t i = 0; i < items; i++)
        sum += p.result[i];
    free(p.result);
    return sum;
}

static void adamw_piece(void *context, int64_t item, int thread)
{
    const struct pieces *p = context;
    int64_t at = item * PIECE;

    (void)thread;
    p->kernels->adamw(p->x + at, p->dx + at, p->mean + at, p->square + at, p->step, p->first, p->second,
                      least(p->count - at, PIECE));
}

void cpu_adamw(float *x, const float *dx, float *mean, float *square, const struct adamw *step, int64_t count)
{
    struct pieces p = {.kernels = cpu_kernels(), .x = x, .dx = dx, .mean = mean, .square = square, .count = count,
                       .step = step, .first = 1 - pow(step->beta1, (double)step->step),
                       .second = 1 - pow(step->beta2, (double)step->step)};

    parallel_for(divide_up(count, PIECE), adamw_piece, &p);
}
