/* test_ranks.c - parts of ranks, and the tree of their sums, which is that of micro-batches. */
#include "check.h"
#include "base/error.h"
#include "train/ranks.h"

#include <math.h>
#include <stdlib.h>

static void test_parts(void)
{
    static const int64_t sizes[] = {0, 16, 48, 1008, 1024, 1040, 123456 * 16, RANKS_FLOATS};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int count = 1; count <= RANKS_MOST; count++) {
            assert_int_equal(ranks_part(sizes[i], 0, count), 0);
            assert_int_equal(ranks_part(sizes[i], count, count), sizes[i]);
            for (int r = 0; r < count; r++) {
                int64_t first = ranks_part(sizes[i], r, count), end = ranks_part(sizes[i], r + 1, count);

                assert_int_equal(first % 16, 0);
                assert_true(first <= end);
                /* at most one cell more than a fair share, cells being rounded to lines */
                assert_true(end - first <= (sizes[i] / RANKS_CELLS + 16) * (RANKS_CELLS / count + 1));
            }
        }
}

enum { WIDTH = 5000, MOST = 37 };        /* more than a piece of the sum */

/* Numbers whose sum depends on the order. */
static float number(int row, int column)
{
    return (float)((row * 7919 + column * 104729) % 1000003 - 500000) * (row % 3 ? 1.1f : 1.3e-4f);
}

/* A binary counter: what parameters_carry() does with one micro-batch after another, and parameters_add() at last. */
static float counted(int rows, int column)
{
    float level[8] = {0}, sum;
    bool full[8] = {false};

    for (int row = 0; row < rows; row++) {
        int i = 0;

        sum = number(row, column);
        if (row == rows - 1)
            break;
        for (; full[i]; i++) {
            sum += level[i];
            full[i] = false;
        }
        level[i] = sum;
        full[i] = true;
    }
    sum = number(rows - 1, column);
    for (int i = 0; i < 8; i++)
        sum += full[i] ? level[i] : 0;
    return sum;
}

static void test_tree(void)
{
    static float rows[MOST][WIDTH];
    static double doubles[MOST][WIDTH];
    float *row[MOST];
    double *wide[MOST];

    for (int count = 1; count <= MOST; count++) {
        int differ = 0;

        for (int r = 0; r < count; r++) {
            row[r] = rows[r];
            wide[r] = doubles[r];
            for (int i = 0; i < WIDTH; i++)
                doubles[r][i] = rows[r][i] = number(r, i);
        }
        ranks_add(row, count, WIDTH);
        ranks_add_doubles(wide, count, WIDTH);
        for (int i = 0; i < WIDTH; i++) {
            float straight = 0, expected = counted(count, i);
            double exact = 0;

            for (int r = 0; r < count; r++) {
                straight += number(r, i);
                exact += number(r, i);
            }
            differ += straight != expected;
            assert_true(rows[0][i] == expected);
            assert_true(fabs(doubles[0][i] - exact) < 1e-7);     /* sums of at most 37 times 6e5, eps 1.1e-16 */
        }
        assert_true(count < 4 || differ > 0);            /* or the test couldn't fail */
    }
}

static void test_alone(void)
{
    struct ranks *ranks = ranks_alone();
    char *text = ranks_text(ranks, "as it is");

    assert_int_equal(ranks->count, 1);
    assert_string_equal(text, "as it is");
    free(text);
    assert_int_equal(ranks_agree(ranks, EX_OK), EX_OK);
    assert_int_equal(ranks_agree(ranks, EX_IOERR), EX_IOERR);
    assert_int_equal(ranks_agree(ranks_imagine(5), EX_DATAERR), EX_DATAERR);
    assert_int_equal(ranks_imagine(5)->count, 5);
    assert_false(ranks_alone()->imagined);
}

CHECK_MAIN({"parts", test_parts}, {"tree", test_tree}, {"alone", test_alone})
