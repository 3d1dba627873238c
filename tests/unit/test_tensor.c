/* test_tensor.c - number formats: half precision, packing, the group formats. */
#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "fit/round.h"
#include "tensor/scales.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every half goes to float and back; and the float halfway to its neighbour rounds to the even one. */
static void test_halves(void)
{
    for (unsigned bits = 0; bits < 0x7c00; bits++) {
        float value = half_to_float((uint16_t)bits);

        assert_int_equal(half_from_float(value), bits);
        assert_int_equal(half_from_float(-value), bits | 0x8000);
        if (bits < 0x7bff) {
            float middle = (value + half_to_float((uint16_t)(bits + 1))) / 2;

            assert_int_equal(half_from_float(middle), bits & 1 ? bits + 1 : bits);
            assert_int_equal(half_from_float(nextafterf(middle, 0)), bits);
            assert_int_equal(half_from_float(nextafterf(middle, INFINITY)), bits + 1);
        }
    }
    assert_int_equal(half_from_float(65519.996f), 0x7bff);
    assert_int_equal(half_from_float(65520), 0x7c00);
    assert_int_equal(half_from_float(INFINITY), 0x7c00);
    assert_true(isnan(half_to_float(half_from_float(NAN))));
    assert_true(isnan(bfloat_to_float(bfloat_from_float(NAN))));
    assert_int_equal(bfloat_from_float(1.00390625f), 0x3f80);     /* 1 + 2^-8: ties to even */
    assert_int_equal(bfloat_from_float(1.01171875f), 0x3f82);
}

/* The vector paths of tensors agree with the single conversions. */
static void test_tensor_conversions(void)
{
    struct random random = random_named(1, "conversions");
    float values[1028], back[1028];
    struct tensor half = tensor_new(DTYPE(F16), 2, (int64_t[]){4, 257});
    struct tensor brain = tensor_new(DTYPE(BF16), 2, (int64_t[]){4, 257});

    random_normal(random, 0, 1028, values);
    values[3] = 1e-7f;
    values[5] = 7e4f;
    values[1027] = -3e-5f;
    tensor_set(&half, values);
    tensor_get(&half, back);
    for (int i = 0; i < 1028; i++)
        assert_true(back[i] == half_to_float(half_from_float(values[i])));
    tensor_set(&brain, values);
    tensor_get(&brain, back);
    for (int i = 0; i < 1028; i++)
        assert_true(back[i] == bfloat_to_float(bfloat_from_float(values[i])));
    tensor_free(&half);
    tensor_free(&brain);
}

static const int widths[] = {2, 3, 4, 5, 6, 8};
static const int64_t lengths[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 67, 127, 129, 255, 1023};

enum { N_WIDTH = sizeof widths / sizeof *widths, N_LENGTH = sizeof lengths / sizeof *lengths };

static void test_packing_is_exact(void)
{
    for (int w = 0; w < N_WIDTH; w++)
        for (int l = 0; l < N_LENGTH; l++) {
            unsigned char codes[1024], packed[2048], back[1024];
            int64_t n = lengths[l];

            for (int64_t i = 0; i < n; i++)
                codes[i] = (unsigned char)((i * 29 + 7 * w + (i >> 3)) & ((1 << widths[w]) - 1));
            for (int64_t group = 1; group <= n; group = group * 3 + 1) {
                memset(packed, 0xee, sizeof packed);
                codes_pack(widths[w], n, group, codes, packed);
                codes_unpack(widths[w], n, group, packed, back);
                assert_memory_equal(codes, back, n);
            }
        }
}

static void test_names(void)
{
    static const char *const good[] = {"f32", "bf16", "i64", "q4-64-min", "q2-row-none", "q8-1-int",
                                       "q3-64-min-s6", "q2-row-none-s8", "q8-999999999-none-s6", "q5-16-int-s8"};
    static const char *const bad[] = {"", "f33", "q7-64-min", "q4-0-min", "q4-064-min", "q4-64-max", "q4-64-minx",
                                      "q4--min", "q4-64-", "Q4-64-min", "q4-row", "q10-64-min", "q4-99999999999-min",
                                      "q3-64-min-s0", "q3-64-min-s7", "q3-64-min-s", "q3-64-min-s6x", "q3-64-min-",
                                      "q3-64-s6", "f16-s6", "q3-64-min-s6-s6", "q3-64-min-S6", "q3-64-min-s06"};
    struct dtype dtype;
    char name[DTYPE_NAME];

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(dtype_parse(good[i], &dtype));
        assert_string_equal(dtype_name(dtype, name), good[i]);
        assert_true(dtype_same(dtype, dtype));
    }
    assert_true(dtype_parse("q3-64-min-s6", &dtype));
    assert_false(dtype_same(dtype, (struct dtype){.kind = DTYPE_GROUP, .bits = 3, .group = 64, .zero = ZERO_MIN}));
    assert_false(dtype_same(dtype, (struct dtype){.kind = DTYPE_GROUP, .bits = 3, .group = 64, .zero = ZERO_MIN,
                                                  .scale_bits = 8}));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(dtype_parse(bad[i], &dtype));
}

static void test_sizes(void)
{
    struct dtype dtype;

    assert_int_equal(dtype_payload(DTYPE(F32), 2, (int64_t[]){3, 5}), 60);
    assert_int_equal(dtype_payload(DTYPE(F32), 0, NULL), 4);
    assert_int_equal(dtype_payload(DTYPE(F32), 2, (int64_t[]){INT64_MAX / 2, 5}), -1);
    assert_true(dtype_parse("q4-64-min", &dtype));
    /* 2 rows of 100: groups of 64 and 36 codes, 32 + 18 bytes; 4 scales at 128, 4 minima at 192 */
    assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){2, 100}), 192 + 8);
    /* rows run along the last axis longer than 1 */
    assert_int_equal(dtype_payload(dtype, 4, (int64_t[]){1, 2, 100, 1}), 192 + 8);
    assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){INT64_MAX / 2, 64}), -1);
    assert_int_equal(dtype_payload(dtype, 1, (int64_t[]){INT64_MAX}), -1);
}

/* 3 rows of 17 groups of 4, the last of 1: 3 super-blocks. */
static void test_sizes_of_supers(void)
{
    static const int64_t shape[] = {3, 65}, huge[] = {INT64_MAX / 8 / 16 / 8 * 8, 8};
    struct group_layout l;
    struct dtype dtype;

    assert_true(dtype_parse("q3-4-min-s6", &dtype) && group_layout(dtype, 2, shape, &l));
    assert_int_equal(l.supers, 3);
    assert_int_equal(l.scale, 128);              /* codes: 3 * (16 * 2 + 1) = 99 */
    assert_int_equal(l.zero, 192);               /* scales: 3 * ceil(17 * 6 / 8) = 39 */
    assert_int_equal(l.scale_factor, 256);
    assert_int_equal(l.minimum_factor, 320);     /* factors: 3 * 3 * 2 = 18 */
    assert_int_equal(l.total, 338);
    assert_int_equal(dtype_payload(dtype, 2, shape), 338);
    dtype.zero = ZERO_NONE;
    assert_int_equal(dtype_payload(dtype, 2, shape), 192 + 18);
    dtype.zero = ZERO_INT;                       /* zero points of 3 bits: 3 * 7 = 21 */
    assert_int_equal(dtype_payload(dtype, 2, shape), 256 + 18);
    assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){0, 65}), 0);
    assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){3, 0}), 0);
    /* a column is one row: 3 codes in one group, one super-block; zero point and scale take a byte each */
    assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){3, 1}), 192 + 2);
    for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++)
        for (int bits = 6; bits <= 8; bits += 2) {
            dtype = (struct dtype){.kind = DTYPE_GROUP, .bits = 8, .group = 1, .zero = (enum dtype_zero)zero,
                                   .scale_bits = bits};
            assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){INT64_MAX / 2, 64}), -1);
            assert_int_equal(dtype_payload(dtype, 1, (int64_t[]){INT64_MAX}), -1);
            assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){INT64_MAX, 1}), -1);
            assert_int_equal(dtype_payload(dtype, 2, (int64_t[]){-1, 64}), -1);
            assert_int_equal(dtype_payload(dtype, 3, (int64_t[]){INT64_MAX / 16, 1, 16}), -1);
            assert_true(dtype_payload(dtype, 2, huge) > 0);
        }
}

/* FORMAT's example, byte by byte; and gaps are zero. */
static void test_super_example(void)
{
    static const unsigned char expected[258] = {[0] = 0xf0, 0xa5, 0x03, [64] = 0x42, [128] = 0x44, [193] = 0x34,
                                                [257] = 0xbc};
    static const float values[] = {-4, 3.5f, -1.5f, 1, -0.25f};
    unsigned char codes[] = {0, 15, 5, 10, 3};
    struct group_row row = {codes, (uint16_t[]){2, 1}, (uint16_t[]){4, 1}, (uint16_t[]){0x3400}, (uint16_t[]){0xbc00}};
    struct dtype dtype = {.kind = DTYPE_GROUP, .bits = 4, .group = 4, .zero = ZERO_MIN, .scale_bits = 6};
    struct tensor tensor = tensor_new(dtype, 1, (int64_t[]){5});
    struct group_layout layout;
    float back[5];

    assert_true(group_layout(dtype, 1, tensor.shape, &layout));
    tensor_put_row(&tensor, &layout, 0, &row);
    assert_int_equal(tensor.bytes, 258);
    assert_memory_equal(tensor.data, expected, 258);
    tensor_get(&tensor, back);
    assert_memory_equal(back, values, sizeof values);
    tensor_free(&tensor);
}

/* The weighted error of the best factor in f16, with the nearest integers from 1 (0 of a magnitude of 0). */
static double best_error(const float *x, const float *weight, int64_t n, int most)
{
    double best = INFINITY;

    for (unsigned half = 1; half < 0x7c00; half++) {
        double factor = half_to_float((uint16_t)half), error = 0;

        for (int64_t i = 0; i < n; i++) {
            double integer = fmin(fmax(rint(fabs(x[i]) / factor), x[i] != 0), most);

            error += weight[i] * pow(fabs(x[i]) - factor * integer, 2);
        }
        best = fmin(best, error);
    }
    return best;
}

/* Against all factors: of scales of one sign, at worst about as good as the nearest integers for the largest. */
static void test_scales_against_all_factors(void)
{
    struct random random = random_named(3, "scales");
    double found = 0, possible = 0;
    float noise[32], scale[8], weight[8], stored[8];
    uint16_t integer[8] = {0}, factor = 0;
    struct group_row row = {.scale = integer, .scale_factor = &factor};

    for (int trial = 0; trial < 24; trial++) {
        int n = 1 + trial % 8, bits = trial % 2 ? 6 : 8;
        struct dtype dtype = {.kind = DTYPE_GROUP, .bits = 3, .group = 32, .zero = ZERO_INT, .scale_bits = bits};
        double error = 0, best;

        random_normal(random, (uint64_t)trial * 32, 32, noise);
        for (int i = 0; i < n; i++) {
            scale[i] = i == 3 ? 0 : 0.02f * expf(0.4f * noise[i]);
            weight[i] = expf(noise[8 + i]);
        }
        assert_true(scales_round(dtype, n, scale, weight, &row, stored));
        for (int i = 0; i < n; i++) {
            assert_true(stored[i] == half_to_float(factor) * (float)integer[i] && integer[i] < 1 << bits);
            assert_true((scale[i] == 0) == (stored[i] == 0));
            error += weight[i] * pow(scale[i] - stored[i], 2);
        }
        best = best_error(scale, weight, n, (1 << bits) - 1);
        found += sqrt(error);
        possible += sqrt(best);
    }
    CHECK_AT_MOST(found, 1.5 * possible, "errors of scales against the best");
}

/* Signs, what clips, and what is refused. */
static void test_scales_of_supers(void)
{
    struct dtype q3 = {.kind = DTYPE_GROUP, .bits = 3, .group = 32, .zero = ZERO_MIN, .scale_bits = 6},
                 none = {.kind = DTYPE_GROUP, .bits = 3, .group = 32, .zero = ZERO_NONE, .scale_bits = 6};
    float negative[] = {-0.5f, -0.25f, 0.125f, 0}, positive[] = {0.5f, 1, 0, 2}, scale[] = {0.1f, 0.1f, 0.1f, 0.1f};
    float stored[4], bad[] = {NAN, INFINITY, -INFINITY, 65504 * 64.0f};
    uint16_t integer[4], factor[1];
    struct group_row row = {.scale = integer, .zero = integer, .scale_factor = factor, .minimum_factor = factor};

    assert_true(minima_round(q3, 4, negative, scale, NULL, &row, stored));
    CHECK_AT_MOST(fabsf(stored[0] + 0.5f), 0.5f / 63, "a negative minimum");
    CHECK_AT_MOST(fabsf(stored[1] + 0.25f), 0.5f / 63, "a negative minimum");
    assert_true(stored[2] == 0 && stored[3] == 0);
    assert_true(minima_round(q3, 4, positive, scale, NULL, &row, stored));
    CHECK_AT_MOST(fabsf(stored[3] - 2), 2.0f / 63, "a positive minimum");
    /* no sign where nothing is there */
    assert_true(minima_round(q3, 1, stored + 2, scale, NULL, &row, stored));
    assert_int_equal(factor[0], 0);
    assert_true(scales_round(none, 3, negative, NULL, &row, stored));
    assert_true(stored[0] < 0 && stored[1] < 0 && stored[2] < 0);
    CHECK_AT_MOST(fabsf(stored[2] + 0.125f), 0.5f / 63, "the magnitude of a scale of the other sign");
    for (int i = 0; i < 4; i++) {
        assert_false(scales_round(none, 1, bad + i, NULL, &row, stored));
        assert_false(minima_round(q3, 1, bad + i, scale, NULL, &row, stored));
    }
}

/* What a group's numbers differ from the wished ones: f16 of scale and minimum shifts the ends of the range, and so
 * does rounding to integers, by about half a factor (once for the minimum, once for each step of the scale). */
static double stored_slack(const struct tensor *tensor, const struct group_layout *l, int64_t row, int64_t group)
{
    const uint16_t *scale = (const void *)(tensor->data + l->scale_factor);
    const uint16_t *minimum = (const void *)(tensor->data + l->minimum_factor);
    int64_t super = row * l->supers + group / SUPER_GROUPS;
    double slack = 0;

    if (l->supers)
        slack += fabs(half_to_float(scale[super])) * (1 << tensor->dtype.bits);
    if (l->minimum_supers)
        slack += fabs(half_to_float(minimum[super]));
    return slack;
}

static double step_of(const struct tensor *tensor, const struct group_layout *l, int64_t row, int64_t group)
{
    const uint16_t *scale = (const void *)(tensor->data + l->scale);
    const uint16_t *factor = (const void *)(tensor->data + l->scale_factor);
    unsigned char integers[1024];

    if (!l->supers)
        return fabs(half_to_float(scale[row * l->groups + group]));
    codes_unpack(tensor->dtype.scale_bits, l->groups, l->groups, tensor->data + l->scale + row * l->scale_bytes,
                 integers);
    return fabs(half_to_float(factor[row * l->supers + group / SUPER_GROUPS])) * integers[group];
}

/* |w - w'| <= scale / 2 for each element (none: scale, at the end that has one code less), by any number of
 * threads. */
static void check_rounding(struct dtype dtype, const float *values, int64_t rows, int64_t length)
{
    struct tensor tensor = tensor_new(DTYPE(F32), 2, (int64_t[]){rows, length});
    float *back = xmallocarray((size_t)(rows * length), sizeof *back);
    struct group_layout layout;

    tensor_set(&tensor, values);
    assert_int_equal(round_nearest(&tensor, dtype, "test", &(struct difference){0}), 0);
    tensor_get(&tensor, back);
    group_layout(dtype, 2, tensor.shape, &layout);
    rows = layout.rows;                  /* of a column: one */
    length = layout.length;
    for (int64_t r = 0; r < rows; r++) {
        double largest = 0;

        for (int64_t i = 0; i < length; i++)
            largest = fmax(largest, fabs(values[r * length + i]));
        for (int64_t g = 0; g < layout.groups; g++) {
            /* half a step; int rounds its zero point */
            double bound = step_of(&tensor, &layout, r, g) * (dtype.zero == ZERO_MIN ? 0.5 : 1.0) + largest * 0x1p-10
                           + 6e-8 * (1 << dtype.bits) + stored_slack(&tensor, &layout, r, g);

            for (int64_t i = g * layout.group; i < length && i < (g + 1) * layout.group; i++)
                CHECK_AT_MOST(fabs(values[r * length + i] - back[r * length + i]), bound, "rounding error");
        }
    }
    free(back);
    tensor_free(&tensor);
}

static void test_rounding_bounds(void)
{
    static const int scale_bits[] = {0, 6, 8};
    struct random random = random_named(7, "rounding");
    float values[4 * 1024];

    random_normal(random, 0, 4 * 1024, values);
    for (int w = 0; w < N_WIDTH; w++)
        for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++)
            for (int l = 0; l < N_LENGTH; l++)
                for (int s = 0; s < 3; s++) {
                    struct dtype dtype = {.kind = DTYPE_GROUP, .bits = widths[w], .group = 32,
                                          .zero = (enum dtype_zero)zero, .scale_bits = scale_bits[s]};

                    check_rounding(dtype, values, 3, lengths[l]);
                    dtype.group = GROUP_ROW;
                    check_rounding(dtype, values, 2, lengths[l]);
                }
}

/* Integer scales cost little: the error over many super-blocks, against that with f16 scales. Without an offset the
 * groups of a super-block share the end of the range that has one code less: of 3 bits 3 steps instead of 4. */
static void test_rounding_with_integers(void)
{
    enum { N = 128 * 96 };
    float *values = xmallocarray(N, sizeof *values);

    random_normal(random_named(8, "rounding"), 0, N, values);
    for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++) {
        struct dtype dtype = {.kind = DTYPE_GROUP, .bits = 3, .group = 32, .zero = (enum dtype_zero)zero};
        double error[3];

        for (int s = 0; s < 3; s++) {
            struct tensor tensor = tensor_new(DTYPE(F32), 2, (int64_t[]){24, N / 24});
            struct difference told = {0};

            tensor_set(&tensor, values);
            dtype.scale_bits = (int[]){0, 6, 8}[s];
            assert_int_equal(round_nearest(&tensor, dtype, "test", &told), 0);
            error[s] = difference_error(&told);
            tensor_free(&tensor);
        }
        CHECK_AT_MOST(error[1], error[0] * (zero == ZERO_NONE ? 4 / 3.0 : 1.02), "scales of 6 bits");
        CHECK_AT_MOST(error[2], error[0] * (zero == ZERO_NONE ? 4 / 3.0 : 1.005), "scales of 8 bits");
    }
    free(values);
}

static float rounded_error(struct dtype dtype, const float *values, int64_t n)
{
    struct tensor tensor = tensor_new(DTYPE(F32), 1, &n);
    struct difference told = {0};
    float back[256], error;

    tensor_set(&tensor, values);
    assert_int_equal(round_nearest(&tensor, dtype, "test", &told), 0);
    tensor_get(&tensor, back);
    error = (float)check_relative(back, values, n);
    CHECK_AT_MOST(fabs(difference_error(&told) - error), 1e-6, "error as told and as found");
    tensor_free(&tensor);
    return error;
}

static void test_special_groups(void)
{
    struct dtype q4 = {.kind = DTYPE_GROUP, .bits = 4, .group = 32, .zero = ZERO_MIN};
    float zeros[32] = {0}, constant[32], outlier[32] = {0}, grid[32];

    for (int i = 0; i < 9; i++) {
        q4.zero = (enum dtype_zero)(i % 3);
        q4.scale_bits = (int[]){0, 6, 8}[i / 3];
        assert_true(rounded_error(q4, zeros, 32) == 0);
        for (int k = 0; k < 32; k++)
            constant[k] = -0.375f;
        CHECK_AT_MOST(rounded_error(q4, constant, 32), 0x1p-10, "a constant group");
        outlier[9] = 1000;
        CHECK_AT_MOST(rounded_error(q4, outlier, 32), 0x1p-10, "one outlier");
    }
    /* what was on a 4-bit grid with f16 scale and minimum comes back exactly */
    q4.zero = ZERO_MIN;
    q4.scale_bits = 0;
    for (int i = 0; i < 32; i++)
        grid[i] = half_to_float(half_from_float(0.0123f)) * (float)((i * 7) % 16)
                  + half_to_float(half_from_float(-0.09f));
    assert_true(rounded_error(q4, grid, 32) == 0);
    /* so does the symmetric grid of Q4_0 */
    q4.zero = ZERO_NONE;
    for (int i = 0; i < 32; i++)
        grid[i] = half_to_float(half_from_float(0.0123f)) * (float)((i * 7) % 16 - 8);
    assert_true(rounded_error(q4, grid, 32) == 0);
}

static void test_not_finite_is_refused(void)
{
    struct dtype q4 = {.kind = DTYPE_GROUP, .bits = 4, .group = 32, .zero = ZERO_MIN};
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e9f};
    char message[256];

    error_capture(message, sizeof message);
    for (int i = 0; i < 8; i++) {
        struct tensor tensor = tensor_new(DTYPE(F32), 1, (int64_t[]){40});

        q4.scale_bits = i / 4 * 6;
        memset(tensor.data, 0, 160);
        ((float *)(void *)tensor.data)[37] = bad[i % 4];
        assert_int_equal(round_nearest(&tensor, q4, "w", &(struct difference){0}), EX_DATAERR);
        assert_non_null(strstr(message, "'w'"));
        tensor_free(&tensor);
    }
    error_capture(NULL, 0);
}

CHECK_MAIN({"halves convert exactly, ties to even", test_halves},
           {"tensors convert as single numbers do", test_tensor_conversions},
           {"packing is exact for each width and odd lengths", test_packing_is_exact},
           {"dtypes have one name each", test_names},
           {"payload sizes, overflow included", test_sizes},
           {"payload sizes with super-blocks", test_sizes_of_supers},
           {"a row with integer scales, byte by byte", test_super_example},
           {"integer scales against all factors", test_scales_against_all_factors},
           {"signs of super-blocks, and what is refused", test_scales_of_supers},
           {"rounding stays within half a step", test_rounding_bounds},
           {"integer scales cost little", test_rounding_with_integers},
           {"zero, constant, outlier groups, and grids that come back exactly", test_special_groups},
           {"values that are not finite are refused", test_not_finite_is_refused})
