/* test_allot.c - settings under a budget: against all combinations of small instances, limits, rules, named plans. */
#include "base/memory.h"
#include "base/random.h"
#include "fit/allot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { MATRICES = 5, POINTS = 5 };

/* Curves of made-up matrices, points drawn at random; with convex every point is on the hull. */
static struct curves draw(uint64_t seed, bool convex)
{
    struct curves curves = {.curve = xcalloc(MATRICES, sizeof *curves.curve), .n_curve = MATRICES};
    float u[4 * MATRICES * POINTS];

    random_uniform(random_named(seed, "allot"), 0, 4 * MATRICES * POINTS, u);
    for (int m = 0; m < MATRICES; m++) {
        struct curve *curve = &curves.curve[m];
        int64_t bytes = 0;
        double error = 1e4, fall = 4000;

        *curve = (struct curve){.name = xasprintf("model.layers.%d.w.weight", m), .out = 10, .in = 10, .original = 100,
                                .norm = 1e4, .n_point = POINTS, .point = xcalloc(POINTS, sizeof *curve->point)};
        for (int p = 0; p < POINTS; p++) {
            const float *r = &u[4 * (m * POINTS + p)];

            bytes += 1 + (int64_t)(r[0] * 20);
            error = convex ? error - fall : 1e4 * r[1];
            fall /= 4 + r[2];
            curve->point[p] = (struct curve_point){.plan = xasprintf("bits=%d", p + 1), .bytes = bytes,
                                                   .parameters = 100 - p, .error = error};
        }
    }
    return curves;
}

static double loss(const struct curves *curves, int m, int p)
{
    return allot_loss(curves->curve[m].point[p].error / curves->curve[m].norm);
}

/* The least sum of losses that bytes allow, by all combinations; infinite where none fits. */
static double brute(const struct curves *curves, int64_t bytes)
{
    int all = 1;
    double best = INFINITY;

    for (int m = 0; m < MATRICES; m++)
        all *= POINTS;
    for (int code = 0; code < all; code++) {
        int64_t used = 0;
        double sum = 0;

        for (int m = 0, rest = code; m < MATRICES; m++, rest /= POINTS) {
            used += curves->curve[m].point[rest % POINTS].bytes;
            sum += loss(curves, m, rest % POINTS);
        }
        if (used <= bytes && sum < best)
            best = sum;
    }
    return best;
}

/* The largest error that one exchange of a matrix can make up for. */
static double largest_step(const struct curves *curves)
{
    double most = 0;

    for (int m = 0; m < MATRICES; m++)
        for (int p = 0; p < POINTS; p++)
            for (int q = 0; q < POINTS; q++)
                most = fmax(most, loss(curves, m, p) - loss(curves, m, q));
    return most;
}

static void test_brute(void)
{
    char said[512];
    int exact = 0, all = 0;

    for (uint64_t seed = 0; seed < 40; seed++) {
        struct curves curves = draw(seed, seed % 2);

        for (int64_t bytes = 20; bytes < 300; bytes += 20 + (int64_t)seed % 7) {
            struct allot_budget budget = {.unit = ALLOT_BYTES, .amount = (double)bytes};
            struct allotment a;
            double best = brute(&curves, bytes);
            struct allot_totals totals;

            assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
            error_capture(said, sizeof said);
            if (isinf(best)) {
                assert_int_equal(allot_least(&a), EX_DATAERR);
                assert_non_null(strstr(said, "the least that the curves allow"));
            } else {
                assert_int_equal(allot_least(&a), EX_OK);
                totals = allot_totals(&a);
                assert_true(totals.bytes <= bytes);
                assert_true(totals.weighted >= best - 1e-12);
                CHECK_AT_MOST(totals.weighted, best + largest_step(&curves), "sum of errors");
                exact += totals.weighted < best + 1e-12;
                all++;
            }
            error_capture(NULL, 0);
            allotment_free(&a);
        }
        curves_free(&curves);
    }
    print_message("# the optimum in %d of %d\n", exact, all);
    assert_true(2 * exact > all);
}

/* A budget that is just what a point of the Lagrangian costs has this point for its optimum. */
static void test_lagrange(void)
{
    for (uint64_t seed = 100; seed < 120; seed++) {
        struct curves curves = draw(seed, true);

        for (double multiplier = 1e-5; multiplier < 1; multiplier *= 2) {
            struct allot_budget budget = {.unit = ALLOT_BYTES};
            struct allotment a;
            double sum = 0;

            for (int m = 0; m < MATRICES; m++) {
                int best = 0;

                for (int p = 1; p < POINTS; p++)
                    if (loss(&curves, m, p) + multiplier * (double)curves.curve[m].point[p].bytes
                        < loss(&curves, m, best) + multiplier * (double)curves.curve[m].point[best].bytes)
                        best = p;
                budget.amount += (double)curves.curve[m].point[best].bytes;
                sum += loss(&curves, m, best);
            }
            assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
            assert_int_equal(allot_least(&a), EX_OK);
            CHECK_AT_MOST(fabs(allot_totals(&a).weighted - sum), 1e-12, "difference from the Lagrangian's");
            allotment_free(&a);
        }
        curves_free(&curves);
    }
}

static void test_budgets(void)
{
    static const char *const bad[] = {"", "3", "bpw", "-1bpw", "+1bpw", "nanbpw", "infMB", "3 MB", "3mb", "3bpwx",
                                      " 3%"};
    struct allot_budget budget = {0};

    assert_true(allot_budget_parse("2.5bpw", &budget) && budget.unit == ALLOT_BPW && budget.amount == 2.5);
    assert_true(allot_budget_parse("30%", &budget) && budget.unit == ALLOT_PART && budget.amount == 30);
    assert_true(allot_budget_parse("60MB", &budget) && budget.unit == ALLOT_BYTES && budget.amount == 60e6);
    assert_true(allot_budget_parse("1.5KiB", &budget) && budget.amount == 1536);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (allot_budget_parse(bad[i], &budget))
            fail_msg("'%s' is taken for a budget", bad[i]);
}

/* Limits in all units, with and without what is fixed. */
static void test_limits(void)
{
    static const char *const texts[] = {"2bpw", "1.999bpw", "98%", "97.5%", "120B", "0.11KB"};
    struct curve_point core = {.bytes = 40, .parameters = 20};

    for (uint64_t seed = 0; seed < 10; seed++)
        for (size_t i = 0; i < 2 * sizeof texts / sizeof *texts; i++) {
            struct curves curves = draw(seed, true);
            struct allot_budget budget = {.whole = i % 2};
            struct allotment a;
            struct allot_totals totals;

            curves.curve[1].fixed = true;        /* its points aren't looked at */
            curves.curve[1].core = &core;
            curves.curve[1].n_core = 1;
            curves.curve[1].original = 20;
            assert_true(allot_budget_parse(texts[i / 2], &budget));
            assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
            assert_int_equal(a.original, budget.whole ? 420 : 400);
            assert_int_equal(a.fixed_bytes, budget.whole ? 40 : 0);
            if (allot_least(&a) == EX_OK) {
                totals = allot_totals(&a);
                CHECK_AT_MOST(budget.unit == ALLOT_BPW ? totals.bpw : budget.unit == ALLOT_PART ? totals.percent
                              : (double)totals.bytes, budget.amount, texts[i / 2]);
            }
            allotment_free(&a);
            curves.curve[1].core = NULL;
            curves.curve[1].n_core = 0;
            curves_free(&curves);
        }
}

static struct allot_rule rule(const char *text, bool ceiling)
{
    struct allot_rule made;

    assert_true(allot_rule_parse(text, ceiling, &made));
    return made;
}

static void test_rules(void)
{
    static const char *const bad[] = {"", "a", "=3bpw", "a=", "a=3", "a=3MB", "a=bits=", "a=bits=x", "a==3", "a=b c=3",
                                      "a=bit=3", "a=shape=3", "a=bits=full", "a=rotate=row", "a=bits=inf", "a=bits= 3"};
    struct allot_rule rules[] = {rule("*.1.*=bits=3", false), rule("*.2.*=bits=2", true), rule("*.3.*=2bpw", true),
                                 rule("*=chi=3", false)}, none = rule("other=bits=2", true), made;
    struct allot_budget budget = {.unit = ALLOT_BYTES, .amount = 1e6};
    struct curves curves = draw(7, true);
    struct allotment a;
    char said[512];

    assert_int_equal(allotment_begin(&a, &curves, &budget, rules, 4), EX_OK);
    assert_int_equal(allot_least(&a), EX_OK);
    assert_int_equal(a.matrix[1].n_point, 3);
    assert_int_equal(a.matrix[2].n_point, 2);
    assert_string_equal(a.matrix[0].point[a.matrix[0].chosen].plan, "bits=5");
    assert_string_equal(a.matrix[2].point[a.matrix[2].chosen].plan, "bits=2");
    assert_true(a.matrix[3].n_point > 0 && a.matrix[3].point[a.matrix[3].n_point - 1].bytes * 8 <= 200);
    allotment_free(&a);
    error_capture(said, sizeof said);
    assert_int_equal(allotment_begin(&a, &curves, &budget, &none, 1), EX_DATAERR);
    assert_non_null(strstr(said, "'other' is for no matrix"));
    allotment_free(&a);
    allot_rule_free(&rules[0]);
    rules[0] = rule("*.2.*=bits=4", false);
    assert_int_equal(allotment_begin(&a, &curves, &budget, rules, 2), EX_DATAERR);
    assert_non_null(strstr(said, "leave none of its 5 settings"));
    error_capture(NULL, 0);
    allotment_free(&a);
    for (int i = 0; i < 4; i++)
        allot_rule_free(&rules[i]);
    allot_rule_free(&none);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (allot_rule_parse(bad[i], true, &made))
            fail_msg("'%s' is taken for a rule", bad[i]);
    curves_free(&curves);
}

/* Settings as plans say them: what is left out is 0, or of another kind; a turn over the full width is the largest. */
static void test_rules_by_key(void)
{
    static const struct {
        const char *rule, *plan;
        bool ceiling, allowed;
    } cases[] = {
        {"*=scale_bits=0", "bits=2", true, true}, {"*=scale_bits=6", "bits=2", false, false},
        {"*=scale_bits=6", "bits=2 scale_bits=8", false, true}, {"*=rotate=64", "bits=2", false, false},
        {"*=rotate=64", "bits=2 rotate=full", false, true}, {"*=rotate=64", "bits=2 rotate=full", true, false},
        {"*=rotate=full", "bits=2 rotate=full", true, true}, {"*=rotate=full", "bits=2 rotate=64", false, false},
        {"*=residual_chi=4", "bits=2", false, false}, {"*=residual_chi=4", "bits=2", true, true},
        {"*=group=64", "bits=2 group=row", true, false}, {"*=rate=2", "bits=2", false, true},
        {"*=rate=2", "code=trellis rate=1.5", false, false}, {"*=keep=0.5", "keep=0.4", true, true},
    };
    const struct curve curve = {.name = (char[]){"w"}, .original = 100};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct allot_rule made = rule(cases[i].rule, cases[i].ceiling);
        struct curve_point point = {.plan = xstrdup(cases[i].plan)};

        if (allot_allows(&made, 1, &curve, &point) != cases[i].allowed)
            fail_msg("%s %s of '%s'", cases[i].ceiling ? "ceiling" : "floor", cases[i].rule, cases[i].plan);
        allot_rule_free(&made);
        free(point.plan);
    }
}

static void test_deeper_first(void)
{
    struct curves curves = draw(3, true);
    int64_t most = 0;
    char said[512];

    for (int m = 0; m < MATRICES; m++)
        most += curves.curve[m].point[POINTS - 1].bytes;
    for (int deep = 0; deep <= MATRICES; deep++) {
        struct allot_budget budget = {.unit = ALLOT_BYTES, .amount = (double)most};
        struct allotment a;

        for (int m = 0; m < MATRICES; m++)
            if (m >= MATRICES - deep)
                budget.amount -= (double)(curves.curve[m].point[POINTS - 1].bytes - curves.curve[m].point[1].bytes);
        assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
        assert_int_equal(allot_deeper_first(&a, "bits=2"), EX_OK);
        for (int m = 0; m < MATRICES; m++)
            assert_int_equal(a.matrix[m].chosen, m >= MATRICES - deep ? 1 : POINTS - 1);
        error_capture(said, sizeof said);
        assert_int_equal(allot_deeper_first(&a, "bits=9"), EX_DATAERR);
        a.limit = deep;
        assert_int_equal(allot_deeper_first(&a, NULL), EX_DATAERR);
        assert_non_null(strstr(said, "the least that the curves allow is"));
        assert_int_equal(allot_deeper_first(&a, "bits=2"), EX_DATAERR);
        assert_non_null(strstr(said, "the least that the curves with this setting allow is"));
        error_capture(NULL, 0);
        allotment_free(&a);
    }
    curves_free(&curves);
}

static void test_print(void)
{
    struct curves curves = draw(5, true);
    struct allot_budget budget = {.unit = ALLOT_BYTES, .amount = 1e6};
    struct text once = {0}, again = {0};
    struct allotment a;
    char said[512];

    free(curves.curve[0].name);
    curves.curve[0].name = xstrdup("a[0]*?\\b");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
        assert_int_equal(allot_least(&a), EX_OK);
        assert_int_equal(allot_print(&a, i ? &again : &once), EX_OK);
        allotment_free(&a);
    }
    assert_string_equal(once.data, again.data);
    assert_non_null(strstr(once.data, "\na\\[0]\\*\\?\\\\b bits=5\n"));
    assert_non_null(strstr(once.data, "\nmodel.layers.4.w.weight bits=5\n"));
    strcpy(curves.curve[0].name, "a b");
    assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
    assert_int_equal(allot_least(&a), EX_OK);
    error_capture(said, sizeof said);
    assert_int_equal(allot_print(&a, &again), EX_DATAERR);
    error_capture(NULL, 0);
    allotment_free(&a);
    text_free(&once);
    text_free(&again);
    curves_free(&curves);
}

static void test_loss(void)
{
    CHECK_AT_MOST(fabs(allot_loss(1e-6) - 1e-6), 1e-11, "loss of a small error");
    CHECK_AT_MOST(fabs(allot_loss(1 - exp(-2)) - 2), 1e-12, "loss of a large error");
    for (double e = 0; e < 3; e += 1e-3)
        assert_true(allot_loss(e) < allot_loss(e + 1e-3));
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

#define SENSITIVITY(by, kl, matrices) "{\"by\":\"" by "\",\"kl\":" kl ",\"model\":{},\"matrices\":[" matrices "]}\n"
#define ENTRY(layer, error) "{\"name\":\"model.layers." layer ".w.weight\",\"error\":" error ",\"norm\":1e4}"

static void test_weights(void)
{
    struct curves curves = draw(5, true);
    struct allot_budget budget = {.unit = ALLOT_BYTES, .amount = 1e6};
    double one = -log(.9), two = -log(.8), own = (one + 3 * two) / (one * one + two * two), shared = .5 / -log(.9 * .7);
    struct allotment a;
    char said[512];

    assert_int_equal(allotment_begin(&a, &curves, &budget, NULL, 0), EX_OK);
    error_capture(said, sizeof said);
    /* matrix 0: kl 1 at .1, 3 at .2; matrices 1 and 2 together .5 at .1 + .3; the others nothing */
    write_text("good", SENSITIVITY("matrix", "1", ENTRY("0", "1e3")) SENSITIVITY("matrix", "3", ENTRY("0", "2e3"))
               SENSITIVITY("block", "0.5", ENTRY("1", "1e3") "," ENTRY("2", "3e3"))
               SENSITIVITY("kind", "9", ENTRY("0", "1e3")));
    assert_int_equal(allot_weigh(&a, "good"), EX_OK);
    CHECK_AT_MOST(fabs(a.matrix[0].weight - own), 1e-9, "weight by matrix");
    CHECK_AT_MOST(fabs(a.matrix[1].weight - shared), 1e-9, "weight by block");
    CHECK_AT_MOST(fabs(a.matrix[2].weight - shared), 1e-9, "weight by block");
    CHECK_AT_MOST(fabs(a.matrix[4].weight - (own + 2 * shared) / 3), 1e-9, "weight of one not measured");
    write_text("bad", SENSITIVITY("matrix", "1", ENTRY("0", "1e3")) SENSITIVITY("row", "1", ENTRY("0", "1e3")));
    assert_int_equal(allot_weigh(&a, "bad"), EX_DATAERR);
    assert_non_null(strstr(said, "line 2"));
    write_text("bad", SENSITIVITY("matrix", "1", "{\"name\":\"a\",\"error\":-1,\"norm\":1}"));
    assert_int_equal(allot_weigh(&a, "bad"), EX_DATAERR);
    write_text("bad", SENSITIVITY("matrix", "1", ENTRY("77", "1e3")));
    assert_int_equal(allot_weigh(&a, "bad"), EX_DATAERR);
    error_capture(NULL, 0);
    allotment_free(&a);
    curves_free(&curves);
}

CHECK_MAIN({"near the optimum of all combinations, and never above the limit", test_brute},
           {"the optimum where a multiplier meets the budget", test_lagrange}, {"budgets are read", test_budgets},
           {"limits hold in all units, alone and of the whole", test_limits}, {"floors and ceilings", test_rules},
           {"floors and ceilings by a key", test_rules_by_key},
           {"deeper layers first", test_deeper_first}, {"plans are printed, names escaped", test_print},
           {"losses", test_loss}, {"weights from measured sensitivities", test_weights})
