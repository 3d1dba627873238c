/* round.c - rounding to nearest, group by group. */
#include "fit/round.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

struct rounding {
    const struct tensor *from;
    struct tensor *to;
    struct group_layout layout;
    struct difference *band;     /* of each band, to be summed in order */
    atomic_bool bad;
};

struct group {
    uint16_t scale, zero;
};

static float clamp_code(float code, int bits)
{
    float most = (float)((1 << bits) - 1);

    return code < 0 ? 0 : code > most ? most : code;
}

/* An f16 that is finite, or the group has to be refused. */
static bool half_of(float value, uint16_t *half)
{
    *half = half_from_float(value);
    return (*half & 0x7c00u) != 0x7c00u;
}

static bool group_none(const float *w, int64_t n, int bits, unsigned char *codes, struct group *group)
{
    float extreme = 0, inverse;

    for (int64_t i = 0; i < n; i++)
        if (fabsf(w[i]) > fabsf(extreme))
            extreme = w[i];
    if (!half_of(extreme / -(float)(1 << (bits - 1)), &group->scale))
        return false;
    inverse = group->scale & 0x7fffu ? 1 / half_to_float(group->scale) : 0;
    for (int64_t i = 0; i < n; i++)
        codes[i] = (unsigned char)clamp_code(rintf(w[i] * inverse) + (float)(1 << (bits - 1)), bits);
    return true;
}

static void range(const float *w, int64_t n, float *least, float *most)
{
    *least = *most = w[0];
    for (int64_t i = 1; i < n; i++) {
        *least = w[i] < *least ? w[i] : *least;
        *most = w[i] > *most ? w[i] : *most;
    }
}

static bool group_int(const float *w, int64_t n, int bits, unsigned char *codes, struct group *group)
{
    float least, most, inverse;

    range(w, n, &least, &most);
    least = least > 0 ? 0 : least;
    most = most < 0 ? 0 : most;
    if (!half_of((most - least) / (float)((1 << bits) - 1), &group->scale))
        return false;
    inverse = group->scale ? 1 / half_to_float(group->scale) : 0;
    group->zero = (uint16_t)clamp_code(rintf(-least * inverse), bits);
    for (int64_t i = 0; i < n; i++)
        codes[i] = (unsigned char)clamp_code(rintf(w[i] * inverse) + (float)group->zero, bits);
    return true;
}

static bool group_min(const float *w, int64_t n, int bits, unsigned char *codes, struct group *group)
{
    float least, most, inverse;

    range(w, n, &least, &most);
    if (!half_of(least, &group->zero) || !half_of((most - least) / (float)((1 << bits) - 1), &group->scale))
        return false;
    least = half_to_float(group->zero);
    inverse = group->scale ? 1 / half_to_float(group->scale) : 0;
    for (int64_t i = 0; i < n; i++)
        codes[i] = (unsigned char)clamp_code(rintf((w[i] - least) * inverse), bits);
    return true;
}

static bool round_row(struct rounding *r, int64_t row, const float *w)
{
    static bool (*const methods[])(const float *, int64_t, int, unsigned char *, struct group *) = {
        [ZERO_NONE] = group_none, [ZERO_INT] = group_int, [ZERO_MIN] = group_min};
    const struct group_layout *l = &r->layout;
    unsigned char *codes = xmalloc((size_t)l->length);
    uint16_t *scale = xmallocarray((size_t)l->groups, sizeof *scale);
    uint16_t *zero = xmallocarray((size_t)l->groups, sizeof *zero);
    bool good = true;

    for (int64_t i = 0; i < l->length; i++)
        good = good && isfinite(w[i]);
    for (int64_t g = 0; g < l->groups && good; g++) {
        int64_t first = g * l->group, n = l->length - first < l->group ? l->length - first : l->group;
        struct group group = {0};

        good = methods[r->to->dtype.zero](w + first, n, r->to->dtype.bits, codes + first, &group);
        scale[g] = group.scale;
        zero[g] = group.zero;
    }
    if (good)
        tensor_put_codes(r->to, row, codes, scale, zero);
    free(codes);
    free(scale);
    free(zero);
    return good;
}

/* A band of rows, so that short rows don't cost a call each. */
enum { BAND = 16 };

static void round_band(void *context, int64_t item, int thread)
{
    struct rounding *r = context;
    int64_t first = item * BAND, rows = r->layout.rows - first < BAND ? r->layout.rows - first : BAND;
    int64_t count = rows * r->layout.length;
    float *w = xaligned((size_t)(2 * count), sizeof *w), *back = w + count;

    (void)thread;
    tensor_get_rows(r->from, first, rows, w);
    for (int64_t row = 0; row < rows; row++)
        if (!round_row(r, first + row, w + row * r->layout.length)) {
            atomic_store(&r->bad, true);
            free(w);
            return;
        }
    tensor_get_rows(r->to, first, rows, back);
    difference_add(&r->band[item], w, back, count, first * r->layout.length);
    free(w);
}

int round_nearest(struct tensor *tensor, struct dtype dtype, const char *name, struct difference *difference)
{
    struct tensor packed = tensor_new(dtype, tensor->rank, tensor->shape);
    struct rounding r = {.from = tensor, .to = &packed};
    int64_t bands;

    group_layout(dtype, tensor->rank, tensor->shape, &r.layout);
    bands = (r.layout.rows + BAND - 1) / BAND;
    r.band = xcalloc((size_t)bands, sizeof *r.band);
    /* The gaps between planes are part of the payload: zero, so that equal weights give equal bytes. */
    for (int64_t i = r.layout.rows * r.layout.code_bytes; i < r.layout.scale; i++)
        packed.data[i] = 0;
    for (int64_t i = r.layout.scale + r.layout.rows * r.layout.groups * 2; i < r.layout.zero && i < r.layout.total; i++)
        packed.data[i] = 0;
    parallel_for(bands, round_band, &r);
    for (int64_t i = 0; i < bands; i++)
        difference_join(difference, &r.band[i]);
    free(r.band);
    if (atomic_load(&r.bad)) {
        tensor_free(&packed);
        return fail(EX_DATAERR, "'%s': a value is not finite, or too large for an f16 scale", name);
    }
    tensor_free(tensor);
    *tensor = packed;
    return EX_OK;
}

struct inversion {
    const struct tensor *from;
    struct tensor *to;
};

static void invert_band(void *context, int64_t item, int thread)
{
    struct inversion *v = context;
    int64_t total = tensor_rows(v->from), first = item * BAND, rows = total - first < BAND ? total - first : BAND;
    float *w = xaligned((size_t)(rows * tensor_row_length(v->from)), sizeof *w);

    (void)thread;
    tensor_get_rows(v->from, first, rows, w);
    tensor_set_rows(v->to, first, rows, w);
    free(w);
}

int round_inverse(struct tensor *tensor, struct dtype dtype, const char *name)
{
    struct tensor plain = tensor_new(dtype, tensor->rank, tensor->shape);
    struct inversion v = {tensor, &plain};

    parallel_for((tensor_rows(tensor) + BAND - 1) / BAND, invert_band, &v);
    if (!tensor_is_finite(&plain)) {
        tensor_free(&plain);
        return fail(EX_DATAERR, "'%s': a number is not finite, or too large for the dtype", name);
    }
    tensor_free(tensor);
    *tensor = plain;
    return EX_OK;
}
