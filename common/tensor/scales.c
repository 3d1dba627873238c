/* scales.c - scales and minima of packed tensors, rounded to what a format stores. */
#include "tensor/scales.h"

#include "base/memory.h"
#include "tensor/trellis.h"

#include <math.h>
#include <stdlib.h>

/* Largest integers that a factor is tried for: the most, and the ones below. */
enum { TRIES = 8 };

/* An f16 that is finite, or false. */
static bool half_of(float value, uint16_t *half)
{
    *half = half_from_float(value);
    return (*half & 0x7c00u) != 0x7c00u;
}

static bool round_halves(int64_t groups, const float *in, uint16_t *half, float *stored)
{
    for (int64_t g = 0; g < groups; g++) {
        if (!half_of(in[g], &half[g]))
            return false;
        stored[g] = half_to_float(half[g]);
    }
    return true;
}

/* The magnitudes of a super-block, to be stored as factor * integers from 0 (least where the magnitude isn't 0) to
 * most. */
struct super {
    int n, least, most;
    float x[SUPER_GROUPS], weight[SUPER_GROUPS];
};

/* The nearest integers for a factor; their weighted squared error. */
static double choose(const struct super *s, float factor, uint16_t *integer)
{
    float inverse = factor > 0 ? 1 / factor : 0;
    double error = 0;

    for (int g = 0; g < s->n; g++) {
        float nearest = fminf(rintf(s->x[g] * inverse), (float)s->most), miss;

        integer[g] = (uint16_t)(s->x[g] > 0 ? fmaxf(nearest, (float)s->least) : 0);
        miss = s->x[g] - factor * (float)integer[g];
        error += (double)s->weight[g] * miss * miss;
    }
    return error;
}

/* The factor of least squares for these integers, or the one they were chosen for. */
static float fitted(const struct super *s, const uint16_t *integer, float factor)
{
    double product = 0, square = 0;

    for (int g = 0; g < s->n; g++) {
        product += (double)s->weight[g] * s->x[g] * integer[g];
        square += (double)s->weight[g] * integer[g] * integer[g];
    }
    return square > 0 ? (float)(product / square) : factor;
}

/* *factor: a magnitude in f16. False where it overflows. */
static bool search(const struct super *s, uint16_t *factor, uint16_t *integer)
{
    float largest = 0, value;
    double best = INFINITY;

    for (int g = 0; g < s->n; g++)
        largest = s->x[g] > largest ? s->x[g] : largest;
    if (!half_of(largest / (float)s->most, factor))
        return false;
    for (int below = 0; below < TRIES; below++) {
        value = largest / (float)(s->most - below);
        for (int step = 0; step < 2; step++) {
            uint16_t half, chosen[SUPER_GROUPS];
            double error;

            if (!half_of(value, &half))
                break;
            error = choose(s, half_to_float(half), chosen);
            if (error < best) {
                best = error;
                *factor = half;
            }
            value = fitted(s, chosen, half_to_float(half));
        }
    }
    choose(s, half_to_float(*factor), integer);
    return true;
}

/* The super-block of in that starts at group first: magnitudes of those with this sign, 0 for others if clip. */
static struct super super_of(struct dtype dtype, int64_t groups, int64_t first, const float *in, const float *weight,
                             float sign, bool clip)
{
    struct super s = {.n = (int)(groups - first < SUPER_GROUPS ? groups - first : SUPER_GROUPS), .least = !clip,
                      .most = (1 << dtype.scale_bits) - 1};

    for (int g = 0; g < s.n; g++) {
        float x = sign * in[first + g];

        s.x[g] = clip ? fmaxf(x, 0) : fabsf(x);
        s.weight[g] = weight ? weight[first + g] : 1;
    }
    return s;
}

static bool round_super(const struct super *s, float sign, uint16_t *factor, uint16_t *integer, float *stored)
{
    if (!search(s, factor, integer))
        return false;
    if (sign < 0 && *factor)
        *factor |= 0x8000u;
    for (int g = 0; g < s->n; g++)
        stored[g] = half_to_float(*factor) * (float)integer[g];
    return true;
}

static bool all_finite(int64_t count, const float *x)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

bool scales_round(struct dtype dtype, int64_t groups, const float *scale, const float *weight, struct group_row *row,
                  float *stored)
{
    if (!dtype.scale_bits)
        return round_halves(groups, scale, row->scale, stored);
    if (!all_finite(groups, scale))
        return false;
    for (int64_t g = 0; g < groups; g += SUPER_GROUPS) {
        struct super s = super_of(dtype, groups, g, scale, weight, 1, false);
        float largest = 0;

        for (int i = 0; i < s.n; i++)
            largest = s.x[i] > fabsf(largest) ? scale[g + i] : largest;
        if (!round_super(&s, largest, row->scale_factor + g / SUPER_GROUPS, row->scale + g, stored + g))
            return false;
    }
    return true;
}

/* Per element, what it costs to store the minima of one sign as 0. A positive one: a group of scale s becomes one of
 * scale s + minimum / most, and the error of rounding is scale^2 / 12. A negative one: the share of the range that lies
 * below 0 is clipped. */
static double clipping(const struct super *s, const float *scale, float most, bool negative)
{
    double cost = 0;

    for (int g = 0; g < s->n; g++) {
        double x = s->x[g], range = most * fabs((double)scale[g]);

        cost += s->weight[g] * (negative ? x * x / 3 * (x < range ? x / range : 1)
                                         : (2 * range * x + x * x) / (12.0 * most * most));
    }
    return cost;
}

bool minima_round(struct dtype dtype, int64_t groups, const float *minimum, const float *scale, const float *weight,
                  struct group_row *row, float *stored)
{
    float most = (float)((1 << dtype.bits) - 1);

    if (!dtype.scale_bits)
        return round_halves(groups, minimum, row->zero, stored);
    if (!all_finite(groups, minimum))
        return false;
    for (int64_t g = 0; g < groups; g += SUPER_GROUPS) {
        struct super below = super_of(dtype, groups, g, minimum, weight, -1, true);
        struct super above = super_of(dtype, groups, g, minimum, weight, 1, true);
        bool positive = clipping(&below, scale + g, most, true) < clipping(&above, scale + g, most, false);

        if (!round_super(positive ? &above : &below, positive ? 1 : -1, row->minimum_factor + g / SUPER_GROUPS,
                         row->zero + g, stored + g))
            return false;
    }
    return true;
}

/* The scales of a super-block have one sign: what is on the other side of 0 from the largest becomes 0. */
static void align(struct dtype dtype, int64_t groups, float *scale)
{
    for (int64_t first = 0; dtype.scale_bits && first < groups; first += SUPER_GROUPS) {
        int64_t end = first + SUPER_GROUPS < groups ? first + SUPER_GROUPS : groups;
        float largest = 0;

        for (int64_t g = first; g < end; g++)
            largest = fabsf(scale[g]) > fabsf(largest) ? scale[g] : largest;
        for (int64_t g = first; g < end; g++)
            scale[g] = (scale[g] < 0) == (largest < 0) ? scale[g] : 0;
    }
}

static bool replace_groups(struct tensor *tensor, const float *scale, const float *minimum)
{
    struct group_layout l;
    struct group_row row;
    bool good = group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    float *wished = xmallocarray((size_t)l.groups, 2 * sizeof *wished), *stored = wished + l.groups;

    row = group_row_new(&l);
    for (int64_t i = 0; i < l.rows && good; i++) {
        for (int64_t g = 0; g < l.groups; g++)
            wished[g] = scale[i * l.groups + g];
        align(tensor->dtype, l.groups, wished);
        tensor_get_codes(tensor, &l, i, &row);
        if (minimum)
            good = minima_round(tensor->dtype, l.groups, minimum + i * l.groups, wished, NULL, &row, stored);
        good = good && scales_round(tensor->dtype, l.groups, wished, NULL, &row, stored);
        if (good)
            tensor_put_row(tensor, &l, i, &row);
    }
    group_row_free(&row);
    free(wished);
    return good;
}

bool scales_replace(struct tensor *tensor, const float *scale, const float *minimum)
{
    struct trellis_layout l;
    uint16_t *half;
    float stored;

    if (tensor->dtype.kind == DTYPE_GROUP)
        return replace_groups(tensor, scale, minimum);
    trellis_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    half = (void *)(tensor->data + l.scale);
    for (int64_t row = 0; row < l.rows; row++)
        if (!round_halves(1, &scale[row], &half[row], &stored))
            return false;
    return true;
}

struct scaling scales_of(const struct tensor *tensor)
{
    struct scaling s = {.groups = 1};
    struct group_layout l;

    s.rows = tensor_rows(tensor);
    s.length = s.group = tensor_row_length(tensor);
    if (tensor->dtype.kind == DTYPE_GROUP) {
        group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
        s.group = l.group;
        s.groups = l.groups;
        s.minima = tensor->dtype.zero == ZERO_MIN;
    }
    return s;
}

void scales_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit)
{
    if (tensor->dtype.kind == DTYPE_GROUP)
        group_get_units(tensor, first, rows, unit);
    else
        trellis_get_units(tensor, first, rows, unit);
}

void scales_get(const struct tensor *tensor, float *scale, float *minimum)
{
    if (tensor->dtype.kind == DTYPE_GROUP)
        group_get_scales(tensor, scale, minimum);
    else
        trellis_get_scales(tensor, scale);
}
