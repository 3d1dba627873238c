/* test_measure.c - windows, their statistics, WikiText's rows, pages and detokenizer, against values worked out by hand
 * or with the Python that they follow. */
#include "check.h"
#include "measure/corpus.h"
#include "measure/report.h"
#include "measure/windows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int32_t tokens[100];

/* start, n, from of each window. */
static void expect_windows(const struct windows *windows, const int64_t (*expected)[3], int64_t count)
{
    int64_t scored = 0, fed = 0;

    assert_int_equal(windows->count, count);
    for (int64_t w = 0; w < count; w++) {
        assert_int_equal(windows->window[w].start, expected[w][0]);
        assert_int_equal(windows->window[w].n, expected[w][1]);
        assert_int_equal(windows->window[w].from, expected[w][2]);
        scored += expected[w][1] - expected[w][2];
        fed += expected[w][1] - 1;
    }
    assert_int_equal(windows->scored, scored);
    assert_int_equal(windows->fed, fed);
}

static void test_cut(void)
{
    struct windows windows;

    windows_cut(&windows, tokens, 10, 4, 4);
    expect_windows(&windows, (const int64_t[][3]){{0, 4, 1}, {4, 4, 1}}, 2);
    assert_ptr_equal(windows.window[1].token, tokens + 4);
    assert_int_equal(windows.groups, 2);
    windows_free(&windows);
    windows_cut(&windows, tokens, 8, 4, 4);
    expect_windows(&windows, (const int64_t[][3]){{0, 4, 1}, {4, 4, 1}}, 2);
    windows_free(&windows);
    windows_cut(&windows, tokens, 3, 4, 4);
    expect_windows(&windows, (const int64_t[][3]){{0, 3, 1}}, 1);
    windows_free(&windows);
    windows_cut(&windows, tokens, 2, 1000, 1000);
    expect_windows(&windows, (const int64_t[][3]){{0, 2, 1}}, 1);
    windows_free(&windows);
}

static void test_stride(void)
{
    struct windows windows;

    windows_cut(&windows, tokens, 10, 4, 3);
    expect_windows(&windows, (const int64_t[][3]){{0, 4, 1}, {3, 4, 1}, {6, 4, 1}}, 3);
    windows_free(&windows);
    windows_cut(&windows, tokens, 9, 4, 2);
    expect_windows(&windows, (const int64_t[][3]){{0, 4, 1}, {2, 4, 2}, {4, 4, 2}, {6, 3, 2}}, 4);
    assert_int_equal(windows.scored, 8);
    windows_free(&windows);
    windows_cut(&windows, tokens, 6, 4, 1);
    expect_windows(&windows, (const int64_t[][3]){{0, 4, 1}, {1, 4, 3}, {2, 4, 3}}, 3);
    windows_free(&windows);
}

/* get_rolling_token_windows([1, ..., 9], 0, 4, 1): ([0, 1, 2, 3], [1, 2, 3, 4]), ([4, 5, 6, 7], [5, 6, 7, 8]),
 * ([5, 6, 7, 8], [9]). */
static void test_roll(void)
{
    struct windows windows = {0};

    windows_roll(&windows, tokens, 10, 4);
    expect_windows(&windows, (const int64_t[][3]){{-1, 5, 1}, {3, 5, 1}, {4, 5, 4}}, 3);
    windows_roll(&windows, tokens, 1, 4);
    windows_roll(&windows, tokens, 3, 4);
    expect_windows(&windows, (const int64_t[][3]){{-1, 5, 1}, {3, 5, 1}, {4, 5, 4}, {-1, 3, 1}}, 4);
    assert_int_equal(windows.groups, 3);
    assert_int_equal(windows.window[2].group, 0);
    assert_int_equal(windows.window[3].group, 2);
    windows_free(&windows);
}

static void test_sums(void)
{
    struct sums sums;

    /* Means 1, 2, 4 of windows of 10: standard deviation sqrt(7/3), over sqrt(3). */
    sums_begin(&sums, 3);
    for (int g = 0; g < 3; g++) {
        sums.sum[g] = (const double[]){10, 20, 40}[g];
        sums.count[g] = 10;
    }
    CHECK_AT_MOST(fabs(sums_mean(&sums) - 7.0 / 3), 1e-15, "mean");
    CHECK_AT_MOST(fabs(sums_error(&sums) - sqrt(7.0 / 9)), 1e-15, "standard error");
    sums_free(&sums);

    /* Of unequal size: mean 70 / 40, deviations 10 - 17.5, 60 - 52.5. */
    sums_begin(&sums, 2);
    sums.sum[0] = 10, sums.count[0] = 10, sums.sum[1] = 60, sums.count[1] = 30;
    CHECK_AT_MOST(fabs(sums_mean(&sums) - 1.75), 1e-15, "mean");
    CHECK_AT_MOST(fabs(sums_error(&sums) - sqrt(2 * 2 * 56.25) / 40), 1e-15, "standard error");
    sums_free(&sums);

    sums_begin(&sums, 1);
    sums.sum[0] = 3, sums.count[0] = 2;
    assert_true(isnan(sums_error(&sums)));
    sums_free(&sums);
}

static void expect_text(struct text *text, const char *expected)
{
    assert_string_equal(text->data, expected);
    text_free(text);
}

static void expect_rows(const char *raw, const char *expected)
{
    struct text joined = {0};

    corpus_join_rows(raw, strlen(raw), &joined);
    expect_text(&joined, expected);
}

static void test_rows(void)
{
    expect_rows(" \n = T = \n \n a b \n", "\n\n = T = \n\n\n\n\n a b \n");
    expect_rows("a\n\u00a0\x1c\nb", "a\n\n\n\n\nb");
    expect_rows("\n", "");
}

static void expect_detokenized(const char *page, const char *expected)
{
    struct text text = {0};

    wikitext_detokenize(page, strlen(page), &text);
    expect_text(&text, expected);
}

/* What preprocess_wikitext.py gives. */
static void test_detokenizer(void)
{
    expect_detokenized("a guest @-@ star of 1 @,@ 000 or 1 @.@ 5 , said : no ; yes . Oh ! What ? Fine",
                       "a guest-star of 1,000 or 1.5, said: no; yes. Oh! What? Fine");
    expect_detokenized("( a ( b ) c ) [ x ] { y } \" z \" ' w '", "(a ( b) c ) [x] {y} \"z\" 'w'");
    expect_detokenized("(   ) \" \" ' open ( still", "() \"\" ' open ( still");
    expect_detokenized(" = = = = A = = = = \n = B = \n x ", " ==== A ====\n= B =\nx ");
    expect_detokenized("dogs ' N men 's 20 \u00b0 C N N N", "dogs'N men's 20\u00b0C 1 N N");
    expect_detokenized("/' 5/' 6/ /' 7/", "/'[0-9]/' 6/ /'[0-9]/");
    expect_detokenized("(\u00a0a\u3000)", "(a)");
    expect_detokenized("", "");
}

static void test_words(void)
{
    assert_int_equal(wikitext_words("", 0), 1);
    assert_int_equal(wikitext_words("a b", 3), 2);
    assert_int_equal(wikitext_words(" \n a  b\n", 8), 4);
    assert_int_equal(wikitext_words("a\xc2\xa0" "b\x1c" "c", 6), 3);
}

static void expect_pages(const char *raw, const char *const *expected)
{
    struct pages pages;
    size_t count = 0;

    assert_int_equal(pages_split(raw, strlen(raw), "raw", &pages), EX_OK);
    while (expected[count])
        count++;
    assert_int_equal(pages.count, count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(pages.page[i].data, expected[i]);
    pages_free(&pages);
}

static void test_pages(void)
{
    expect_pages(" \n = A = \n \n x \n = = S = = \n = = = T = = = \n y \n \n = B = \n z \n",
                 (const char *const[]){" = A = \n \n x \n = = S = = \n = = = T = = = \n y \n ", " = B = \n z \n",
                                       NULL});
    expect_pages("no title", (const char *const[]){"no title", NULL});
    expect_pages("before\n = A = ", (const char *const[]){"before", " = A = ", NULL});
    expect_pages("{\"page\": \"a\\nb\"}\n\n{\"page\": \"c\"}\n", (const char *const[]){"a\nb", "c", NULL});
}

static void test_bad_pages(void)
{
    static const char *const bad[] = {"{\"page\": \"a\"}\n{\"text\": \"b\"}", "{\"page\": \"a\"}\n{", "{\"page\": 3}"};
    char message[256];

    error_capture(message, sizeof message);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pages pages;

        *message = 0;
        assert_int_equal(pages_split(bad[i], strlen(bad[i]), "raw", &pages), EX_DATAERR);
        assert_non_null(strstr(message, i < 2 ? "raw, line 2" : "raw, line 1"));
    }
    error_capture(NULL, 0);
}

static void test_report(void)
{
    struct json *report = report_start("perplexity");
    struct stopwatch stopwatch;
    char *text;

    stopwatch_start(&stopwatch);
    report_data(report, "some/where/a.txt", "abc", 3);
    text = json_write(report, 0);
    /* XXH3 of "abc", seed 0. */
    assert_string_equal(text, "{\"task\":\"perplexity\",\"data\":{\"name\":\"a.txt\",\"bytes\":3,"
                              "\"hash\":\"78af5f94892f3950\"}}");
    assert_true(report_peak_memory() > 1 << 20);
    assert_true(stopwatch_seconds(&stopwatch) >= 0);
    free(text);
    json_drop(report);
}

CHECK_MAIN({"windows without overlap: whole ones only", test_cut},
           {"windows with a stride: each token once", test_stride}, {"rolling windows are lm-eval's", test_roll},
           {"mean and standard error over windows", test_sums},
           {"rows joined as the papers do", test_rows}, {"the detokenizer is lm-eval's", test_detokenizer},
           {"words are counted as lm-eval does", test_words}, {"pages are the documents of the dataset", test_pages},
           {"bad JSON lines are refused with their number", test_bad_pages}, {"reports name data by hash", test_report})
