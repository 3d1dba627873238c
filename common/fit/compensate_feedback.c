/* compensate_feedback.c - rounding column by column, each column's target moved by the errors before it. */
#include "fit/compensate_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "tensor/trellis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float moment(const struct moments *h, int64_t i, int64_t j)
{
    return i >= j ? h->packed[i * (i + 1) / 2 + j] : h->packed[j * (j + 1) / 2 + i];
}

struct ranked {
    float value;
    int64_t column;
};

static int larger_first(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;

    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->column < b->column ? -1 : a->column > b->column;
}

/* Blocks of columns by the descending sum of their diagonal. */
static void order_columns(const struct moments *h, int64_t block, int64_t *order)
{
    int64_t blocks = divide_up(h->n, block), at = 0;
    struct ranked *ranked = xmallocarray((size_t)blocks, sizeof *ranked);

    for (int64_t b = 0; b < blocks; b++) {
        ranked[b] = (struct ranked){0, b * block};
        for (int64_t i = b * block; i < least((b + 1) * block, h->n); i++)
            ranked[b].value += moments_diagonal(h, i);
    }
    qsort(ranked, (size_t)blocks, sizeof *ranked, larger_first);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = ranked[b].column; i < least(ranked[b].column + block, h->n); i++)
            order[at++] = i;
    free(ranked);
}

struct filling {
    const struct feedback *f;
    double *a, add;
};

/* Row i of H in reversed order, its upper triangle. */
static void fill_row(void *context, int64_t i, int thread)
{
    const struct filling *p = context;
    int64_t n = p->f->n, row = p->f->order[n - 1 - i];

    (void)thread;
    for (int64_t j = i; j < n; j++)
        p->a[i * n + j] = moment(p->f->h, row, p->f->order[n - 1 - j]);
    p->a[i * n + i] += p->add;
}

/* With r' r = the matrix in reversed order, U[i, k] = r[n-1-k, n-1-i] / r[n-1-k, n-1-k]: turned round, each row is
 * a row of the factor. In place: floats in the room of doubles, in front. */
static void turn_factor(int64_t n, double *a)
{
    float *factor = (float *)a;

    for (int64_t low = 0, high = n * n - 1; low < high; low++, high--) {
        double swap = a[low];

        a[low] = a[high];
        a[high] = swap;
    }
    for (int64_t k = 0; k < n; k++) {
        double diagonal = a[k * n + k];

        for (int64_t i = 0; i < n; i++) {
            float value = i < k ? (float)(a[k * n + i] / diagonal) : 0;

            memcpy(&factor[k * n + i], &value, sizeof value);
        }
    }
}

double moments_weight(const struct moments *h, double damping, float *weight)
{
    double mean = 0;

    for (int64_t i = 0; i < h->n; i++)
        mean += moments_diagonal(h, i) / (double)h->n;
    /* Inputs that are always zero: any damping makes each column count by itself. */
    mean = mean > 0 ? mean : 1;
    for (int64_t i = 0; i < h->n; i++)
        weight[i] = (float)(moments_diagonal(h, i) / mean + damping);
    return mean;
}

int64_t feedback_block(struct dtype dtype)
{
    return dtype.kind == DTYPE_TRELLIS ? TRELLIS_TILE : 1;
}

int feedback_new(const struct moments *h, double damping, struct feedback **feedback)
{
    return feedback_new_blocks(h, damping, 1, feedback);
}

int feedback_new_blocks(const struct moments *h, double damping, int64_t block, struct feedback **feedback)
{
    struct feedback *f;
    double *a;

    *feedback = NULL;
    if (!isfinite(linalg_sum_squares(h->packed, h->n * (h->n + 1) / 2)))
        return fail(EX_DATAERR, "second moments that are not finite");
    a = xaligned((size_t)(h->n * h->n), sizeof *a);
    f = xcalloc(1, sizeof *f);
    *f = (struct feedback){.h = h, .n = h->n, .block = block,
                           .weight = xmallocarray((size_t)h->n, sizeof *f->weight),
                           .order = xmallocarray((size_t)h->n, sizeof *f->order)};
    order_columns(h, block, f->order);
    damping = damping > 0 ? damping : DAMPING;
    parallel_for(h->n, fill_row, &(struct filling){f, a, damping * moments_weight(h, damping, f->weight)});
    if (!linalg_cholesky(h->n, a)) {
        free(a);
        feedback_free(f);
        return fail(EX_SOFTWARE, "second moments of order %lld can't be factored: more damping is needed",
                    (long long)h->n);
    }
    turn_factor(h->n, a);
    f->factor = xreallocarray(a, (size_t)(h->n * h->n), sizeof *f->factor);
    *feedback = f;
    return EX_OK;
}

void feedback_free(struct feedback *f)
{
    if (!f)
        return;
    free(f->weight);
    free(f->order);
    free(f->factor);
    free(f);
}

/* Column j of W takes codes for value + shift; error, where given, is what the value then lacks. */
MULTIVERSION static void round_column(struct rounding *r, int64_t column, int64_t first, const float *shift,
                                      float *error)
{
    int64_t g = column / r->group;
    const float *w = r->w + column * r->lanes + first;
    const float *scale = r->scale + g * r->lanes + first, *offset = r->offset + g * r->lanes + first;
    unsigned char *code = r->code + column * r->lanes + first;
    float most = r->most;

    for (int l = 0; l < LANES; l++) {
        float c = nearest_code(w[l] + shift[l], inverse_scale(scale[l]), offset[l], most);

        code[l] = (unsigned char)(int)c;
        error[l] = w[l] - (scale[l] * c + offset[l]);
    }
}

/* Columns first..first+count-1 of the order. */
struct block {
    struct rounding *r;
    const struct feedback *feedback;
    int64_t first, count;
    float *error;                /* [n, lanes] in the order */
    float *shift;                /* [count, lanes] what errors before the block make of it */
};

MULTIVERSION static void add_shift(const struct block *b, int64_t j, int64_t lane, float *sum)
{
    const float *u = b->feedback->factor + (b->first + j) * b->feedback->n + b->first;
    int64_t lanes = b->r->lanes;

    for (int l = 0; l < LANES; l++)
        sum[l] = b->shift[j * lanes + lane + l];
    for (int64_t i = 0; i < j; i++) {
        const float *error = b->error + (b->first + i) * lanes + lane;

        for (int l = 0; l < LANES; l++)
            sum[l] += u[i] * error[l];
    }
}

static void block_tile(void *context, int64_t item, int thread)
{
    const struct block *b = context;
    int64_t lane = item * LANES;

    (void)thread;
    for (int64_t j = 0; j < b->count; j++) {
        float shift[LANES];

        add_shift(b, j, lane, shift);
        round_column(b->r, b->feedback->order[b->first + j], lane, shift,
                     b->error + (b->first + j) * b->r->lanes + lane);
    }
}

static void difference_tile(void *context, int64_t item, int thread)
{
    struct rounding *r = context;
    int64_t lane = item * LANES;

    (void)thread;
    for (int64_t j = 0; j < r->n; j++) {
        int64_t group = j / r->group * r->lanes + lane;
        const float *scale = r->scale + group, *offset = r->offset + group;

        for (int l = 0; l < LANES; l++)
            r->difference[j * r->lanes + lane + l]
                = r->w[j * r->lanes + lane + l]
                  - (scale[l] * (float)r->code[j * r->lanes + lane + l] + offset[l]);
    }
}

void compensate_feedback(struct rounding *r, const struct feedback *f)
{
    struct block b = {.r = r, .feedback = f, .error = r->difference};

    b.shift = xaligned((size_t)(COLUMNS * r->lanes), sizeof *b.shift);
    for (b.first = 0; b.first < r->n; b.first += b.count) {
        b.count = least(COLUMNS, r->n - b.first);
        linalg_gemm(1, matrix_columns(matrix_of(f->factor + b.first * r->n, b.count, r->n), 0, b.first),
                    matrix_of(b.error, b.first, r->lanes), 0, matrix_of(b.shift, b.count, r->lanes));
        parallel_for(r->lanes / LANES, block_tile, &b);
    }
    free(b.shift);
    parallel_for(r->lanes / LANES, difference_tile, r);      /* from the order of rounding to that of the matrix */
}

static void nearest_tile(void *context, int64_t item, int thread)
{
    static const float none[LANES];
    struct rounding *r = context;

    (void)thread;
    for (int64_t j = 0; j < r->n; j++)
        round_column(r, j, item * LANES, none, r->difference + j * r->lanes + item * LANES);
}

void compensate_nearest(struct rounding *r)
{
    parallel_for(r->lanes / LANES, nearest_tile, r);
}
