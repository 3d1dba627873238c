/* compensate_refine.c - passes that lower tr(D H D') after rounding: block by block of columns, with the gradient
 * G = D H of the block made anew, each code is re-chosen given all others (coordinate descent), then scale and offset
 * of each group by its two normal equations, each only where the error falls. */
#include "fit/compensate_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_MOST = 128 };       /* columns of a block, where groups are that long */

/* Columns first..first+count-1, whole groups unless these are longer than a block. */
struct block {
    struct rounding *r;
    int64_t first, count;
    const float *h;              /* [count, count] */
    const float *ones;           /* [groups, count] H times the ones of each group */
    float *gradient;             /* [count, lanes] */
};

/* What a tile works on: the block's columns of its rows. */
struct patch {
    float g[BLOCK_MOST][LANES], d[BLOCK_MOST][LANES], code[BLOCK_MOST][LANES];
};

static void patch_load(const struct block *b, int64_t lane, struct patch *p)
{
    for (int64_t j = 0; j < b->count; j++) {
        int64_t at = (b->first + j) * b->r->lanes + lane;

        memcpy(p->g[j], b->gradient + j * b->r->lanes + lane, sizeof p->g[j]);
        memcpy(p->d[j], b->r->difference + at, sizeof p->d[j]);
        for (int l = 0; l < LANES; l++)
            p->code[j][l] = b->r->code[at + l];
    }
}

static void patch_store(const struct block *b, int64_t lane, const struct patch *p)
{
    for (int64_t j = 0; j < b->count; j++) {
        int64_t at = (b->first + j) * b->r->lanes + lane;

        memcpy(b->r->difference + at, p->d[j], sizeof p->d[j]);
        for (int l = 0; l < LANES; l++)
            b->r->code[at + l] = (unsigned char)(int)p->code[j][l];
    }
}

/* Column j takes the codes that are best given all others; false where none changes. */
MULTIVERSION static bool choose_codes(const struct block *b, int64_t j, int64_t lane, struct patch *p, float *step)
{
    const struct rounding *r = b->r;
    int64_t group = (b->first + j) / r->group;
    const float *scale = r->scale + group * r->lanes + lane, *offset = r->offset + group * r->lanes + lane;
    float h = b->h[j * b->count + j], most = r->most, moved = 0;

    for (int l = 0; l < LANES; l++) {
        float old = p->code[j][l], value = scale[l] * old + offset[l] + p->g[j][l] / h;
        float code = nearest_code(value, inverse_scale(scale[l]), offset[l], most);

        step[l] = scale[l] * (code - old);
        moved += code != old;
        p->code[j][l] = code;
        p->d[j][l] -= step[l];
    }
    return moved > 0;
}

/* g -= h step */
MULTIVERSION static void move_gradient(const float *h, int64_t count, const float *step, struct patch *p)
{
    for (int64_t k = 0; k < count; k++)
        for (int l = 0; l < LANES; l++)
            p->g[k][l] -= h[k] * step[l];
}

static void sweep_codes(const struct block *b, int64_t lane, struct patch *p)
{
    float step[LANES];

    for (int64_t j = 0; j < b->count; j++)
        if (b->h[j * b->count + j] > 0 && choose_codes(b, j, lane, p, step))
            move_gradient(b->h + j * b->count, b->count, step, p);
}

/* The quadratic form of a group's codes c and ones in H, and what they have in common with the gradient. */
struct normal {
    float cc[LANES], co[LANES], cg[LANES], og[LANES], oo;
};

/* turned[k] = H c for all columns k of the block, c the codes of columns first..first+count-1. */
MULTIVERSION static void sum_normal(const struct block *b, int64_t first, int64_t count, const float *ones,
                                    const struct patch *p, float (*turned)[LANES], struct normal *n)
{
    memset(n, 0, sizeof *n);
    for (int64_t k = 0; k < b->count; k++) {
        float sum[LANES] = {0};

        for (int64_t j = 0; j < count; j++)
            for (int l = 0; l < LANES; l++)
                sum[l] += b->h[k * b->count + first + j] * p->code[first + j][l];
        memcpy(turned[k], sum, sizeof sum);
    }
    for (int64_t k = first; k < first + count; k++) {
        n->oo += ones[k];
        for (int l = 0; l < LANES; l++) {
            n->cc[l] += turned[k][l] * p->code[k][l];
            n->co[l] += turned[k][l];
            n->cg[l] += p->g[k][l] * p->code[k][l];
            n->og[l] += p->g[k][l];
        }
    }
}

/* The change of the error where scale and offset change by s and o. */
static double change_of(const struct normal *n, int l, double s, double o)
{
    return s * s * n->cc[l] + 2 * s * o * n->co[l] + o * o * n->oo - 2 * (s * n->cg[l] + o * n->og[l]);
}

/* A lane's scale and offset of one group. */
struct choice {
    float scale, offset;
    double change;
};

static void consider(const struct normal *n, int l, struct choice old, float scale, float offset, struct choice *best)
{
    double change = change_of(n, l, (double)scale - old.scale, (double)offset - old.offset);

    if (change < best->change)
        *best = (struct choice){scale, offset, change};
}

/* Scale and minimum free of each other: the solution, rounded, then integers beside it. */
static void refit_min(const struct rounding *r, const struct normal *n, int l, int64_t group, int64_t lane,
                      struct choice *best)
{
    struct grid grid = scale_grid(r, group, lane), offsets = offset_grid(r, group, lane);
    struct choice old = *best;
    double det = (double)n->cc[l] * n->oo - (double)n->co[l] * n->co[l], s = 0;

    if (n->oo <= 0)
        return;
    if (det > 1e-6 * n->cc[l] * n->oo)
        s = ((double)n->cg[l] * n->oo - (double)n->og[l] * n->co[l]) / det;
    for (int i = -1; i <= 1; i++) {
        float scale = grid_round(grid, old.scale + (float)s + (float)i * grid.factor);
        double moved = (double)scale - old.scale;

        consider(n, l, old, scale, grid_round(offsets, old.offset + (float)((n->og[l] - moved * n->co[l]) / n->oo)),
                 best);
        if (grid.most == 0)
            break;
    }
}

/* offset = -scale * zero: for the zero point as it is, and the next ones. */
static void refit_zero(const struct rounding *r, const struct normal *n, int l, int64_t group, int64_t lane,
                       struct choice *best)
{
    struct grid grid = scale_grid(r, group, lane);
    struct choice old = *best;
    float zero = zero_of(r, old.scale, old.offset), reach = r->dtype.zero == ZERO_INT ? 1 : 0;

    for (float z = fmaxf(zero - reach, 0); z <= fminf(zero + reach, r->most + 1 - reach); z++) {
        /* value = scale (c - z): the best scale for old + its change */
        double cc = n->cc[l] - 2 * (double)z * n->co[l] + (double)z * z * n->oo;
        double base = -(double)old.scale * (n->cc[l] - (double)z * n->co[l])
                      - (double)old.offset * (n->co[l] - (double)z * n->oo);
        double s = cc > 0 ? (n->cg[l] - (double)z * n->og[l] - base) / cc : old.scale;

        for (int i = -1; i <= 1; i++) {
            float scale = grid_round(grid, (float)s + (float)i * grid.factor);

            consider(n, l, old, scale, -scale * z, best);
            if (grid.most == 0)
                break;
        }
    }
}

static void refit_group(const struct block *b, int64_t group, int64_t lane, struct patch *p)
{
    struct rounding *r = b->r;
    int64_t first = group * r->group - b->first, count = least(r->group, r->n - group * r->group);
    const float *ones = b->ones + (group - b->first / r->group) * b->count;
    float turned[BLOCK_MOST][LANES], s[LANES] = {0}, o[LANES] = {0};
    float *scale = r->scale + group * r->lanes + lane, *offset = r->offset + group * r->lanes + lane;
    struct normal n;

    sum_normal(b, first, count, ones, p, turned, &n);
    for (int l = 0; l < LANES; l++) {
        struct choice best = {scale[l], offset[l], 0};

        (r->dtype.zero == ZERO_MIN ? refit_min : refit_zero)(r, &n, l, group, lane + l, &best);
        s[l] = best.scale - scale[l];
        o[l] = best.offset - offset[l];
        scale[l] = best.scale;
        offset[l] = best.offset;
    }
    for (int64_t k = 0; k < b->count; k++)
        for (int l = 0; l < LANES; l++)
            p->g[k][l] -= s[l] * turned[k][l] + o[l] * ones[k];
    for (int64_t k = first; k < first + count; k++)
        for (int l = 0; l < LANES; l++)
            p->d[k][l] -= s[l] * p->code[k][l] + o[l];
}

static void block_tile(void *context, int64_t item, int thread)
{
    const struct block *b = context;
    const struct rounding *r = b->r;
    int64_t lane = item * LANES;
    struct patch p;

    (void)thread;
    patch_load(b, lane, &p);
    sweep_codes(b, lane, &p);
    if (r->group <= BLOCK_MOST) {
        for (int64_t g = b->first / r->group; g * r->group < b->first + b->count; g++)
            refit_group(b, g, lane, &p);
        sweep_codes(b, lane, &p);
    }
    patch_store(b, lane, &p);
}

static void refine_block(struct rounding *r, struct block *b, const float *panel)
{
    float *h = xmallocarray((size_t)(b->count * b->count), sizeof *h);
    int64_t groups = r->group <= BLOCK_MOST ? divide_up(b->count, r->group) : 0;
    float *ones = xcalloc((size_t)(groups * b->count + 1), sizeof *ones);

    for (int64_t i = 0; i < b->count; i++)
        memcpy(h + i * b->count, panel + i * r->n + b->first, (size_t)b->count * sizeof *h);
    for (int64_t j = 0; groups && j < b->count; j++)
        for (int64_t k = 0; k < b->count; k++)
            ones[j / r->group * b->count + k] += h[k * b->count + j];
    b->h = h;
    b->ones = ones;
    linalg_gemm(1, matrix_of(panel, b->count, r->n), matrix_of(r->difference, r->n, r->lanes), 0,
                matrix_of(b->gradient, b->count, r->lanes));
    parallel_for(r->lanes / LANES, block_tile, b);
    free(h);
    free(ones);
}

void compensate_refine(struct rounding *r, const struct moments *h, int passes)
{
    int64_t block = r->group > BLOCK_MOST ? COLUMNS : r->group > COLUMNS ? r->group : COLUMNS / r->group * r->group;
    float *panel = xaligned((size_t)(block * r->n), sizeof *panel);
    struct block b = {.r = r, .gradient = xaligned((size_t)(block * r->lanes), sizeof *b.gradient)};

    for (int pass = 0; pass < passes; pass++)
        for (b.first = 0; b.first < r->n; b.first += b.count) {
            b.count = least(block, r->n - b.first);
            moments_band(h, b.first, b.count, panel);
            refine_block(r, &b, panel);
        }
    free(panel);
    free(b.gradient);
}
