/* test_curve.c - error curves: written and read back, joined from several files, hostile lines. */
#include "base/memory.h"
#include "fit/curve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void write_some(const char *path)
{
    struct output output;
    const int64_t shape[] = {8, 4}, core_shape[] = {1, 6, 2, 3};
    struct record tensor = record_tensor("norm.weight", DTYPE(F16), 2, shape), core;
    struct record file = record_file("config.json", 10);
    struct tensor first = {.dtype = DTYPE(F32), .rank = 4, .bytes = 144};

    memcpy(first.shape, core_shape, sizeof core_shape);
    core = record_core("a.weight", 0, 1, 0, 2, &first);
    assert_int_equal(output_open(&output, path, false), 0);
    curve_write(&output, "b.weight", 8, 4, 10, &(struct curve_point){(char []){"bits=3 group=64"}, 40, 32, 1.0 / 3});
    curve_write(&output, "b.weight", 8, 4, 10, &(struct curve_point){(char []){"bits=2"}, 30, 32, 2});
    curve_write_fixed(&output, &file);
    curve_write_fixed(&output, &tensor);
    curve_write_fixed(&output, &core);
    assert_int_equal(output_commit(&output), 0);
    output_close(&output);
    record_free(&tensor);
    record_free(&file);
    record_free(&core);
}

static const struct curve *find(const struct curves *curves, const char *name)
{
    for (int i = 0; i < curves->n_curve; i++)
        if (!strcmp(curves->curve[i].name, name))
            return &curves->curve[i];
    return NULL;
}

static void test_there_and_back(void)
{
    struct curves curves = {0};
    const struct curve *b, *norm;

    write_some("curves");
    for (int again = 0; again < 2; again++) {    /* what is there already changes nothing */
        assert_int_equal(curves_read(&curves, "curves"), EX_OK);
        assert_int_equal(curves.n_curve, 3);
        assert_string_equal(curves.curve[0].name, "a.weight");
        b = find(&curves, "b.weight");
        assert_int_equal(b->n_point, 2);
        assert_false(b->fixed);
        assert_int_equal(b->original, 32);
        assert_string_equal(b->point[0].plan, "bits=2");
        assert_string_equal(b->point[1].plan, "bits=3 group=64");
        assert_true(b->point[1].error == 1.0 / 3 && b->norm == 10);
        norm = find(&curves, "norm.weight");
        assert_true(norm->fixed && norm->n_core == 1 && norm->core[0].bytes == 64 && norm->original == 32);
        assert_null(find(&curves, "c"));
    }
    curves_free(&curves);
    assert_int_equal(curves.n_curve, 0);
}

static void test_several_files(void)
{
    static const char *const files[] = {"one", "two", "three"};
    struct curve_point kept;

    put("one", "{\"name\":\"a\",\"out\":6,\"in\":8,\"plan\":\"chi=2\",\"bytes\":56,\"parameters\":28,\"error\":1,"
        "\"norm\":4}\n");
    put("two", "\n{\"name\":\"a\",\"out\":6,\"in\":8,\"plan\":\"chi=1\",\"bytes\":28,\"parameters\":14,\"error\":3,"
        "\"norm\":4.001}");
    put("three", "{\"name\":\"a\",\"term\":0,\"site\":0,\"bytes\":96,\"parameters\":12,\"stored_parameters\":24,"
        "\"fixed\":true}\n"
        "{\"name\":\"a\",\"term\":0,\"site\":1,\"bytes\":32,\"parameters\":4,\"stored_parameters\":8,"
        "\"fixed\":true}\n");
    for (int order = 0; order < 3; order++) {
        struct curves curves = {0};

        for (int i = 0; i < 3; i++)
            assert_int_equal(curves_read(&curves, files[(i + order) % 3]), EX_OK);
        assert_int_equal(curves.n_curve, 1);
        assert_int_equal(curves.curve[0].n_point, 2);
        assert_string_equal(curves.curve[0].point[0].plan, "chi=1");
        assert_false(curves.curve[0].fixed);
        assert_int_equal(curves.curve[0].original, 48);
        assert_true(curve_kept(&curves.curve[0], &kept));
        assert_true(kept.bytes == 128 && kept.parameters == 32 && kept.error == 0 && !*kept.plan);
        curves_free(&curves);
    }
}

#define OBJECT(members) "{" members "}\n"
#define NUMBERS "\"bytes\":1,\"parameters\":4,\"error\":1,\"norm\":4"
#define GOOD OBJECT("\"name\":\"a\",\"out\":2,\"in\":2,\"plan\":\"bits=2\"," NUMBERS)
#define LINE(members) GOOD OBJECT("\"name\":\"b\"," members)
#define SIZE(out, in) LINE("\"out\":" out ",\"in\":" in ",\"plan\":\"a=1\"," NUMBERS)
#define PLAN(plan) LINE("\"out\":2,\"in\":2,\"plan\":\"" plan "\"," NUMBERS)
#define REST(rest) LINE("\"out\":2,\"in\":2,\"plan\":\"a=1\",\"bytes\":1,\"parameters\":4," rest)
#define AGAIN(members) GOOD OBJECT("\"name\":\"a\"," members)

/* Refused with file and line. */
static void test_hostile(void)
{
    static const char *const bad[] = {
        GOOD "[1]\n", GOOD "{\n", GOOD "x", GOOD "{}\n", GOOD "{\"name\":3}\n", GOOD "{\"name\":\"\"}\n",
        GOOD "{\"name\":\"a\\nb\"}\n", LINE("\"fixed\":true"), LINE("\"fixed\":true,\"bytes\":1,\"parameters\":4"),
        LINE("\"fixed\":true,\"bytes\":-1,\"parameters\":4,\"stored_parameters\":4"),
        LINE("\"fixed\":true,\"bytes\":1,\"parameters\":4,\"stored_parameters\":4,\"term\":-1"),
        PLAN("bits"), PLAN("bits="), PLAN("=2"), PLAN("bits=2 "), PLAN(" bits=2"), PLAN("bits=2\\n*"), PLAN("bits=2#"),
        PLAN("bits=2  x=1"), PLAN("a=1\\u0000"), SIZE("0", "2"), SIZE("2.5", "2"), SIZE("9223372036854775807", "2"),
        SIZE("8796093022208", "8796093022208"), REST("\"error\":-1,\"norm\":4"), REST("\"error\":null,\"norm\":4"),
        REST("\"error\":1,\"norm\":1e999"),
        AGAIN("\"out\":2,\"in\":2,\"plan\":\"bits=2\",\"bytes\":2,\"parameters\":4,\"error\":1,\"norm\":4"),
        AGAIN("\"out\":2,\"in\":3,\"plan\":\"bits=3\",\"bytes\":2,\"parameters\":4,\"error\":1,\"norm\":4"),
        AGAIN("\"out\":2,\"in\":2,\"plan\":\"bits=3\",\"bytes\":2,\"parameters\":4,\"error\":1,\"norm\":4.1"),
        AGAIN("\"bytes\":2,\"parameters\":5,\"stored_parameters\":5,\"fixed\":true"),
    };
    char said[2048];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct curves curves = {0};

        put("bad", bad[i]);
        error_capture(said, sizeof said);
        assert_int_equal(curves_read(&curves, "bad"), EX_DATAERR);
        error_capture(NULL, 0);
        if (!strstr(said, "bad") || !(strstr(said, "line 2") || i == sizeof bad / sizeof *bad - 1))
            fail_msg("case %zu: %s", i, said);
        curves_free(&curves);
    }
}

static void test_missing(void)
{
    struct curves curves = {0};
    char said[512];

    error_capture(said, sizeof said);
    assert_int_equal(curves_read(&curves, "nowhere"), EX_NOINPUT);
    error_capture(NULL, 0);
    put("empty", "\n\n");
    assert_int_equal(curves_read(&curves, "empty"), EX_OK);
    assert_int_equal(curves.n_curve, 0);
    curves_free(&curves);
}

CHECK_MAIN({"curves are read as they were written, twice is once", test_there_and_back},
           {"lines of several files go together in any order", test_several_files},
           {"bad lines are refused with file and line", test_hostile}, {"missing and empty files", test_missing})
