/* test_tensor.c - number formats: half precision, packing, the group formats. */
#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "fit/round.h"
#include "tensor/tensor.h"

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
    struct tensor half = tensor_new(DTYPE(F16), 2, (int64_t[]){4, 257}), brain = tensor_new(DTYPE(BF16), 2, (int64_t[]){4, 257});

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
    static const char *const good[] = {"f32", "bf16", "i64", "q4-64-min", "q2-row-none", "q8-1-int"};
    static const char *const bad[] = {"", "f33", "q7-64-min", "q4-0-min", "q4-064-min", "q4-64-max", "q4-64-minx", "q4--min",
                                      "q4-64-", "Q4-64-min", "q4-row", "q10-64-min", "q4-99999999999-min"};
    struct dtype dtype;
    char name[DTYPE_NAME];

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(dtype_parse(good[i], &dtype));
        assert_string_equal(dtype_name(dtype, name), good[i]);
    }
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
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < length; i++) {
            const uint16_t *scale = (const void *)(tensor.data + layout.scale + (r * layout.groups + i / layout.group) * 2);
            double step = fabs(half_to_float(*scale)), value = values[r * length + i], largest = 0;

            for (int64_t j = 0; j < length; j++)
                largest = fmax(largest, fabs(values[r * length + j]));
            /* half a step; the f16 rounding of scale and minimum shifts the ends of the range; int rounds its zero
             * point */
            CHECK_AT_MOST(fabs(value - back[r * length + i]),
                          step * (dtype.zero == ZERO_MIN ? 0.5 : 1.0) + largest * 0x1p-10 + 6e-8 * (1 << dtype.bits), "rounding error");
        }
    free(back);
    tensor_free(&tensor);
}

static void test_rounding_bounds(void)
{
    struct random random = random_named(7, "rounding");
    float values[4 * 1024];

    random_normal(random, 0, 4 * 1024, values);
    for (int w = 0; w < N_WIDTH; w++)
        for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++)
            for (int l = 0; l < N_LENGTH; l++) {
                check_rounding((struct dtype){DTYPE_GROUP, widths[w], 32, (enum dtype_zero)zero}, values, 3, lengths[l]);
                check_rounding((struct dtype){DTYPE_GROUP, widths[w], GROUP_ROW, (enum dtype_zero)zero}, values, 2, lengths[l]);
            }
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
    struct dtype q4 = {DTYPE_GROUP, 4, 32, ZERO_MIN};
    float zeros[32] = {0}, constant[32], outlier[32] = {0}, grid[32];

    for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++) {
        q4.zero = (enum dtype_zero)zero;
        assert_true(rounded_error(q4, zeros, 32) == 0);
        for (int i = 0; i < 32; i++)
            constant[i] = -0.375f;
        CHECK_AT_MOST(rounded_error(q4, constant, 32), 0x1p-10, "a constant group");
        outlier[9] = 1000;
        CHECK_AT_MOST(rounded_error(q4, outlier, 32), 0x1p-10, "one outlier");
    }
    /* what was on a 4-bit grid with f16 scale and minimum comes back exactly */
    q4.zero = ZERO_MIN;
    for (int i = 0; i < 32; i++)
        grid[i] = half_to_float(half_from_float(0.0123f)) * (float)((i * 7) % 16) + half_to_float(half_from_float(-0.09f));
    assert_true(rounded_error(q4, grid, 32) == 0);
    /* so does the symmetric grid of Q4_0 */
    q4.zero = ZERO_NONE;
    for (int i = 0; i < 32; i++)
        grid[i] = half_to_float(half_from_float(0.0123f)) * (float)((i * 7) % 16 - 8);
    assert_true(rounded_error(q4, grid, 32) == 0);
}

static void test_not_finite_is_refused(void)
{
    struct dtype q4 = {DTYPE_GROUP, 4, 32, ZERO_MIN};
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e9f};
    char message[256];

    error_capture(message, sizeof message);
    for (int i = 0; i < 4; i++) {
        struct tensor tensor = tensor_new(DTYPE(F32), 1, (int64_t[]){40});

        memset(tensor.data, 0, 160);
        ((float *)(void *)tensor.data)[37] = bad[i];
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
           {"rounding stays within half a step", test_rounding_bounds},
           {"zero, constant, outlier groups, and grids that come back exactly", test_special_groups},
           {"values that are not finite are refused", test_not_finite_is_refused})
