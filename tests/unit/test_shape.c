/* test_shape.c - shapes of matrix product operators: text, counts, candidates, and the permutation to their sites. */
#include "base/memory.h"
#include "base/parallel.h"
#include "fit/reorder.h"
#include "fit/shape.h"

#include <stdlib.h>

#include "check.h"

static struct mpo_shape shape_of(const char *text)
{
    struct mpo_shape shape;

    assert_true(shape_parse(text, &shape));
    return shape;
}

static int64_t size_of(const struct mpo_shape *shape)
{
    int64_t size = 1;

    for (int k = 0; k < shape->n_site; k++)
        size *= shape->out[k] * shape->in[k];
    return size;
}

static void test_shape_text(void)
{
    static const char *const bad[] = {"", "x", "2", "2x", "x3", "2x3,", "2x3,4", "0x3", "-2x3", "2x 3", "2x3;4x5",
                                      "+2x3",
                                      "4294967296x4294967296", "99999999999999999999x1",
                                      "1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1,1x1"};
    char text[SHAPE_TEXT];
    struct mpo_shape shape = shape_of("20x256,640x16");

    assert_int_equal(shape.n_site, 2);
    assert_string_equal(shape_print(&shape, text), "20x256,640x16");
    assert_true(shape_fits(&shape, 12800, 4096));
    assert_false(shape_fits(&shape, 4096, 12800));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(shape_parse(bad[i], &shape));
}

static void test_shape_counts(void)
{
    struct mpo_shape shape = shape_of("6x6,6x6,6x6");
    int64_t bond[MPO_SITES + 1];

    for (int64_t chi = 1; chi <= 36; chi++) {
        assert_false(shape_bonds(&shape, chi, bond));
        assert_int_equal(shape_parameters(&shape, chi), 2 * 36 * chi + 36 * chi * chi);
        assert_int_equal(shape_chi(&shape, shape_parameters(&shape, chi)), chi);
        assert_int_equal(shape_chi(&shape, shape_parameters(&shape, chi) - 1), chi - 1);
    }
    assert_true(shape_bonds(&shape, 37, bond));
    assert_int_equal(bond[1], 36);
    assert_int_equal(shape_parameters(&shape, 1000), shape_parameters(&shape, 36));
    shape = shape_of("2x3,1x1,5x7,1x1");
    shape_bonds(&shape, 100, bond);
    assert_int_equal(bond[1], 6);
    assert_int_equal(bond[2], 6);
    assert_int_equal(bond[3], 1);
}

static void test_candidates(void)
{
    static const int64_t sizes[][2] = {{12800, 4096}, {4096, 4096}, {1024, 4096}, {576, 1536}, {192, 576}, {13, 17},
                                       {1, 1},        {1, 100},     {97, 1},      {2, 2},      {49155, 4096}};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int n_site = 1; n_site <= MPO_SITES; n_site++) {
            struct mpo_shape list[SHAPE_CANDIDATES];
            int count = shape_candidates(sizes[i][0], sizes[i][1], n_site, list);

            assert_in_range(count, 1, SHAPE_CANDIDATES);
            for (int j = 0; j < count; j++) {
                assert_int_equal(list[j].n_site, n_site);
                assert_true(shape_fits(&list[j], sizes[i][0], sizes[i][1]));
                for (int k = 0; k < j; k++)
                    assert_false(shape_same(&list[j], &list[k]));
            }
            if (n_site == 2) {
                assert_int_equal(list[0].in[0], 1);
                assert_int_equal(list[0].out[1], 1);
            }
        }
}

/* Element by element: row index (o1 o2 ...), column index (i1 i2 ...) to (o1 i1, o2 i2, ...). */
static void check_reorder(const char *text)
{
    struct mpo_shape shape = shape_of(text);
    int64_t size = size_of(&shape), in = 1;
    float *w = xmallocarray((size_t)size, sizeof *w);

    for (int k = 0; k < shape.n_site; k++)
        in *= shape.in[k];
    for (int64_t i = 0; i < size; i++)
        w[i] = (float)i;
    reorder_sites(w, &shape);
    for (int64_t to = 0; to < size; to++) {
        int64_t rest = to, row = 0, column = 0, rows = 1, columns = 1;

        for (int k = shape.n_site - 1; k >= 0; k--) {
            column += rest % shape.in[k] * columns;
            columns *= shape.in[k];
            rest /= shape.in[k];
            row += rest % shape.out[k] * rows;
            rows *= shape.out[k];
            rest /= shape.out[k];
        }
        assert_true(w[to] == (float)(row * in + column));
    }
    free(w);
}

static void test_reorder(void)
{
    static const char *const shapes[] = {"7x1,1x5", "1x5,7x1", "3x4,5x2", "2x2,2x2,2x2", "1x3,4x2,5x7", "64x3,2x9",
                                         "2x64,50x3", "1x7,1x1,3x2", "16x1,3x5,1x4,2x2", "9x9", "1x30,1x2,60x1"};

    for (int threads = 1; threads <= 4; threads += 3) {
        parallel_set(threads);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_reorder(shapes[i]);
    }
    parallel_set(0);
}

CHECK_MAIN({"shapes are read and printed", test_shape_text},
           {"parameters, bonds and the chi of a budget", test_shape_counts},
           {"candidates fit, differ, start with the matrix", test_candidates},
           {"reordering agrees with the index formula", test_reorder})
