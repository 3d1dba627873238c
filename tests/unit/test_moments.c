/* test_moments.c - moments files: written, read, refused; both triangles; the error of a change. */
#include "base/file.h"
#include "base/number.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "fit/moments.h"
#include "stream/writer.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char message[2048];

/* ---- files ---- */

static float *made_numbers(const char *name, int64_t count)
{
    float *numbers = xmallocarray((size_t)count + 3, sizeof *numbers);

    random_normal(random_named(3, name), 0, (count + 3) / 4 * 4, numbers);
    return numbers;
}

/* x x' of n made vectors, packed: H is of rank rank. */
static float *made_moments(const char *name, int64_t n, int64_t rank)
{
    float *x = made_numbers(name, n * rank), *packed = xmallocarray((size_t)(n * (n + 1) / 2), sizeof *packed);

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;

            for (int64_t r = 0; r < rank; r++)
                sum += (double)x[r * n + i] * x[r * n + j];
            packed[i * (i + 1) / 2 + j] = (float)(sum / (double)rank);
        }
    free(x);
    return packed;
}

static struct moment_set made_set(int block, const char *name, int64_t n, bool all)
{
    struct moment_set set = {.name = xasprintf("model.layers.%d.%s", block, name), .n_weight = 2,
                             .h = {n, 100 + block, made_moments(name, n, n)}};

    set.weight = xcalloc(2, sizeof *set.weight);
    set.weight[0] = xasprintf("model.layers.%d.%s.a.weight", block, name);
    set.weight[1] = xasprintf("model.layers.%d.%s.b.weight", block, name);
    if (all) {
        set.cross = made_numbers("cross", n * n);
        set.held = (struct moments){n, 7, made_moments("held", n, n)};
        set.held_cross = made_numbers("held cross", n * n);
    }
    return set;
}

static void start_file(struct writer *writer, const char *path)
{
    struct json *history = json_make_array();

    json_append(history, history_entry("extract-layer", json_make_object()));
    json_append(history, history_entry("calibrate", json_make_object()));
    assert_int_equal(writer_open(writer, path, NULL, history), EX_OK);
    json_drop(history);
}

static void put_set(struct writer *writer, struct moment_set set)
{
    assert_int_equal(moments_write(writer, &set), EX_OK);
    moment_set_free(&set);
}

static void end_file(struct writer *writer)
{
    assert_int_equal(writer_end(writer), EX_OK);
    writer_close(writer);
}

/* Blocks 0, 2 and 10, with a record of another kind between. */
static void make_file(const char *path)
{
    static const int64_t one = 1;
    static const int blocks[] = {0, 2, 10};
    struct writer writer;

    start_file(&writer, path);
    for (int b = 0; b < 3; b++) {
        struct record record;
        char *name = xasprintf("model.layers.%d.other.weight", blocks[b]);

        put_set(&writer, made_set(blocks[b], "mlp.down", 7, b == 1));
        put_set(&writer, made_set(blocks[b], "mlp.gateup", 5, false));
        record = record_tensor(name, DTYPE(F32), 1, &one);
        assert_int_equal(writer_put(&writer, &record, &(float){1}), EX_OK);
        record_free(&record);
        free(name);
    }
    end_file(&writer);
}

static void same_numbers(const float *a, const float *b, int64_t count)
{
    assert_int_equal(!a, !b);
    if (a)
        assert_memory_equal(a, b, (size_t)count * sizeof *a);
}

static void expect_set(struct moments_file *file, int block, const char *name, int64_t n, bool all)
{
    struct moment_set made = made_set(block, name, n, all);
    const struct moment_set *found;

    assert_int_equal(moments_find(file, made.weight[1], n, &found), EX_OK);
    assert_string_equal(found->name, made.name);
    assert_int_equal(found->n_weight, 2);
    assert_string_equal(found->weight[0], made.weight[0]);
    assert_int_equal(found->h.tokens, made.h.tokens);
    assert_int_equal(found->held.tokens, made.held.tokens);
    same_numbers(found->h.packed, made.h.packed, n * (n + 1) / 2);
    same_numbers(found->cross, made.cross, n * n);
    same_numbers(found->held.packed, made.held.packed, n * (n + 1) / 2);
    same_numbers(found->held_cross, made.held_cross, n * n);
    moment_set_free(&made);
}

static int find(struct moments_file *file, const char *weight, int64_t n)
{
    const struct moment_set *set;
    int rc;

    error_capture(message, sizeof message);
    rc = moments_find(file, weight, n, &set);
    error_capture(NULL, 0);
    assert_int_equal(!set, rc != EX_OK && !strstr(message, "of width"));
    return rc;
}

static void test_file(void)
{
    struct moments_file *file;
    struct json *history;

    make_file("f");
    assert_int_equal(moments_open(&file, "./f"), EX_OK);
    history = moments_history(file);
    assert_string_equal(json_as_string(json_at(history, "name"), ""), "f");
    assert_string_equal(json_as_string(json_at(json_at(history, "history"), "program"), ""), "calibrate");
    json_drop(history);
    expect_set(file, 2, "mlp.gateup", 5, false);
    expect_set(file, 2, "mlp.down", 7, true);
    expect_set(file, 10, "mlp.down", 7, false);
    expect_set(file, 0, "mlp.down", 7, false);           /* from the start again */
    assert_int_equal(find(file, "model.layers.1.mlp.down.a.weight", 7), EX_DATAERR);
    assert_non_null(strstr(message, "no moments for 'model.layers.1.mlp.down.a.weight'"));
    assert_int_equal(find(file, "lm_head.weight", 7), EX_DATAERR);
    assert_int_equal(find(file, "model.layers.11.mlp.down.a.weight", 7), EX_DATAERR);
    assert_int_equal(find(file, "model.layers.10.mlp.down.a.weight", 8), EX_DATAERR);
    assert_non_null(strstr(message, "of width 7 for"));
    expect_set(file, 10, "mlp.gateup", 5, false);
    moments_close(file);
    moments_close(NULL);
    error_capture(message, sizeof message);
    assert_int_equal(moments_open(&file, "none"), EX_NOINPUT);
    error_capture(NULL, 0);
    assert_null(file);
}

/* Of a pipe, blocks ascending: what lies behind is gone. */
static void test_pipe(void)
{
    struct text text = {0};
    struct moments_file *file;
    char path[32];
    int ends[2];

    make_file("f");
    assert_int_equal(file_read("f", 1 << 20, &text), EX_OK);
    assert_int_equal(pipe(ends), 0);
    assert_true(text.length < 65536);
    assert_int_equal(file_write(ends[1], "pipe", text.data, text.length), EX_OK);
    close(ends[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_int_equal(moments_open(&file, path), EX_OK);
    expect_set(file, 0, "mlp.down", 7, false);
    expect_set(file, 2, "mlp.down", 7, true);
    assert_int_equal(find(file, "model.layers.0.mlp.down.a.weight", 7), EX_DATAERR);
    assert_non_null(strstr(message, "a pipe can't be read twice"));
    expect_set(file, 2, "mlp.gateup", 5, false);
    expect_set(file, 10, "mlp.down", 7, false);
    moments_close(file);
    close(ends[0]);
    text_free(&text);
}

/* A record of width 2 with a member changed or (NULL) left out. */
static void put_bad(struct writer *writer, const char *name, const char *member, const char *value,
                    const float *numbers, int64_t count)
{
    static const char usual[] = "{\"kind\":\"moments\",\"dtype\":\"f32\",\"shape\":[3],\"bytes\":12,\"width\":2,"
                                "\"tokens\":9,\"weights\":[\"model.layers.0.w\"]}";
    struct json *map = json_parse(usual, strlen(usual), "map"), *whole = json_make_object();
    struct record record;
    char *reason;

    for (void *m = json_first(map); m; m = json_following(map, m))
        if (!member || strcmp(json_key(m), member))
            json_put(whole, json_key(m), json_keep(json_value(m)));
    if (member && value)
        json_put(whole, member, json_parse(value, strlen(value), "value"));
    json_put(whole, "name", json_make_string(name));
    json_put(whole, "bytes", json_make_int(count * 4));
    json_drop(map);
    assert_int_equal(record_parse(whole, &record, &reason), EX_OK);
    assert_int_equal(writer_put(writer, &record, numbers), EX_OK);
    record_free(&record);
}

static const float good[4] = {2, -1, 3, 4};

static void refused(const char *member, const char *value, const float *numbers, int64_t count, const char *why)
{
    struct moments_file *file;
    struct writer writer;

    start_file(&writer, "b");
    put_bad(&writer, "model.layers.0.x", member, value, numbers, count);
    end_file(&writer);
    assert_int_equal(moments_open(&file, "b"), EX_OK);
    assert_int_equal(find(file, "model.layers.0.w", 2), EX_DATAERR);
    if (!strstr(message, why))
        fail_msg("'%s' instead of '%s'", message, why);
    assert_int_equal(find(file, "model.layers.0.w", 2), EX_DATAERR);     /* and again */
    moments_close(file);
}

static void test_hostile(void)
{
    refused("weights", NULL, good, 3, "0 names in \"weights\", expected a list");
    refused("weights", "\"model.layers.0.w\"", good, 3, "0 names in \"weights\", expected a list");
    refused("weights", "[]", good, 3, "0 names in \"weights\", expected a list");
    refused("weights", "[1]", good, 3, "weight 0: no name");
    refused("weights", "[\"model.layers.0.w\",\"a\\nb\"]", good, 3, "weight 1: a name with control characters");
    refused("weights", "[\"model.layers.0.w\\u0000b\"]", good, 3, "weight 0: a name with control characters");
    refused("weights", "[\"model.layers.1.w\"]", good, 3, "not a matrix of the same block");
    refused("weights", "[\"model.layers.0.v\"]", good, 3, "no moments for");
    refused("width", NULL, good, 3, "\"width\" is -1, expected 1 to");
    refused("width", "0", good, 3, "\"width\" is 0, expected 1 to");
    refused("width", "3", good, 3, "12 bytes, expected 24");
    refused("width", "4611686018427387904", good, 3, "\"width\" is 4611686018427387904, expected 1 to");
    refused("width", "16777216", good, 3, "12 bytes, expected");
    refused("width", "1", good, 1, "of width 1");
    refused("tokens", "0", good, 3, "\"tokens\" is 0, expected 1 or more");
    refused("dtype", "\"f64\"", good, 3, "12 bytes, expected 12 of f32");
    refused(NULL, NULL, good, 4, "16 bytes, expected 12");
    refused(NULL, NULL, (const float[]){1, NAN, 1}, 3, "a number that isn't finite");
    refused(NULL, NULL, (const float[]){1, INFINITY, 1}, 3, "a number that isn't finite");
    refused(NULL, NULL, (const float[]){1, 0, -1}, 3, "mean square 1 is -1, expected 0 or more");
}

static void refused_part(const char *suffix, const char *width, int64_t count, const char *why)
{
    char *name = xasprintf("model.layers.0.x%s", suffix);
    struct moments_file *file;
    struct writer writer;

    start_file(&writer, "b");
    put_bad(&writer, "model.layers.0.x", NULL, NULL, good, 3);
    put_bad(&writer, name, "width", width, good, count);
    end_file(&writer);
    assert_int_equal(moments_open(&file, "b"), EX_OK);
    assert_int_equal(find(file, "model.layers.0.w", 2), *why ? EX_DATAERR : EX_OK);
    if (*why && !strstr(message, why))
        fail_msg("'%s' instead of '%s'", message, why);
    moments_close(file);
    free(name);
}

static void test_parts(void)
{
    struct text text = {0};
    struct moments_file *file;
    int fd;

    refused_part(".cross", "2", 4, "");
    refused_part(".held", "2", 3, "");
    refused_part(".cross", "1", 1, "width 1, expected 2");
    refused_part(".cross", "2", 3, "12 bytes, expected 16");
    refused_part(".held", "1", 1, "width 1, expected 2");
    refused_part(".held.cross", "2", 3, "12 bytes, expected 16");
    make_file("f");
    assert_int_equal(file_read("f", 1 << 20, &text), EX_OK);
    fd = open("cut", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(file_write(fd, "cut", text.data, text.length / 2), EX_OK);
    close(fd);
    assert_int_equal(moments_open(&file, "cut"), EX_OK);
    assert_int_equal(find(file, "model.layers.10.mlp.down.a.weight", 7), EX_DATAERR);
    moments_close(file);
    text_free(&text);
}

/* ---- numbers ---- */

static double plain_error(const struct moments *h, const float *d, int64_t rows)
{
    double *full = xmallocarray((size_t)(h->n * h->n), sizeof *full), sum = 0;

    moments_full64(h, full);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < h->n; i++)
            for (int64_t j = 0; j < h->n; j++)
                sum += full[i * h->n + j] * d[r * h->n + i] * d[r * h->n + j];
    free(full);
    return sum;
}

static void test_full(void)
{
    for (int64_t n = 1; n < 200; n += 66) {
        struct moments h = {n, 1, made_numbers("h", n * (n + 1) / 2)};
        float *full = xmallocarray((size_t)(n * n), sizeof *full);
        double *wide = xmallocarray((size_t)(n * n), sizeof *wide);

        moments_full(&h, full);
        moments_full64(&h, wide);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                int64_t low = least(i, j), high = most(i, j);

                assert_true(full[i * n + j] == h.packed[high * (high + 1) / 2 + low]);
                assert_true(wide[i * n + j] == full[i * n + j]);
            }
        assert_true(moments_diagonal(&h, n - 1) == full[n * n - 1]);
        free(h.packed);
        free(full);
        free(wide);
    }
}

static void test_error(void)
{
    static const int64_t sizes[][2] = {{1, 1}, {5, 3}, {130, 37}, {300, 200}};

    for (int s = 0; s < 4; s++) {
        int64_t n = sizes[s][0], rows = sizes[s][1];
        struct moments h = {n, 1, made_moments("h", n, most(n / 2, 1))};
        float *d = made_numbers("d", rows * n);
        double expected = plain_error(&h, d, rows), found = moments_error(&h, d, rows);

        CHECK_AT_MOST(fabs(found - expected) / expected, 1e-12, "error of a change");
        parallel_set(3);
        assert_true(moments_error(&h, d, rows) == found);
        parallel_set(0);
        free(h.packed);
        free(d);
    }
}

/* Where D lies almost in the null space of H, large terms cancel. */
static void test_cancelling_error(void)
{
    enum { N = 200, ROWS = 20 };
    struct moments h = {N, 1, xcalloc(N * (N + 1) / 2, sizeof(float))};
    float d[ROWS * N];

    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j <= i; j++)
            h.packed[i * (i + 1) / 2 + j] = 1 + (i == j ? 1e-4f : 0);
    random_normal(random_named(1, "d"), 0, ROWS * N, d);
    for (int64_t r = 0; r < ROWS; r++) {
        double mean = 0;

        for (int64_t i = 0; i < N; i++)
            mean += d[r * N + i] / N;
        for (int64_t i = 0; i < N; i++)
            d[r * N + i] -= (float)mean;
    }
    CHECK_AT_MOST(fabs(moments_error(&h, d, ROWS) / plain_error(&h, d, ROWS) - 1), 1e-9, "cancelling error");
    for (int64_t i = 0; i < N; i++)
        h.packed[i * (i + 1) / 2 + i] = 0;               /* no longer positive */
    assert_true(moments_error(&h, d, ROWS) == 0);
    assert_true(moments_error(&h, d, 0) == 0);
    free(h.packed);
}

CHECK_MAIN({"a file is what was written, read forwards or again", test_file},
           {"a pipe is read once", test_pipe},
           {"maps that lie are refused", test_hostile},
           {"parts of a set fit it; a file that is cut short is refused", test_parts},
           {"both triangles", test_full},
           {"the error of a change is the sum in double", test_error},
           {"also where terms cancel", test_cancelling_error})
