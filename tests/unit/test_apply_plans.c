/* test_apply_plans.c - the ways in which general chains are applied: that they agree, what they cost and hold. */
#include "apply_made.h"

/* All plans of all chains among the terms, forced. */
static void force(struct applied *w, bool from_left, int split)
{
    for (int t = 0; t < w->n_term; t++)
        if (w->term[t].kind == TERM_CHAIN) {
            struct sites *sites = &w->term[t].sites;

            if (sites->from_left != from_left)
                sites_turn(sites);
            sites->rebuild_from = INT64_MAX;
            if (split && split < sites->n_site) {
                sites->rebuilding = rebuilding_at(sites, split);
                sites->rebuild_from = 0;
                assert_true(isfinite(sites->rebuilding.cost.work));
            }
        }
}

static void test_plans_agree(void)
{
    for (int i = 0; i < N_SPEC; i++)
        for (int plan = 0; plan < 2 * SITES; plan++)
            for (int d = 0; d < 2; d++) {
                struct operator op = make(&specs[i]);
                int64_t n = plan % 3 ? 1 : 40;
                float *x = numbers("x", n, op.in), *truth = expected(&op, x, n, ACTIVATIONS_F32);
                struct applied *w = apply_place(devices[d], &op, ACTIVATIONS_F32);

                force(w, plan % 2, plan / 2);
                check_applied(w, specs[i].name, devices[d], x, truth, n, BOUND);
                apply_free(w);
                free(x);
                free(truth);
            }
}

/* Slices of one digit each, and a left part that is made anew for each of the right one's. */
static void test_slices(void)
{
    for (int i = 0; i < N_SPEC; i++)
        for (int cut = 0; cut < 8; cut++) {
            struct operator op = make(&specs[i]);
            float *x = numbers("x", 7, op.in), *truth = expected(&op, x, 7, ACTIVATIONS_F32);
            struct applied *w = apply_place(&device_cpu, &op, ACTIVATIONS_F32);

            force(w, cut % 2, 1 + cut / 4);
            for (int t = 0; t < w->n_term; t++) {
                struct rebuilding *plan = &w->term[t].sites.rebuilding;

                plan->left = plan->left < 2 ? plan->left : 2;
                plan->right = cut / 2 % 2 || plan->right < 2 ? 1 : 2;
                plan->left_whole = plan->left_whole && cut / 2 % 2;
            }
            check_applied(w, specs[i].name, &device_cpu, x, truth, 7, BOUND);
            apply_free(w);
            free(x);
            free(truth);
        }
}

static void test_threads(void)
{
    for (int i = 0; i < N_SPEC; i++)
        for (int plan = 0; plan < 4; plan++) {
            struct applied *w = place(&specs[i], &device_cpu, plan % 2 ? ACTIVATIONS_INT8 : ACTIVATIONS_F32);
            int64_t n = 37, bytes = n * apply_out(w) * (int64_t)sizeof(float);
            float *x = numbers("x", n, apply_in(w)), *first = NULL;

            force(w, plan % 2, plan / 2);
            for (int threads = 1; threads <= 3; threads++) {
                float *y;

                parallel_set(threads);
                y = applied_to(w, &device_cpu, x, n, 0, NULL);
                if (!first)
                    first = y;
                else {
                    assert_memory_equal(first, y, (size_t)bytes);
                    free(y);
                }
            }
            parallel_set(0);
            free(first);
            free(x);
            apply_free(w);
        }
}

/* A device that counts the bytes it lends. */
static struct device counting;
static int64_t lent, most_lent;

static void *allocate_counted(size_t bytes)
{
    unsigned char *block = device_cpu.allocate(bytes + 64);

    memcpy(block, &bytes, sizeof bytes);
    lent += (int64_t)bytes;
    most_lent = lent > most_lent ? lent : most_lent;
    return block + 64;
}

static void release_counted(void *memory)
{
    size_t bytes;

    if (!memory)
        return;
    memcpy(&bytes, (unsigned char *)memory - 64, sizeof bytes);
    lent -= (int64_t)bytes;
    device_cpu.release((unsigned char *)memory - 64);
}

/* Bytes that applying takes beside the operator, x and y. */
static int64_t workspace(const struct applied *w, int64_t n)
{
    float *x = numbers("x", n, apply_in(w)), *dx = to_device(&counting, x, n * apply_in(w)),
          *y = counting.allocate((size_t)(n * apply_out(w)) * sizeof *y);
    int64_t before = lent;

    most_lent = lent;
    apply(&(struct application){w, y, apply_out(w), false}, 1, dx, apply_in(w), n);
    assert_int_equal(lent, before);
    counting.release(dx);
    counting.release(y);
    free(x);
    return most_lent - before;
}

enum { MIB = 1 << 20 };

/* W has 64 MiB in the first of these and 16 in the others, and what is held must not come near that. */
static void test_workspace(void)
{
    static const struct {
        struct spec spec;
        int64_t n, most;
    } cases[] = {
        {{"balanced", {{2, {64, 64}, {64, 64}, {1, 64, 1}, {F32, F32}}}}, 1, 4 * MIB},
        {{"balanced", {{2, {64, 64}, {64, 64}, {1, 64, 1}, {F32, F32}}}}, 200, 24 * MIB},
        {{"large second core", {{2, {2, 1024}, {2, 1024}, {1, 4, 1}, {F32, F32}}}}, 64, 24 * MIB},
        {{"large first core", {{2, {1024, 2}, {1024, 2}, {1, 4, 1}, {F32, F32}}}}, 64, 24 * MIB},
        {{"three", {{3, {2, 512, 2}, {2, 512, 2}, {1, 4, 4, 1}, {F32, F32, F32}}}}, 64, 40 * MIB},
        {{"low rank", {{2, {300, 1}, {1, 300}, {1, 300, 1}, {F32, F32}}}}, 1, 4096},
        {{"low rank, many columns", {{2, {3, 1}, {1, 3}, {1, 512, 1}, {F32, F32}}}}, 40000, 40 * MIB},
        {{"hadamard 1024/0, many columns", {{1, {3}, {2048}, {1, 1}, {F32}}}}, 12000, 33 * MIB},
        {{"dense", {{1, {100}, {100}, {1, 1}, {F32}}}}, 1000, 0},
        {{"packed", {{1, {100}, {100}, {1, 1}, {PACKED(4, 32, MIN)}}}}, 1000, 0},
    };

    counting = device_cpu;
    counting.allocate = allocate_counted;
    counting.release = release_counted;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct applied *w = place(&cases[i].spec, &counting, ACTIVATIONS_F32);

        for (int plan = 0; plan < (cases[i].n > 1 ? 3 : 1); plan++) {
            CHECK_AT_MOST((double)workspace(w, cases[i].n), (double)cases[i].most, cases[i].spec.name);
            force(w, plan % 2, plan / 2);
        }
        apply_free(w);
        assert_int_equal(lent, 0);
    }
}

/* Which plan, and what it costs. */
static void test_choice(void)
{
    static const struct spec balanced = {"", {{2, {24, 24}, {24, 24}, {1, 64, 1}, {F32, F32}}}};
    static const struct spec from_right = {"", {{3, {40, 30, 1}, {1, 1, 100}, {1, 40, 3, 1}, {F32, F32, F32}}}};
    static const struct spec from_left = {"", {{3, {1, 1, 100}, {40, 30, 1}, {1, 40, 3, 1}, {F32, F32, F32}}}};
    static const struct spec turned = {"hadamard 32/1", {{1, {35}, {96}, {1, 1}, {F32}}}};
    struct applied *w = place(&balanced, &device_cpu, ACTIVATIONS_F32);
    int64_t sweep = 24 * 24 * 24 * 64 * 2, whole = 576 * 576;

    assert_int_equal(apply_bytes(w), 2 * 24 * 24 * 64 * 4);
    assert_int_equal(apply_work(w, 1), sweep);
    assert_true(w->term[0].sites.rebuild_from > 1);
    assert_true(w->term[0].sites.rebuild_from < 300);
    assert_int_equal(apply_work(w, 512), whole + whole * 64 / 512);
    apply_free(w);
    w = place(&from_right, &device_cpu, ACTIVATIONS_F32);
    assert_int_equal(apply_work(w, 1000), 100 * 3 + 3 * 30 * 40 + 30 * 40 * 40);
    assert_false(w->term[0].sites.from_left);
    apply_free(w);
    w = place(&from_left, &device_cpu, ACTIVATIONS_F32);
    assert_int_equal(apply_work(w, 1), 40 * 30 * 40 + 30 * 40 * 3 + 3 * 100);
    assert_true(w->term[0].sites.from_left);
    apply_free(w);
    w = place(&turned, &device_cpu, ACTIVATIONS_F32);
    assert_int_equal(apply_work(w, 1), 35 * 96 + 6 * 96);
    assert_int_equal(apply_bytes(w), (35 + 1) * 96 * 4);
    apply_free(w);
    w = place(&specs[18], &device_cpu, ACTIVATIONS_F32);
    assert_int_equal(apply_work(w, 1), 35 * 70 + 5 * (35 + 70));
    apply_free(w);
}

CHECK_MAIN({"all plans give the same", test_plans_agree},
           {"W rebuilt in small slices", test_slices},
           {"threads don't change a bit", test_threads},
           {"the workspace stays small", test_workspace},
           {"the plan and its cost", test_choice})
