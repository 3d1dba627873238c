/* compensate.c - rounding with second moments: the steps that a matrix goes through, from rows to lanes and back. */
#include "fit/compensate.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "fit/compensate_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct grid scale_grid(const struct rounding *r, int64_t group, int64_t lane)
{
    if (!r->scale_factor)
        return (struct grid){0};
    return (struct grid){r->scale_factor[group / SUPER_GROUPS * r->lanes + lane],
                         (float)((1 << r->dtype.scale_bits) - 1)};
}

struct grid offset_grid(const struct rounding *r, int64_t group, int64_t lane)
{
    if (!r->offset_factor)
        return (struct grid){0};
    return (struct grid){r->offset_factor[group / SUPER_GROUPS * r->lanes + lane],
                         (float)((1 << r->dtype.scale_bits) - 1)};
}

/* Too large for f16: the nearest that isn't. */
float grid_round(struct grid grid, float value)
{
    if (grid.most == 0)
        return half_to_float(half_from_float(fminf(fmaxf(value, -65504), 65504)));
    if (grid.factor == 0)
        return 0;
    return grid.factor * fminf(fmaxf(rintf(value / grid.factor), 0), grid.most);
}

enum { PASSES = 2 };

/* W by tiles of rows to columns with rows as lanes, and back to rows of codes. */
struct passage {
    struct rounding *r;
    const float *w;              /* [rows, n] */
    struct tensor *to;
    struct group_layout layout;
    double *sum;                 /* of each tile */
};

static void load_tile(void *context, int64_t item, int thread)
{
    const struct passage *p = context;
    struct rounding *r = p->r;
    int64_t lane = item * LANES, rows = least(LANES, r->rows - lane);
    double sum = 0;

    (void)thread;
    for (int64_t j = 0; j < r->n; j++)
        for (int64_t l = 0; l < LANES; l++) {
            float value = l < rows ? p->w[(lane + l) * r->n + j] : 0;

            r->w[j * r->lanes + lane + l] = value;
            sum += (double)value * value;
        }
    p->sum[item] = sum;
}

static void store_row(const struct passage *p, int64_t row, struct group_row *to)
{
    const struct rounding *r = p->r;

    for (int64_t j = 0; j < r->n; j++)
        to->codes[j] = r->code[j * r->lanes + row];
    for (int64_t g = 0; g < r->groups; g++) {
        float scale = r->scale[g * r->lanes + row], offset = r->offset[g * r->lanes + row];
        struct grid grid = scale_grid(r, g, row), offsets = offset_grid(r, g, row);

        to->scale[g] = grid.most == 0 ? half_from_float(scale)
                                      : (uint16_t)(grid.factor != 0 ? rintf(scale / grid.factor) : 0);
        if (r->dtype.zero == ZERO_INT)
            to->zero[g] = (uint16_t)zero_of(r, scale, offset);
        else if (r->dtype.zero == ZERO_MIN)
            to->zero[g] = offsets.most == 0 ? half_from_float(offset)
                                            : (uint16_t)(offsets.factor != 0 ? rintf(offset / offsets.factor) : 0);
        if (grid.most != 0)
            to->scale_factor[g / SUPER_GROUPS] = half_from_float(grid.factor);
        if (offsets.most != 0)
            to->minimum_factor[g / SUPER_GROUPS] = half_from_float(offsets.factor);
    }
    tensor_put_row(p->to, &p->layout, row, to);
}

static void store_tile(void *context, int64_t item, int thread)
{
    const struct passage *p = context;
    struct group_row row = group_row_new(&p->layout);

    (void)thread;
    for (int64_t i = item * LANES; i < least((item + 1) * LANES, p->r->rows); i++)
        store_row(p, i, &row);
    group_row_free(&row);
}

static void free_rounding(struct rounding *r)
{
    free(r->w);
    free(r->difference);
    free(r->code);
    free(r->scale);
    free(r->offset);
    free(r->scale_factor);
    free(r->offset_factor);
}

/* W as lanes. EX_DATAERR where a value isn't finite. */
static int load(struct passage *p, struct rounding *r, const char *name)
{
    int64_t supers = divide_up(r->groups, SUPER_GROUPS), tiles = r->lanes / LANES;
    double sum = 0;

    r->w = xaligned((size_t)(r->n * r->lanes), sizeof *r->w);
    r->difference = xaligned((size_t)(r->n * r->lanes), sizeof *r->difference);
    r->code = xaligned((size_t)(r->n * r->lanes), 1);
    r->scale = xaligned((size_t)(r->groups * r->lanes), sizeof *r->scale);
    r->offset = xaligned((size_t)(r->groups * r->lanes), sizeof *r->offset);
    if (r->dtype.scale_bits)
        r->scale_factor = xaligned((size_t)(supers * r->lanes), sizeof *r->scale_factor);
    if (r->dtype.scale_bits && r->dtype.zero == ZERO_MIN)
        r->offset_factor = xaligned((size_t)(supers * r->lanes), sizeof *r->offset_factor);
    p->sum = xmallocarray((size_t)tiles, sizeof *p->sum);
    parallel_for(tiles, load_tile, p);
    for (int64_t i = 0; i < tiles; i++)
        sum += p->sum[i];
    free(p->sum);
    return isfinite(sum) ? EX_OK : fail(EX_DATAERR, "'%s': a value is not finite", name);
}

struct product {
    const struct rounding *r;
    const float *gradient, *x;   /* [count, lanes] of a block of columns */
    int64_t count;
    double *sum;                 /* [count] */
};

static void sum_column(void *context, int64_t j, int thread)
{
    const struct product *p = context;
    const float *g = p->gradient + j * p->r->lanes, *x = p->x + j * p->r->lanes;
    double sum = 0;

    (void)thread;
    for (int64_t l = 0; l < p->r->rows; l++)
        sum += (double)g[l] * x[l];
    p->sum[j] = sum;
}

double compensate_error(const struct rounding *r, const struct moments *h, const float *x)
{
    int64_t block = least(COLUMNS, r->n);
    float *panel = xaligned((size_t)(block * r->n), sizeof *panel);
    float *gradient = xaligned((size_t)(block * r->lanes), sizeof *gradient);
    double sum[COLUMNS] = {0}, total = 0;

    for (int64_t first = 0; first < r->n; first += block) {
        const float *part = x + first * r->lanes;
        struct product p = {r, h ? gradient : part, part, least(block, r->n - first), sum};

        if (h) {
            moments_band(h, first, p.count, panel);
            linalg_gemm(1, matrix_of(panel, p.count, r->n), matrix_of(x, r->n, r->lanes), 0,
                        matrix_of(gradient, p.count, r->lanes));
        }
        parallel_for(p.count, sum_column, &p);
        for (int64_t j = 0; j < p.count; j++)
            total += sum[j];
    }
    free(panel);
    free(gradient);
    return total > 0 ? total : 0;
}

/* Codes with feedback, or without where it is NULL; h NULL stands for the identity. */
static int round_matrix(const float *w, const struct moments *h, const struct feedback *feedback, const float *weight,
                        int passes, const char *name, struct tensor *to, struct compensated *result)
{
    struct rounding r = {.dtype = to->dtype, .most = (float)((1 << to->dtype.bits) - 1)};
    struct passage p = {.r = &r, .w = w, .to = to};
    int rc;

    group_layout(to->dtype, to->rank, to->shape, &p.layout);
    r.rows = p.layout.rows;
    r.n = p.layout.length;
    r.lanes = divide_up(r.rows, LANES) * LANES;
    r.group = p.layout.group;
    r.groups = p.layout.groups;
    assert(!h || h->n == r.n);
    rc = load(&p, &r, name);
    if (!rc && !compensate_search(&r, weight))
        rc = fail(EX_DATAERR, "'%s': a scale is too large for f16", name);
    if (!rc) {
        if (feedback) {
            compensate_feedback(&r, feedback);
            compensate_refine(&r, h, passes);
        } else
            compensate_nearest(&r);
        parallel_for(r.lanes / LANES, store_tile, &p);
        *result = (struct compensated){compensate_error(&r, h, r.difference), compensate_error(&r, h, r.w)};
    }
    free_rounding(&r);
    if (rc)
        tensor_free(to);
    return rc;
}

int compensate_passes(const float *w, const struct feedback *feedback, int passes, struct dtype dtype, int rank,
                      const int64_t *shape, const char *name, struct tensor *to, struct compensated *result)
{
    *to = tensor_new(dtype, rank, shape);
    return round_matrix(w, feedback->h, feedback, feedback->weight, passes, name, to, result);
}

int compensate(const float *w, const struct feedback *feedback, struct dtype dtype, int rank, const int64_t *shape,
               const char *name, struct tensor *to, struct compensated *result)
{
    if (dtype.kind == DTYPE_TRELLIS)
        return compensate_trellis(w, feedback, dtype, rank, shape, name, to, result);
    return compensate_passes(w, feedback, PASSES, dtype, rank, shape, name, to, result);
}

int search_nearest(const float *w, const struct moments *h, struct dtype dtype, int rank, const int64_t *shape,
                   const char *name, struct tensor *to, struct compensated *result)
{
    float *weight;
    int64_t n;
    int rc;

    *to = tensor_new(dtype, rank, shape);
    n = tensor_row_length(to);
    weight = xmallocarray((size_t)n, sizeof *weight);
    if (h)
        moments_weight(h, DAMPING, weight);
    else
        for (int64_t i = 0; i < n; i++)
            weight[i] = 1;
    rc = round_matrix(w, h, NULL, weight, 0, name, to, result);
    free(weight);
    return rc;
}
