/* compensate_search.c - scale and offset of each group by the weighted squared error of its values: candidates from
 * its range drawn in by degrees; for each the codes, and for these codes the best scale and offset in closed form. */
#include "fit/compensate_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "tensor/scales.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* One group of one tile. */
struct lot {
    const struct rounding *r;
    const float *w, *weight;     /* w[j * stride + lane] */
    int64_t stride, columns;
    float low[LANES], high[LANES], total;     /* range; the sum of weights */
    int sign;                    /* of the scales that search_none() tries; 0: both */
};

struct search {
    struct rounding *r;
    const float *weight;
    atomic_bool bad;             /* a scale that can't be stored */
};

struct pair {
    float scale[LANES], offset[LANES], error[LANES];
};

/* Weighted sums over a group for given scales and offsets: with codes c and errors e = w - (scale c + offset). */
struct sums {
    float c[LANES], cc[LANES], e[LANES], ce[LANES], ee[LANES];
};

MULTIVERSION static void sum_group(const struct lot *lot, const struct pair *pair, struct sums *sums)
{
    float most = lot->r->most, inverse[LANES];

    memset(sums, 0, sizeof *sums);
    for (int l = 0; l < LANES; l++)
        inverse[l] = inverse_scale(pair->scale[l]);
    for (int64_t j = 0; j < lot->columns; j++) {
        const float *w = lot->w + j * lot->stride;
        float h = lot->weight[j];

        for (int l = 0; l < LANES; l++) {
            float c = nearest_code(w[l], inverse[l], pair->offset[l], most);
            float e = w[l] - (pair->scale[l] * c + pair->offset[l]), hc = h * c, he = h * e;

            sums->c[l] += hc;
            sums->cc[l] += hc * c;
            sums->e[l] += he;
            sums->ce[l] += he * c;
            sums->ee[l] += he * e;
        }
    }
}

/* The best pair for the codes of *pair: by its normal equations for the changes of both (min) or of the scale alone. */
static void fit_group(const struct lot *lot, const struct sums *sums, struct pair *pair)
{
    for (int l = 0; l < LANES; l++) {
        double h = lot->total, c = sums->c[l], cc = sums->cc[l], e = sums->e[l], ce = sums->ce[l], scale, offset, det;

        pair->error[l] = sums->ee[l];
        if (lot->r->dtype.zero == ZERO_MIN) {
            det = h * cc - c * c;
            scale = det > 1e-6 * h * cc ? (h * ce - c * e) / det : 0;
            offset = (e - scale * c) / h;
        } else {
            double z = zero_of(lot->r, pair->scale[l], pair->offset[l]);

            det = cc - 2 * z * c + z * z * h;
            scale = det > 1e-6 * h ? (ce - z * e) / det : 0;
            offset = -scale * z;
        }
        pair->error[l] -= (float)(scale * ce + offset * e);
        pair->scale[l] += (float)scale;
        pair->offset[l] += (float)offset;
    }
}

static void consider(const struct lot *lot, struct pair *pair, struct pair *best)
{
    struct sums sums;

    sum_group(lot, pair, &sums);
    fit_group(lot, &sums, pair);
    for (int l = 0; l < LANES; l++)
        if (pair->error[l] < best->error[l]) {
            best->scale[l] = pair->scale[l];
            best->offset[l] = pair->offset[l];
            best->error[l] = pair->error[l];
        }
}

/* The parts of a range that are tried: what lies outside is clipped. Coarse codes gain by much clipping. */
static const float parts[] = {1, .9f, .8f, .7f, .6f, .5f};
enum { PARTS = sizeof parts / sizeof *parts };

static int parts_of(const struct rounding *r)
{
    return r->dtype.bits <= 3 ? PARTS : r->dtype.bits <= 4 ? PARTS - 1 : 3;
}

static void search_min(const struct lot *lot, struct pair *best)
{
    int count = parts_of(lot->r);

    for (int a = 0; a < count; a++)
        for (int b = a > 0 ? a - 1 : 0; b < count && b <= a + 1; b++) {
            struct pair pair;

            for (int l = 0; l < LANES; l++) {
                float middle = (lot->low[l] + lot->high[l]) / 2, half = lot->high[l] - middle;

                pair.offset[l] = middle - half * parts[a];
                pair.scale[l] = half * (parts[a] + parts[b]) / lot->r->most;
            }
            consider(lot, &pair, best);
        }
}

/* Zero points near where the range has its zero; all of them for few bits. */
static void search_int(const struct lot *lot, struct pair *best)
{
    int count = parts_of(lot->r), reach = lot->r->dtype.bits <= 2 ? 3 : 1;
    float most = lot->r->most;

    for (int a = 0; a < count; a++)
        for (int shift = -reach; shift <= reach; shift++) {
            struct pair pair;

            for (int l = 0; l < LANES; l++) {
                float low = fminf(lot->low[l], 0), high = fmaxf(lot->high[l], 0), span = high - low, z, scale;

                z = span > 0 ? rintf(-low / span * most) + (float)shift : 0;
                z = fminf(fmaxf(z, 0), most);
                scale = fmaxf(z > 0 ? -low / z : 0, z < most ? high / (most - z) : 0);
                pair.scale[l] = scale * parts[a];
                pair.offset[l] = -pair.scale[l] * z;
            }
            consider(lot, &pair, best);
        }
}

/* Codes reach one further below zero than above: so the sign of the scale matters. */
static void search_none(const struct lot *lot, struct pair *best)
{
    int count = parts_of(lot->r);
    float zero = (float)(1 << (lot->r->dtype.bits - 1));

    for (int a = 0; a < count; a++)
        for (int sign = -1; sign <= 1; sign += 2) {
            struct pair pair;

            if (lot->sign && sign != lot->sign)
                continue;
            for (int l = 0; l < LANES; l++) {
                pair.scale[l] = (float)sign * fmaxf(-lot->low[l], lot->high[l]) / zero * parts[a];
                pair.offset[l] = -pair.scale[l] * zero;
            }
            consider(lot, &pair, best);
        }
}

static void find_range(struct lot *lot)
{
    memcpy(lot->low, lot->w, sizeof lot->low);
    memcpy(lot->high, lot->w, sizeof lot->high);
    for (int64_t j = 0; j < lot->columns; j++) {
        const float *w = lot->w + j * lot->stride;

        lot->total += lot->weight[j];
        for (int l = 0; l < LANES; l++) {
            lot->low[l] = w[l] < lot->low[l] ? w[l] : lot->low[l];
            lot->high[l] = w[l] > lot->high[l] ? w[l] : lot->high[l];
        }
    }
}

enum { ALTERNATIONS = 3 };

static struct lot lot_of(const struct search *s, int64_t g, int64_t lane)
{
    const struct rounding *r = s->r;
    int64_t column = g * r->group;

    return (struct lot){.r = r, .w = r->w + column * r->lanes + lane, .weight = s->weight + column, .stride = r->lanes,
                        .columns = least(r->group, r->n - column)};
}

/* The best pair of each lane of a group, unrounded. */
static void search_group(const struct search *s, int64_t g, int64_t lane, int sign, struct pair *best)
{
    static void (*const methods[])(const struct lot *, struct pair *) = {
        [ZERO_NONE] = search_none, [ZERO_INT] = search_int, [ZERO_MIN] = search_min};
    struct lot lot = lot_of(s, g, lane);
    struct pair pair;

    lot.sign = sign;
    find_range(&lot);
    for (int l = 0; l < LANES; l++)
        best->error[l] = INFINITY;
    methods[s->r->dtype.zero](&lot, best);
    for (int i = 0; i < ALTERNATIONS; i++) {
        pair = *best;
        consider(&lot, &pair, best);
    }
}

/* The same for the groups of a super-block, whose scales have one sign: with codes that reach further on one side,
 * the better of both. */
static void search_super(const struct search *s, int64_t first, int64_t lane, struct pair *best)
{
    int64_t count = least(SUPER_GROUPS, s->r->groups - first);
    struct pair turned[SUPER_GROUPS] = {0};
    float gain[LANES] = {0};

    for (int64_t g = 0; g < count; g++) {
        search_group(s, first + g, lane, 1, &best[first + g]);
        search_group(s, first + g, lane, -1, &turned[g]);
        for (int l = 0; l < LANES; l++)
            gain[l] += best[first + g].error[l] - turned[g].error[l];
    }
    for (int64_t g = 0; g < count; g++)
        for (int l = 0; l < LANES; l++)
            if (gain[l] > 0) {
                best[first + g].scale[l] = turned[g].scale[l];
                best[first + g].offset[l] = turned[g].offset[l];
            }
}

/* What a lane's numbers are rounded with: [groups] of one row, and what an error of each costs. */
struct line {
    struct group_row row;
    float *minimum, *scale, *weight;
};

/* Minima first: f16 or integers. */
static bool settle_minima(const struct search *s, struct pair *pairs, int64_t lane, struct line *line)
{
    struct rounding *r = s->r;
    bool good = true;

    for (int64_t g = 0; g < r->groups; g++) {
        struct lot lot = lot_of(s, g, lane);

        line->weight[g] = 0;
        for (int64_t j = 0; j < lot.columns; j++)
            line->weight[g] += lot.weight[j];
    }
    for (int l = 0; l < LANES; l++) {
        for (int64_t g = 0; g < r->groups; g++) {
            line->minimum[g] = pairs[g].offset[l];
            line->scale[g] = fabsf(pairs[g].scale[l]);
        }
        good = minima_round(r->dtype, r->groups, line->minimum, line->scale, line->weight, &line->row, line->minimum)
               && good;
        for (int64_t g = 0; g < r->groups; g++)
            pairs[g].offset[l] = line->minimum[g];
        for (int64_t i = 0; r->offset_factor && i < divide_up(r->groups, SUPER_GROUPS); i++)
            r->offset_factor[i * r->lanes + lane + l] = half_to_float(line->row.minimum_factor[i]);
    }
    return good;
}

/* Then the scales, the best ones for these minima; error becomes what a squared error of each costs. */
static void refit_scales(const struct search *s, struct pair *pairs, int64_t lane)
{
    const struct rounding *r = s->r;

    for (int64_t g = 0; g < r->groups; g++) {
        struct lot lot = lot_of(s, g, lane);
        struct sums sums;

        sum_group(&lot, &pairs[g], &sums);
        for (int l = 0; l < LANES; l++) {
            pairs[g].error[l] = sums.cc[l];
            if (r->dtype.zero == ZERO_MIN && sums.cc[l] > 0)
                pairs[g].scale[l] += sums.ce[l] / sums.cc[l];
        }
    }
}

static bool settle_scales(const struct search *s, struct pair *pairs, int64_t lane, struct line *line)
{
    struct rounding *r = s->r;
    bool good = true;

    for (int l = 0; l < LANES; l++) {
        for (int64_t g = 0; g < r->groups; g++) {
            line->scale[g] = pairs[g].scale[l];
            line->weight[g] = pairs[g].error[l];
        }
        good = scales_round(r->dtype, r->groups, line->scale, line->weight, &line->row, line->scale) && good;
        for (int64_t g = 0; g < r->groups; g++) {
            float zero = zero_of(r, pairs[g].scale[l], pairs[g].offset[l]);

            r->scale[g * r->lanes + lane + l] = line->scale[g];
            r->offset[g * r->lanes + lane + l]
                = r->dtype.zero == ZERO_MIN ? pairs[g].offset[l] : -line->scale[g] * zero;
        }
        for (int64_t i = 0; r->scale_factor && i < divide_up(r->groups, SUPER_GROUPS); i++)
            r->scale_factor[i * r->lanes + lane + l] = half_to_float(line->row.scale_factor[i]);
    }
    return good;
}

static void search_tile(void *context, int64_t item, int thread)
{
    struct search *s = context;
    int64_t lane = item * LANES, groups = s->r->groups;
    struct group_layout layout = {.groups = groups, .supers = divide_up(groups, SUPER_GROUPS)};
    struct pair *pairs = xcalloc((size_t)groups, sizeof *pairs);
    float *space = xmallocarray((size_t)(3 * groups), sizeof *space);
    struct line line = {group_row_new(&layout), space, space + groups, space + 2 * groups};
    bool good = true, signs = s->r->dtype.zero == ZERO_NONE && s->r->dtype.scale_bits;

    (void)thread;
    for (int64_t g = 0; g < groups; g += signs ? SUPER_GROUPS : 1)
        if (signs)
            search_super(s, g, lane, pairs);
        else
            search_group(s, g, lane, 0, &pairs[g]);
    if (s->r->dtype.zero == ZERO_MIN)
        good = settle_minima(s, pairs, lane, &line);
    refit_scales(s, pairs, lane);
    if (!settle_scales(s, pairs, lane, &line) || !good)
        atomic_store(&s->bad, true);
    group_row_free(&line.row);
    free(space);
    free(pairs);
}

bool compensate_search(struct rounding *r, const float *weight)
{
    struct search s = {.r = r, .weight = weight};

    parallel_for(r->lanes / LANES, search_tile, &s);
    return !atomic_load(&s.bad);
}
