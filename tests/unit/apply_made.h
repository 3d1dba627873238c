/* apply_made.h - operators of all kinds for test_apply.c and test_apply_plans.c, and what applying them must give: W
 * in full times the input, in double. */
#ifndef TESTS_APPLY_MADE_H
#define TESTS_APPLY_MADE_H

#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "operator/apply_internal.h"
#include "tensor/scales.h"
#include "tensor/trellis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SITES = 5, TERMS = 3 };

#define PACKED(b, g, z) ((struct dtype){.kind = DTYPE_GROUP, .bits = b, .group = g, .zero = ZERO_##z})

#define TRELLIS(b, s, state_bits) ((struct dtype){.kind = DTYPE_TRELLIS, .bits = b, .step = s, .state = state_bits})

struct chain_spec {
    int n;
    int64_t out[SITES], in[SITES], bond[SITES + 1];
    struct dtype dtype[SITES];   /* {0} is f32 */
};

struct spec {
    const char *name;            /* "hadamard BLOCK/SEED, ..." has that transform of its input; "hadamard full
                                    SEED/SEED" those of both whole sides, seed 0: none of the input */
    struct chain_spec term[TERMS];
};

#define F32 DTYPE(F32)
#define F16 DTYPE(F16)
#define BF16 DTYPE(BF16)

static const struct spec specs[] = {
    {"dense f32", {{1, {35}, {70}, {1, 1}, {F32}}}},
    {"dense f16", {{1, {35}, {70}, {1, 1}, {F16}}}},
    {"dense bf16", {{1, {35}, {70}, {1, 1}, {BF16}}}},
    {"dense f64", {{1, {35}, {70}, {1, 1}, {DTYPE(F64)}}}},
    {"dense row", {{1, {1}, {70}, {1, 1}, {F32}}}},
    {"dense column", {{1, {35}, {1}, {1, 1}, {F16}}}},
    {"packed none", {{1, {35}, {70}, {1, 1}, {PACKED(4, 32, NONE)}}}},
    {"packed int", {{1, {35}, {70}, {1, 1}, {PACKED(3, 16, INT)}}}},
    {"packed min", {{1, {35}, {70}, {1, 1}, {PACKED(8, GROUP_ROW, MIN)}}}},
    {"packed column", {{1, {35}, {1}, {1, 1}, {PACKED(4, 32, MIN)}}}},
    {"low rank f32", {{2, {35, 1}, {1, 70}, {1, 9, 1}, {F32, F32}}}},
    {"low rank f16", {{2, {35, 1}, {1, 70}, {1, 9, 1}, {F16, BF16}}}},
    {"low rank packed", {{2, {35, 1}, {1, 70}, {1, 40, 1}, {PACKED(4, 32, MIN), PACKED(6, 32, NONE)}}}},
    {"low rank chi 1", {{2, {35, 1}, {1, 70}, {1, 1, 1}, {F16, PACKED(4, 16, MIN)}}}},
    {"low rank chi 1 packed", {{2, {35, 1}, {1, 70}, {1, 1, 1}, {PACKED(4, 16, MIN), F32}}}},
    {"1 x 1", {{2, {1, 1}, {1, 1}, {1, 1, 1}, {F32, F32}}}},
    {"1 x 1, chi 3", {{2, {1, 1}, {1, 1}, {1, 3, 1}, {F32, F32}}}},
    {"packed + low rank", {{1, {35}, {70}, {1, 1}, {PACKED(4, 32, MIN)}},
                           {2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"low rank + packed", {{2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}},
                           {1, {35}, {70}, {1, 1}, {PACKED(4, 32, MIN)}}}},
    {"two low rank", {{2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F32}}, {2, {35, 1}, {1, 70}, {1, 7, 1}, {F32, F16}}}},
    {"chain + dense + low rank", {{2, {7, 5}, {7, 10}, {1, 4, 1}, {F32, F16}}, {1, {35}, {70}, {1, 1}, {F16}},
                                  {2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"two dense + chain", {{1, {35}, {70}, {1, 1}, {F32}}, {1, {35}, {70}, {1, 1}, {BF16}},
                           {3, {5, 1, 7}, {2, 5, 7}, {1, 4, 3, 1}, {F32, F16, F32}}}},
    {"two chains", {{2, {7, 5}, {7, 10}, {1, 4, 1}, {F32, F32}}, {2, {5, 7}, {1, 70}, {1, 3, 1}, {F32, F32}}}},
    {"turned low rank", {{2, {1, 35}, {70, 1}, {1, 6, 1}, {F32, F32}}}},
    {"two sites", {{2, {7, 5}, {7, 10}, {1, 12, 1}, {F32, PACKED(4, 32, MIN)}}}},
    {"two sites, large chi", {{2, {7, 5}, {7, 10}, {1, 49, 1}, {F32, F32}}}},
    {"two sites, chi 1", {{2, {7, 5}, {7, 10}, {1, 1, 1}, {F32, F32}}}},
    {"skewed", {{2, {35, 1}, {2, 35}, {1, 8, 1}, {F32, F32}}}},
    {"skewed, small first", {{2, {2, 20}, {2, 35}, {1, 4, 1}, {F32, F32}}}},
    {"skewed, small last", {{2, {20, 2}, {35, 2}, {1, 4, 1}, {F32, F32}}}},
    {"three sites", {{3, {3, 4, 5}, {5, 2, 7}, {1, 6, 8, 1}, {F32, BF16, F32}}}},
    {"three sites, degenerate", {{3, {35, 1, 1}, {1, 1, 70}, {1, 6, 5, 1}, {F32, F32, F32}}}},
    {"three sites, empty middle", {{3, {7, 1, 5}, {7, 1, 10}, {1, 6, 5, 1}, {F32, F32, F32}}}},
    {"four sites", {{4, {2, 3, 1, 4}, {3, 1, 5, 2}, {1, 3, 7, 4, 1}, {F32, F32, F32, F32}}}},
    {"five sites", {{5, {2, 3, 2, 1, 3}, {2, 2, 3, 5, 2}, {1, 4, 6, 5, 3, 1}, {F32, F32, F32, F32, F32}}}},
    {"hadamard 32/5, packed", {{1, {35}, {96}, {1, 1}, {PACKED(3, 32, MIN)}}}},
    {"hadamard 2/5, dense", {{1, {35}, {70}, {1, 1}, {F16}}}},
    {"hadamard 2/5, low rank", {{2, {35, 1}, {1, 70}, {1, 9, 1}, {F32, F16}}}},
    {"hadamard 2/9, packed + low rank", {{1, {35}, {70}, {1, 1}, {PACKED(4, 32, MIN)}},
                                         {2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"hadamard 2/9, chain + dense", {{2, {7, 5}, {7, 10}, {1, 4, 1}, {F32, F16}}, {1, {35}, {70}, {1, 1}, {F16}}}},
    {"hadamard 64/1, three sites", {{3, {3, 4, 5}, {4, 2, 8}, {1, 6, 8, 1}, {F32, BF16, F32}}}},
    {"hadamard 16/0, low rank packed", {{2, {35, 1}, {1, 96}, {1, 40, 1}, {PACKED(4, 32, MIN), PACKED(6, 32, NONE)}}}},
    {"hadamard full 5/6, packed", {{1, {35}, {96}, {1, 1}, {PACKED(3, 32, MIN)}}}},
    {"hadamard full 5/6, dense", {{1, {35}, {70}, {1, 1}, {F16}}}},
    {"hadamard full 0/6, low rank", {{2, {35, 1}, {1, 70}, {1, 9, 1}, {F32, F16}}}},
    {"hadamard full 7/8, packed + low rank", {{1, {35}, {70}, {1, 1}, {PACKED(4, 32, MIN)}},
                                              {2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"hadamard full 7/8, chain + dense", {{2, {7, 5}, {7, 10}, {1, 4, 1}, {F32, F16}},
                                          {1, {35}, {70}, {1, 1}, {F16}}}},
    {"hadamard full 9/1, three sites", {{3, {3, 4, 5}, {4, 2, 8}, {1, 6, 8, 1}, {F32, BF16, F32}}}},
    {"trellis", {{1, {48}, {70}, {1, 1}, {TRELLIS(2, 1, 12)}}}},
    {"trellis, no whole strips + low rank", {{1, {35}, {70}, {1, 1}, {TRELLIS(5, 2, 10)}},
                                             {2, {35, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"low rank trellis", {{2, {48, 1}, {1, 70}, {1, 16, 1}, {TRELLIS(4, 1, 16), TRELLIS(3, 1, 10)}}}},
    {"hadamard full 3/4, trellis + low rank", {{1, {48}, {70}, {1, 1}, {TRELLIS(2, 1, 10)}},
                                               {2, {48, 1}, {1, 70}, {1, 5, 1}, {F16, F16}}}},
    {"five sites, large chi", {{5, {2, 3, 2, 2, 3}, {2, 2, 3, 2, 2}, {1, 4, 24, 30, 6, 1}, {F32, F32, F32, F32, F32}}}},
};

enum { N_SPEC = sizeof specs / sizeof *specs };

static inline void fill_values(struct tensor *tensor, struct random random)
{
    int64_t count = tensor_count(tensor);
    float *values = xmallocarray((size_t)(count + 3), sizeof *values);

    random_normal(random, 0, (count + 3) / 4 * 4, values);
    if (tensor->dtype.kind == DTYPE_F64)
        for (int64_t i = 0; i < count; i++)
            ((double *)(void *)tensor->data)[i] = (double)values[i];
    else
        tensor_set(tensor, values);
    free(values);
}

static inline void fill_codes(struct tensor *tensor, struct random random)
{
    struct group_layout layout;
    struct group_row made;
    uint32_t word[4];

    assert_true(group_layout(tensor->dtype, tensor->rank, tensor->shape, &layout));
    made = group_row_new(&layout);
    for (int64_t row = 0; row < layout.rows; row++) {
        for (int64_t i = 0; i < layout.length; i++) {
            random_block(random, (uint64_t)(row * layout.length + i), word);
            made.codes[i] = (unsigned char)(word[0] % (1u << tensor->dtype.bits));
            made.scale[i / layout.group] = half_from_float(0.01f + (float)(word[1] % 64) / 640);
            made.zero[i / layout.group] = tensor->dtype.zero == ZERO_INT
                                              ? (uint16_t)(word[2] % (1u << tensor->dtype.bits))
                                              : half_from_float(-(float)(word[2] % 64) / 64);
        }
        tensor_put_row(tensor, &layout, row, &made);
    }
    group_row_free(&made);
}

static inline void fill_trellis(struct tensor *tensor, struct random random)
{
    struct trellis_layout l;
    uint32_t word[4];

    assert_true(trellis_layout(tensor->dtype, 4, tensor->shape, &l));
    for (int64_t i = 0; i < l.codes; i++) {
        random_block(random, (uint64_t)i, word);
        tensor->data[i] = (unsigned char)word[0];
    }
    for (int64_t i = 0; i < l.rows; i++)
        ((uint16_t *)(void *)(tensor->data + l.scale))[i] = half_from_float(0.5f + 0.1f * (float)(i % 13));
}

static inline struct operator make_term(const struct chain_spec *z, uint64_t seed)
{
    struct tensor core[SITES];

    for (int s = 0; s < z->n; s++) {
        struct random random = random_named(seed, (char[]){(char)('a' + s), '\0'});

        core[s] = tensor_new(z->dtype[s], 4, (int64_t[]){z->bond[s], z->out[s], z->in[s], z->bond[s + 1]});
        if (z->dtype[s].kind == DTYPE_GROUP)
            fill_codes(&core[s], random);
        else if (z->dtype[s].kind == DTYPE_TRELLIS)
            fill_trellis(&core[s], random);
        else
            fill_values(&core[s], random);
    }
    return operator_from_cores("w", z->n, core);
}

static inline struct operator make(const struct spec *spec)
{
    struct operator op = make_term(&spec->term[0], 0);
    long long block, seed;

    if (sscanf(spec->name, "hadamard %lld/%lld", &block, &seed) == 2)
        op.input = (struct transform){block, (uint64_t)seed, 0};
    if (sscanf(spec->name, "hadamard full %lld/%lld", &block, &seed) == 2) {
        op.input = block ? transform_full(op.in, (uint64_t)block) : (struct transform){0};
        op.output = transform_full(op.out, (uint64_t)seed);
    }
    op.term = xreallocarray(op.term, TERMS, sizeof *op.term);
    for (int t = 1; t < TERMS && spec->term[t].n; t++) {
        struct operator more = make_term(&spec->term[t], (uint64_t)t);

        op.term[op.n_term++] = more.term[0];
        assert_true(more.out == op.out && more.in == op.in);
        more.n_term = 0;
        operator_free(&more);
    }
    return op;
}

/* A [rows, columns] of normal numbers on the host; the same for the same sizes. */
static inline float *numbers(const char *name, int64_t rows, int64_t columns)
{
    int64_t count = (rows * columns + 3) / 4 * 4;
    float *x = xaligned((size_t)count, sizeof *x);

    random_normal(random_named(7, name), 0, count, x);
    return x;
}

static inline float *to_device(const struct device *device, const float *host, int64_t count)
{
    float *x = device->allocate((size_t)count * sizeof *x);

    device->upload(x, host, (size_t)count * sizeof *x);
    return x;
}

/* y [n, out] += W x in double, with W as [out, in]. */
static inline void multiply_double(double *y, const float *w, const double *x, int64_t n, int64_t out, int64_t in)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t j = 0; j < in; j++)
                y[i * out + o] += (double)w[o * in + j] * x[i * in + j];
}

/* Rounds to 8 bits as device.h says. */
static inline void round_8(double *x, int64_t n, int64_t d)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t first = 0; first < d; first += ACTIVATION_GROUP) {
            int64_t end = first + ACTIVATION_GROUP < d ? first + ACTIVATION_GROUP : d;
            float most = 0, scale;

            for (int64_t j = first; j < end; j++)
                most = fmaxf(most, fabsf((float)x[i * d + j]));
            scale = most / 127;
            for (int64_t j = first; j < end; j++)
                x[i * d + j] = scale > 0 ? (double)rintf((float)x[i * d + j] / scale) * (double)scale : 0;
        }
}

static inline double *in_double(const float *x, int64_t count)
{
    double *y = xmallocarray((size_t)(count ? count : 1), sizeof *y);

    for (int64_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}

/* y += core x of a core that is a matrix, with its input rounded where it is packed and that is asked for. */
static inline void multiply_core(double *y, const struct tensor *core, const double *x, int64_t n, int64_t out,
                                 int64_t in, enum activations activations)
{
    float *w = xmallocarray((size_t)(out * in), sizeof *w);
    double *rounded = xmallocarray((size_t)(n * in), sizeof *rounded);

    tensor_get(core, w);
    memcpy(rounded, x, (size_t)(n * in) * sizeof *x);
    if (activations == ACTIVATIONS_INT8 && dtype_is_packed(core->dtype))
        round_8(rounded, n, in);
    multiply_double(y, w, rounded, n, out, in);
    free(w);
    free(rounded);
}

/* T x, which test_transform.c holds to the definition. */
static inline double *turned_input(const struct operator *op, const float *x, int64_t n)
{
    float *turned = xmallocarray((size_t)(n * op->in), sizeof *turned);
    double *result;

    memcpy(turned, x, (size_t)(n * op->in) * sizeof *x);
    transform_rows(op->input, turned, n, op->in);
    result = in_double(turned, n * op->in);
    free(turned);
    return result;
}

/* y [n, out] = W x in double: whole terms by operator_dense(), matrices and low rank core by core. */
static inline float *expected(const struct operator *op, const float *host_x, int64_t n, enum activations activations)
{
    double *x = turned_input(op, host_x, n), *y = xcalloc((size_t)(n * op->out) + 1, sizeof *y);
    float *w = xmallocarray((size_t)(op->out * op->in), sizeof *w), *result;

    for (int t = 0; t < op->n_term; t++) {
        struct operator term = {.out = op->out, .in = op->in, .n_term = 1, .term = &op->term[t]};
        const struct tensor *core = op->term[t].core;

        if (op->term[t].n_site == 1)
            multiply_core(y, core, x, n, op->out, op->in, activations);
        else if (chain_is_low_rank(&op->term[t])) {
            int64_t chi = core[1].shape[0];
            double *hidden = xcalloc((size_t)(n * chi), sizeof *hidden);

            multiply_core(hidden, &core[1], x, n, chi, op->in, activations);
            multiply_core(y, &core[0], hidden, n, op->out, chi, activations);
            free(hidden);
        } else {
            operator_dense(&term, w);
            multiply_double(y, w, x, n, op->out, op->in);
        }
    }
    result = xmallocarray((size_t)(n * op->out), sizeof *result);
    for (int64_t i = 0; i < n * op->out; i++)
        result[i] = (float)y[i];
    transform_rows_inverse(op->output, result, n, op->out);
    free(x);
    free(y);
    free(w);
    return result;
}

/* y [n, out] by the device, with strides that are wider than the rows by pad, added to start (NULL: not added). What
 * lies between the rows must stay. */
static inline float *applied_to(const struct applied *w, const struct device *device, const float *x, int64_t n,
                                int64_t pad, const float *start)
{
    int64_t out = apply_out(w), in = apply_in(w), stride = out + pad, x_stride = in + pad;
    float *wide = xcalloc((size_t)(n * x_stride), sizeof *wide);
    float *y = xmallocarray((size_t)(n * stride), sizeof *y), *dx, *dy;

    for (int64_t i = 0; i < n; i++) {
        memcpy(wide + i * x_stride, x + i * in, (size_t)in * sizeof *x);
        for (int64_t o = 0; o < stride; o++)
            y[i * stride + o] = o >= out ? 77 : start ? start[i * out + o] : NAN;
    }
    dx = to_device(device, wide, n * x_stride);
    dy = to_device(device, y, n * stride);
    apply(&(struct application){w, dy, stride, start != NULL}, 1, dx, x_stride, n);
    device->download(y, dy, (size_t)(n * stride) * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t o = out; o < stride; o++)
            assert_true(y[i * stride + o] == 77);
        memmove(y + i * out, y + i * stride, (size_t)out * sizeof *y);
    }
    device->release(dx);
    device->release(dy);
    free(wide);
    return y;
}

/* Sums of f32 products: rounding grows with the square root of their number, which is below 10^4. */
#define BOUND 1e-5

static inline void check_against(const char *name, const float *y, const float *truth, const float *start,
                                 int64_t count, double bound)
{
    float *sum = xmallocarray((size_t)count, sizeof *sum);

    for (int64_t i = 0; i < count; i++)
        sum[i] = start ? truth[i] + start[i] : truth[i];
    CHECK_AT_MOST(check_relative(y, sum, count), bound, name);
    free(sum);
}

static const struct device *const devices[] = {&device_reference, &device_cpu};

static inline void check_applied(const struct applied *w, const char *name, const struct device *device, const float *x,
                          const float *truth, int64_t n, double bound)
{
    float *start = numbers("start", n, apply_out(w));

    for (int variant = 0; variant < 4; variant++) {
        const float *from = variant % 2 ? start : NULL;
        float *y = applied_to(w, device, x, n, variant / 2 * 5, from);

        check_against(name, y, truth, from, n * apply_out(w), bound);
        free(y);
    }
    free(start);
}

static inline struct applied *place(const struct spec *spec, const struct device *device, enum activations activations)
{
    struct operator op = make(spec);
    struct applied *w = apply_place(device, &op, activations);

    assert_true(!op.name && !op.term && !op.n_term);
    return w;
}

#endif
