/* test_apply_train.c - the backward pass of all kinds of operators, on both devices. What an operator makes of its
 * input is linear in each number of its cores and of the input, so differences in double are exact for any step. */
#include "apply_made.h"

enum { N = 9, SAMPLES = 23 };

/* Of an operator: sum of dy * (T_out' W T x), as the sum of g * W with g = (T_out dy)' (T x) [out, in], W the sum of
 * the terms. */
struct objective {
    const struct operator *op;
    double *g;
    double *core[TERMS][SITES + 1];
};

/* Rows of [bond] that the cores from s on make of row [chi] for output o and input i, summed: a number at the end. */
static double follow(const struct objective *f, int t, int s, const double *row, int64_t o, int64_t i)
{
    const struct chain *chain = &f->op->term[t];
    const int64_t *shape = chain->core[s].shape;
    int64_t below_o = 1, below_i = 1;
    double next[64] = {0};

    for (int k = s + 1; k < chain->n_site; k++) {
        below_o *= chain->core[k].shape[1];
        below_i *= chain->core[k].shape[2];
    }
    for (int64_t a = 0; a < shape[0]; a++)
        for (int64_t b = 0; b < shape[3]; b++)
            next[b] += row[a] * f->core[t][s][((a * shape[1] + o / below_o) * shape[2] + i / below_i) * shape[3] + b];
    return s == chain->n_site - 1 ? next[0] : follow(f, t, s + 1, next, o % below_o, i % below_i);
}

static double value(const struct objective *f, int t)
{
    double sum = 0;

    for (int64_t o = 0; o < f->op->out; o++)
        for (int64_t i = 0; i < f->op->in; i++)
            sum += f->g[o * f->op->in + i] * follow(f, t, 0, (const double[]){1}, o, i);
    return sum;
}

static struct objective objective_of(const struct operator *op, const float *x, const float *dy)
{
    struct objective f = {.op = op, .g = xcalloc((size_t)(op->out * op->in), sizeof *f.g)};
    double *turned = turned_input(op, x, N);
    float *turned_dy = xmallocarray((size_t)(N * op->out), sizeof *turned_dy);

    memcpy(turned_dy, dy, (size_t)(N * op->out) * sizeof *dy);
    transform_rows(op->output, turned_dy, N, op->out);
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < op->out; o++)
            for (int64_t i = 0; i < op->in; i++)
                f.g[o * op->in + i] += (double)turned_dy[n * op->out + o] * turned[n * op->in + i];
    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site; s++) {
            const struct tensor *core = &op->term[t].core[s];
            float *values = xmallocarray((size_t)tensor_count(core), sizeof *values);

            tensor_get(core, values);
            f.core[t][s] = in_double(values, tensor_count(core));
            free(values);
        }
    free(turned);
    free(turned_dy);
    return f;
}

static void objective_free(struct objective *f)
{
    free(f->g);
    for (int t = 0; t < TERMS; t++)
        for (int s = 0; s < SITES; s++)
            free(f->core[t][s]);
}

/* How the value changes with number `at` of the trainable: of a scale or minimum, all numbers of its group change. */
static double slope(const struct objective *f, const struct trainable *t, int64_t at)
{
    const struct tensor *core = &f->op->term[t->term].core[t->site];
    double *values = f->core[t->term][t->site], *kept, low, high;
    int64_t first = at, count = 1;
    float *unit = NULL;

    if (t->which != NUMBERS_VALUES) {
        struct scaling scaling = scales_of(core);
        int64_t row = at / scaling.groups, begin = at % scaling.groups * scaling.group;

        first = row * scaling.length + begin;
        count = scaling.length - begin < scaling.group ? scaling.length - begin : scaling.group;
        unit = xmallocarray((size_t)scaling.length, sizeof *unit);
        scales_get_units(core, row, 1, unit);
        memmove(unit, unit + begin, (size_t)count * sizeof *unit);
    }
    kept = xmallocarray((size_t)count, sizeof *kept);
    memcpy(kept, values + first, (size_t)count * sizeof *kept);
    for (int64_t j = 0; j < count; j++)
        values[first + j] = kept[j] + (t->which == NUMBERS_SCALES ? (double)unit[j] : 1);
    high = value(f, t->term);
    for (int64_t j = 0; j < count; j++)
        values[first + j] = kept[j] - (t->which == NUMBERS_SCALES ? (double)unit[j] : 1);
    low = value(f, t->term);
    memcpy(values + first, kept, (size_t)count * sizeof *kept);
    free(kept);
    free(unit);
    return (high - low) / 2;
}

struct training {
    const struct device *device;
    struct applied *w;
    struct trainable trainable[3 * TERMS * SITES];
    float *gradient[3 * TERMS * SITES];
    int count;
    unsigned seen;
};

static void see(void *context, const struct trainable *trainable)
{
    struct training *training = context;
    float *zeros = xcalloc((size_t)trainable->count, sizeof *zeros);

    training->trainable[training->count] = *trainable;
    training->gradient[training->count] = *trainable->gradient = to_device(training->device, zeros, trainable->count);
    training->count++;
    training->seen |= trainable->train;
    free(zeros);
}

/* Gradients were added to twice. */
static void check_trainable(struct training *training, const struct objective *f, const char *name)
{
    for (int i = 0; i < training->count; i++) {
        const struct trainable *t = &training->trainable[i];
        float *host = xmallocarray((size_t)t->count, sizeof *host);
        double error = 0, size = 0;

        apply_download(training->w, t, training->gradient[i], host);
        for (int64_t k = 0; k < (t->count < SAMPLES ? t->count : SAMPLES); k++) {
            int64_t at = t->count <= SAMPLES ? k : (k * 7919 + 13) % t->count;
            double expected_slope = 2 * slope(f, t, at);

            error += (expected_slope - (double)host[at]) * (expected_slope - (double)host[at]);
            size += expected_slope * expected_slope;
        }
        CHECK_AT_MOST(sqrt(error / size), 3e-6, name);
        training->device->release(training->gradient[i]);
        free(host);
    }
}

/* dx = dy W. */
static void check_input(const struct operator *op, const float *dy, const float *dx, const float *start,
                        const char *name)
{
    float *w = xmallocarray((size_t)(op->out * op->in), sizeof *w), *truth;
    double *sum = xcalloc((size_t)(N * op->in), sizeof *sum);

    operator_dense(op, w);
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < op->out; o++)
            for (int64_t i = 0; i < op->in; i++)
                sum[n * op->in + i] += (double)dy[n * op->out + o] * (double)w[o * op->in + i];
    truth = xmallocarray((size_t)(N * op->in), sizeof *truth);
    for (int64_t i = 0; i < N * op->in; i++)
        truth[i] = (float)sum[i];
    check_against(name, dx, truth, start, N * op->in, BOUND);
    free(truth);
    free(sum);
    free(w);
}

static void check_spec(const struct spec *spec, unsigned train, const struct device *device, unsigned *seen)
{
    struct operator op = make(spec), moved = make(spec);
    int64_t in = op.in, out = op.out;
    float *x = numbers("x", N, in), *dy = numbers("dy", N, out), *start = numbers("start", N, in);
    float *result = xmallocarray((size_t)(N * (in > out ? in : out)), sizeof *result);
    struct objective f = objective_of(&op, x, dy);
    struct training training = {.device = device, .w = apply_place_trained(device, &moved, train)};
    float *device_x = to_device(device, x, N * in), *device_y = to_device(device, dy, N * out);
    float *dx = to_device(device, start, N * in), *truth = expected(&op, x, N, ACTIVATIONS_F32), *kept;
    struct application application = {training.w, device_y, out, false};

    apply_trainable(training.w, see, &training);
    *seen |= training.seen;
    kept = device->allocate((size_t)(N * apply_kept(&application, 1) + 1) * sizeof *kept);
    apply_keep(&application, 1, device_x, in, N, kept);
    device->download(result, device_y, (size_t)(N * out) * sizeof *result);
    check_against(spec->name, result, truth, NULL, N * out, BOUND);
    device->upload(device_y, dy, (size_t)(N * out) * sizeof *dy);
    for (int add = 1; add >= 0; add--) {
        apply_back(&application, 1, device_x, in, N, kept, dx, add);
        device->download(result, dx, (size_t)(N * in) * sizeof *result);
        check_input(&op, dy, result, add ? start : NULL, spec->name);
    }
    check_trainable(&training, &f, spec->name);
    device->release(kept);
    device->release(device_x);
    device->release(device_y);
    device->release(dx);
    apply_free(training.w);
    objective_free(&f);
    operator_free(&op);
    free(x);
    free(dy);
    free(start);
    free(result);
    free(truth);
}

static void test_all_kinds(void)
{
    unsigned seen = 0;

    for (int i = 0; i < N_SPEC; i++)
        for (int d = 0; d < 2; d++) {
            check_spec(&specs[i], TRAIN_CORES | TRAIN_SCALES | TRAIN_MATRICES, devices[d], &seen);
            check_spec(&specs[i], TRAIN_CORES, devices[d], &seen);
        }
    assert_int_equal(seen, TRAIN_CORES | TRAIN_SCALES | TRAIN_MATRICES);
}

static void count_trainable(void *context, const struct trainable *trainable)
{
    (void)trainable;
    ++*(int *)context;
}

static void test_frozen(void)
{
    for (int i = 0; i < N_SPEC; i++) {
        struct operator op = make(&specs[i]), other = make(&specs[i]);
        struct applied *w = apply_place_trained(&device_cpu, &op, 0), *v = apply_place(&device_cpu, &other, 0);
        int count = 0;

        apply_trainable(w, count_trainable, &count);
        apply_trainable(v, count_trainable, &count);
        assert_int_equal(count, 0);
        assert_int_equal(apply_bytes(w), apply_bytes(v));
        apply_free(w);
        apply_free(v);
    }
}

/* Operators of several transforms with one input: their dx add up, and each finds what it kept. */
static void test_shared_input(void)
{
    struct application application[N_SPEC];
    struct applied *w[N_SPEC];
    struct operator op[N_SPEC];
    int count = 0;
    float *x = numbers("x", N, 70), *sum = xcalloc(N * 70, sizeof *sum), *dx = xcalloc(N * 70, sizeof *dx);
    float *one = xmallocarray(N * 70, sizeof *one), *dy = numbers("dy", N, 35), *kept;

    for (int i = 0; i < N_SPEC; i++) {
        struct operator moved = make(&specs[i]);

        if (moved.in == 70 && moved.out == 35) {
            op[count] = make(&specs[i]);
            w[count] = apply_place_trained(&device_cpu, &moved, TRAIN_CORES);
            application[count] = (struct application){w[count], xmallocarray(N * 35, sizeof *x), 35, false};
            count++;
        } else
            operator_free(&moved);
    }
    assert_true(count > 10);
    kept = xmallocarray((size_t)(N * apply_kept(application, count)), sizeof *kept);
    apply_keep(application, count, x, 70, N, kept);
    for (int a = 0; a < count; a++) {
        struct application alone = {w[a], dy, 35, false};
        float *mine = xmallocarray((size_t)(N * apply_kept(&alone, 1) + 1), sizeof *mine);
        float *truth = expected(&op[a], x, N, ACTIVATIONS_F32);

        CHECK_AT_MOST(check_relative(application[a].y, truth, N * 35), BOUND, "kept product");
        memcpy(application[a].y, dy, N * 35 * sizeof *dy);
        memset(mine, 0, (size_t)(N * apply_kept(&alone, 1)) * sizeof *mine);
        apply_back(&alone, 1, x, 70, N, mine, one, false);       /* dx doesn't depend on what was kept */
        for (int i = 0; i < N * 70; i++)
            sum[i] += one[i];
        free(mine);
        free(truth);
    }
    apply_back(application, count, x, 70, N, kept, dx, false);
    CHECK_AT_MOST(check_relative(dx, sum, N * 70), BOUND, "sum over operators");
    for (int a = 0; a < count; a++) {
        apply_free(w[a]);
        operator_free(&op[a]);
        free(application[a].y);
    }
    free(x);
    free(sum);
    free(dx);
    free(one);
    free(dy);
    free(kept);
}

CHECK_MAIN({"all kinds of operators backwards", test_all_kinds}, {"nothing frozen is trained", test_frozen},
           {"operators that share an input", test_shared_input})
