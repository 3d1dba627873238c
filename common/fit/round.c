/* round.c - rounding to nearest, group by group. */
#include "fit/round.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "fit/compensate.h"
#include "tensor/scales.h"

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

/* What a group holds. */
struct span {
    float least, most, extreme;  /* extreme: the value of largest magnitude */
};

static float clamp_code(float code, int bits)
{
    float most = (float)((1 << bits) - 1);

    return code < 0 ? 0 : code > most ? most : code;
}

static struct span span_of(const float *w, int64_t n)
{
    struct span s = {w[0], w[0], 0};

    for (int64_t i = 0; i < n; i++) {
        s.least = w[i] < s.least ? w[i] : s.least;
        s.most = w[i] > s.most ? w[i] : s.most;
        s.extreme = fabsf(w[i]) > fabsf(s.extreme) ? w[i] : s.extreme;
    }
    return s;
}

/* The scales of ZERO_NONE for groups that share a sign: the sign for which they are smaller, since one end of the range
 * has one code more. */
static void scales_of_sign(int bits, int64_t groups, const struct span *span, float *scale)
{
    float half = (float)(1 << (bits - 1)), sums[2] = {0};

    for (int pass = 0; pass < 2; pass++)
        for (int64_t g = 0; g < groups; g++) {
            float low = fmaxf(-span[g].least, 0), high = fmaxf(span[g].most, 0);
            float up = fmaxf(low / half, high / (half - 1)), down = fmaxf(high / half, low / (half - 1));

            if (pass == 0) {
                sums[0] += up * up;
                sums[1] += down * down;
            } else
                scale[g] = sums[0] <= sums[1] ? up : -down;
        }
}

/* scale [groups]: what the spans ask for, with minima as they are stored. */
static void wish_scales(struct dtype dtype, int64_t groups, const struct span *span, const float *minimum, float *scale)
{
    float codes = (float)((1 << dtype.bits) - 1);

    if (dtype.zero == ZERO_NONE && dtype.scale_bits)
        for (int64_t g = 0; g < groups; g += SUPER_GROUPS)
            scales_of_sign(dtype.bits, groups - g < SUPER_GROUPS ? groups - g : SUPER_GROUPS, span + g, scale + g);
    else
        for (int64_t g = 0; g < groups; g++) {
            float low = dtype.scale_bits ? minimum[g] : span[g].least;

            scale[g] = dtype.zero == ZERO_NONE  ? span[g].extreme / -(float)(1 << (dtype.bits - 1))
                       : dtype.zero == ZERO_INT ? (fmaxf(span[g].most, 0) - fminf(span[g].least, 0)) / codes
                                                : fmaxf(span[g].most - low, 0) / codes;
        }
}

/* The codes of one group for its stored scale and minimum, and its zero point. */
static void choose_codes(struct dtype dtype, const float *w, int64_t n, float least, float scale, float minimum,
                         unsigned char *codes, uint16_t *zero)
{
    float inverse = scale != 0 ? 1 / scale : 0, offset = (float)(1 << (dtype.bits - 1));

    if (dtype.zero == ZERO_MIN) {
        for (int64_t i = 0; i < n; i++)
            codes[i] = (unsigned char)clamp_code(rintf((w[i] - minimum) * inverse), dtype.bits);
        return;
    }
    if (dtype.zero == ZERO_INT) {
        *zero = (uint16_t)clamp_code(rintf(-fminf(least, 0) * inverse), dtype.bits);
        offset = (float)*zero;
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (unsigned char)clamp_code(rintf(w[i] * inverse) + offset, dtype.bits);
}

/* Numbers of one row while it is rounded. */
struct space {
    struct group_row row;
    struct span *span;           /* [groups] */
    float *scale, *minimum;      /* [groups] */
};

static bool round_row(struct rounding *r, int64_t index, const float *w, struct space *s)
{
    const struct group_layout *l = &r->layout;
    struct dtype dtype = r->to->dtype;

    for (int64_t i = 0; i < l->length; i++)
        if (!isfinite(w[i]))
            return false;
    for (int64_t g = 0; g < l->groups; g++) {
        s->span[g] = span_of(w + g * l->group, least(l->length - g * l->group, l->group));
        s->minimum[g] = s->span[g].least;
    }
    wish_scales(dtype, l->groups, s->span, s->minimum, s->scale);
    if (dtype.zero == ZERO_MIN) {
        if (!minima_round(dtype, l->groups, s->minimum, s->scale, NULL, &s->row, s->minimum))
            return false;
        wish_scales(dtype, l->groups, s->span, s->minimum, s->scale);
    }
    if (!scales_round(dtype, l->groups, s->scale, NULL, &s->row, s->scale))
        return false;
    for (int64_t g = 0; g < l->groups; g++)
        choose_codes(dtype, w + g * l->group, least(l->length - g * l->group, l->group), s->span[g].least, s->scale[g],
                     s->minimum[g], s->row.codes + g * l->group, s->row.zero + g);
    tensor_put_row(r->to, l, index, &s->row);
    return true;
}

/* A band of rows, so that short rows don't cost a call each. */
enum { BAND = 16 };

static bool round_rows(struct rounding *r, int64_t first, int64_t rows, const float *w)
{
    size_t groups = (size_t)r->layout.groups;
    struct space s = {.row = group_row_new(&r->layout), .span = xmallocarray(groups, sizeof *s.span),
                      .scale = xmallocarray(groups, 2 * sizeof *s.scale)};
    bool good = true;

    s.minimum = s.scale + groups;
    for (int64_t row = 0; row < rows && good; row++)
        good = round_row(r, first + row, w + row * r->layout.length, &s);
    group_row_free(&s.row);
    free(s.span);
    free(s.scale);
    return good;
}

static void round_band(void *context, int64_t item, int thread)
{
    struct rounding *r = context;
    int64_t first = item * BAND, rows = least(r->layout.rows - first, BAND), count = rows * r->layout.length;
    float *w = xaligned((size_t)(2 * count), sizeof *w), *back = w + count;

    (void)thread;
    tensor_get_rows(r->from, first, rows, w);
    if (round_rows(r, first, rows, w)) {
        tensor_get_rows(r->to, first, rows, back);
        difference_add(&r->band[item], w, back, count, first * r->layout.length);
    } else
        atomic_store(&r->bad, true);
    free(w);
}

static int round_trellis(struct tensor *tensor, struct dtype dtype, const char *name, struct difference *difference)
{
    int64_t count = tensor_count(tensor);
    float *w = xaligned((size_t)count, sizeof *w), *back;
    struct compensated unused;
    struct tensor packed;
    int rc;

    tensor_get(tensor, w);
    if (!(rc = compensate_trellis(w, NULL, dtype, tensor->rank, tensor->shape, name, &packed, &unused))) {
        back = xaligned((size_t)count, sizeof *back);
        tensor_get(&packed, back);
        difference_add(difference, w, back, count, 0);
        free(back);
        tensor_free(tensor);
        *tensor = packed;
    }
    free(w);
    return rc;
}

int round_nearest(struct tensor *tensor, struct dtype dtype, const char *name, struct difference *difference)
{
    struct tensor packed;
    struct rounding r = {.from = tensor, .to = &packed};
    int64_t bands;

    if (dtype.kind == DTYPE_TRELLIS)
        return round_trellis(tensor, dtype, name, difference);
    packed = tensor_new(dtype, tensor->rank, tensor->shape);
    group_layout(dtype, tensor->rank, tensor->shape, &r.layout);
    bands = (r.layout.rows + BAND - 1) / BAND;
    r.band = xcalloc((size_t)bands, sizeof *r.band);
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
    int64_t total = tensor_rows(v->from), first = item * BAND, rows = least(total - first, BAND);
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
