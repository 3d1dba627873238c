/* test_trellis.c - trellis formats: names, sizes, tiles of all shapes, rows. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "tensor/trellis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct dtype named(const char *name)
{
    struct dtype dtype;

    assert_true(dtype_parse(name, &dtype));
    return dtype;
}

static void test_names(void)
{
    static const char *const good[] = {"t1-8", "t1.5-12", "t2-12", "t2.5-9", "t3-16", "t3.5-10", "t4-12"};
    static const char *const bad[] = {"t", "t2", "t2-", "t-12", "t2-7", "t2-17", "t0.5-12", "t4.5-12", "t5-12",
                                      "t2.0-12", "t2.25-12", "t02-12", "t2-012", "t2-12x", "t2-12-12",
                                      "T2-12", "t2 -12", "t.5-12",
                                      "t2-99999999999", "t2.50-12"};
    struct dtype dtype;
    char name[DTYPE_NAME];

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(dtype_parse(good[i], &dtype));
        assert_string_equal(dtype_name(dtype, name), good[i]);
        assert_true(dtype_same(dtype, dtype) && dtype_is_packed(dtype) && dtype_is_real(dtype));
        assert_false(dtype_same(dtype, named(i ? good[0] : good[1])));
    }
    assert_false(dtype_same(named("t2-12"), named("t2-13")));
    assert_false(dtype_same(named("t2-12"), named("q2-12-none")));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(dtype_parse(bad[i], &dtype));
}

static int64_t bytes_of(const char *name, int64_t rows, int64_t length)
{
    return dtype_payload(named(name), 2, (int64_t[]){rows, length});
}

/* Rates are exact: 576 x 576 weights, and an f16 per row. */
static void test_sizes(void)
{
    assert_int_equal(bytes_of("t2-12", 576, 576), 576 * 576 * 2 / 8 + 576 * 2);
    assert_int_equal(bytes_of("t2.5-12", 576, 576), 576 * 576 * 5 / 16 + 576 * 2);
    assert_int_equal(bytes_of("t1-8", 576, 576), 576 * 576 / 8 + 576 * 2);
    /* 17 x 18: tiles of 16 x 16, 16 x 2, 1 x 16, 1 x 2 weights; 3 bits: 96 + 12 + 6 + 1 bytes */
    assert_int_equal(bytes_of("t3-12", 17, 18), 128 + 34);
    /* 1.5 bits, of two weights 3: 48 + 6 + 3 + 1 */
    assert_int_equal(bytes_of("t1.5-12", 17, 18), 64 + 34);
    assert_int_equal(dtype_payload(named("t2-12"), 4, (int64_t[]){1, 3, 100, 1}), bytes_of("t2-12", 3, 100));
    assert_int_equal(bytes_of("t2-12", 0, 5), 0);
    assert_int_equal(bytes_of("t2-12", 3, 0), 6);
    assert_int_equal(bytes_of("t2-12", INT64_MAX / 2, 64), -1);
    assert_int_equal(bytes_of("t4-12", INT64_MAX / 4, 16), -1);
    assert_int_equal(bytes_of("t4-12", INT64_MAX, 1), -1);
    assert_int_equal(bytes_of("t2-12", -1, 64), -1);
}

/* The bit of a tile's codes, counted round. */
static uint32_t bit_of(const unsigned char *packed, int64_t bits, int64_t i)
{
    return packed[i % bits / 8] >> i % bits % 8 & 1;
}

/* By bisection of the distribution. */
static double normal_quantile(double part)
{
    double low = -9, high = 9;

    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;

        *(erfc(-middle / sqrt(2)) / 2 < part ? &low : &high) = middle;
    }
    return low;
}

/* Weight (row, column) as FORMAT says it, from nothing but the payload and the table of factors, which a test in
 * Python compares with FORMAT's. */
static float weight_of(const struct tensor *tensor, int64_t rows, int64_t length, int64_t row, int64_t column)
{
    struct dtype d = tensor->dtype;
    int64_t at = 0, scale_at = 0, count = 0, inside = 0;

    for (int64_t top = 0; top < rows; top += 16)
        for (int64_t left = 0; left < length; left += 16) {
            int64_t height = rows - top < 16 ? rows - top : 16, width = length - left < 16 ? length - left : 16;

            if (row / 16 * 16 == top && column / 16 * 16 == left) {
                at = scale_at;
                count = height * width;
                inside = (column - left) * height + row - top;
            }
            scale_at += ((height * width + d.step - 1) / d.step * d.bits + 7) / 8;
        }
    scale_at = (scale_at + 63) / 64 * 64;

    int64_t bits = (count + d.step - 1) / d.step * d.bits;
    uint32_t state = 0;
    double quantile;
    uint16_t half;

    for (int i = 0; i < d.state; i++)
        state |= bit_of(tensor->data + at, bits, inside / d.step * d.bits + i) << i;
    state = state * trellis_factor(d, (int)(inside % d.step)) % (1u << d.state) >> (d.state - 7);
    quantile = 96 * normal_quantile((state + 0.5) / 128);
    memcpy(&half, tensor->data + scale_at + 2 * row, 2);
    return half_to_float(half) / 64 * (float)(2 * lrint((quantile - 1) / 2) + 1);
}

static struct tensor random_trellis(const char *name, int64_t rows, int64_t length)
{
    struct tensor tensor = tensor_new(named(name), 2, (int64_t[]){rows, length});
    struct random random = random_named(3, name);
    struct trellis_layout l;

    trellis_layout(tensor.dtype, 2, tensor.shape, &l);
    for (int64_t i = 0; i < l.codes; i++) {
        uint32_t word[4];

        random_block(random, (uint64_t)i, word);
        tensor.data[i] = (unsigned char)word[0];
    }
    for (int64_t r = 0; r < rows; r++)
        ((uint16_t *)(void *)(tensor.data + l.scale))[r] = half_from_float((float)(r % 7 + 1) / 16 * (r % 3 ? 1 : -1));
    return tensor;
}

static const char *const names[] = {"t1-8", "t1-16", "t1.5-8", "t1.5-12", "t2-12", "t2-11", "t2.5-12", "t2.5-16",
                                    "t3-12", "t3.5-8", "t3.5-13", "t4-9"};
static const int64_t shapes[][2] = {{1, 1}, {1, 5}, {5, 1}, {3, 2}, {16, 16}, {17, 18}, {31, 15}, {64, 172}, {15, 33}};

/* Every weight of every shape, whole and by rows. */
static void test_decode(void)
{
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            int64_t rows = shapes[s][0], length = shapes[s][1];
            int64_t out = length > 1 ? rows : 1, in = length > 1 ? length : rows;    /* the axis of rows */
            struct tensor tensor = random_trellis(names[n], rows, length);
            float *whole = xmallocarray((size_t)(rows * length), sizeof *whole), row[256];

            tensor_get(&tensor, whole);
            for (int64_t i = 0; i < rows * length; i++)
                assert_true(whole[i] == weight_of(&tensor, out, in, i / in, i % in));
            for (int64_t r = 0; r < out; r++) {
                tensor_get_rows(&tensor, r, 1, row);
                assert_memory_equal(row, whole + r * in, (size_t)in * sizeof *row);
            }
            if (out > 20) {
                float *band = xmallocarray((size_t)(5 * in), sizeof *band);

                tensor_get_rows(&tensor, 13, 5, band);       /* across the border of tiles */
                assert_memory_equal(band, whole + 13 * in, (size_t)(5 * in) * sizeof *band);
                free(band);
            }
            free(whole);
            tensor_free(&tensor);
        }
}

/* What states were packed come back. */
static void test_pack(void)
{
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (int steps = 1; steps <= TRELLIS_WEIGHTS / named(names[n]).step; steps += steps < 20 ? 1 : 59) {
            struct dtype dtype = named(names[n]);
            unsigned char packed[130], again[130];
            uint32_t state[TRELLIS_WEIGHTS];
            int bytes = (steps * dtype.bits + 7) / 8, unused = 8 * bytes - steps * dtype.bits;

            for (int i = 0; i < bytes; i++)
                packed[i] = (unsigned char)(i * 37 + steps * 11 + 5);
            packed[bytes - 1] &= (unsigned char)(255 >> unused);
            trellis_states(dtype, steps, packed, state);
            memset(again, 0xee, sizeof again);
            trellis_pack(dtype, steps, state, again);
            assert_memory_equal(packed, again, bytes);
            assert_int_equal(again[bytes], 0xee);
        }
}

/* Of all states: mean 0, and the deviation of the levels, each of which as many states have. */
static void test_values(void)
{
    for (int rate = 2; rate <= 8; rate++)
        for (int bits = TRELLIS_STATE_LEAST; bits <= TRELLIS_STATE_MOST; bits++) {
            double sum = 0, squares = 0;
            uint32_t count = 1u << bits;
            struct dtype dtype;

            assert_true(dtype_trellis(rate, bits, &dtype));
            for (uint32_t s = 0; s < count; s++) {
                double x = trellis_value(dtype, s, dtype.step - 1);

                sum += x;
                squares += x * x;
            }
            assert_true(sum == 0);
            assert_true(fabs(sqrt(squares / count) - TRELLIS_SPREAD) < 0.01);
        }
}

CHECK_MAIN({"trellis dtypes have one name each", test_names},
           {"payload sizes, overflow included", test_sizes},
           {"each weight is what FORMAT says, in whole tiles and short ones", test_decode},
           {"states are packed and come back", test_pack},
           {"values of all states are spread as they should be", test_values})
