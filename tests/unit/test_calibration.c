/* test_calibration.c - moments of a random model against sums in double of what a forward pass in double sees. */
#include "base/file.h"
#include "base/parallel.h"
#include "model/calibration.h"
#include "model_made.h"

#include <stdio.h>
#include <unistd.h>

enum { VOCAB = 96, WIDTH = 32, WIDE = 48, LAYERS = 3, HEADS = 4, KEYS = 2, DIM = 8, TOKENS = 150, COUNT = 5 };

static const char config_text[] = "{\"model_type\":\"llama\",\"vocab_size\":96,\"hidden_size\":32,"
                                  "\"intermediate_size\":48,\"num_hidden_layers\":3,\"num_attention_heads\":4,"
                                  "\"num_key_value_heads\":2,"
                                  "\"max_position_embeddings\":8192}";
static const int64_t lengths[COUNT] = {40, 1, 59, 20, 30};
static const int64_t widths[PARTS] = {WIDTH, WIDTH, WIDTH, WIDE};

/* A weight of the made model; factor changes all matrices of a second one. */
static float *weight_of(const char *name, int64_t rows, int64_t columns, float factor)
{
    struct expected e = {.rank = rows ? 2 : 1, .shape = {rows ? rows : columns, columns}};
    float *values = xmallocarray((size_t)((rows ? rows : 1) * columns) + 3, sizeof *values);

    snprintf(e.name, sizeof e.name, "%s", name);
    made_values(&e, values, (rows ? rows : 1) * columns);
    for (int64_t i = 0; i < rows * columns; i++)
        values[i] *= factor;
    return values;
}

static void product(const char *name, int64_t layer, int64_t out, int64_t in, float factor, const double *x, double *y)
{
    char *full = xasprintf("model.layers.%d.%s.weight", (int)layer, name);
    float *w = weight_of(full, out, in, factor);

    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t o = 0; o < out; o++) {
            y[t * out + o] = 0;
            for (int64_t i = 0; i < in; i++)
                y[t * out + o] += w[o * in + i] * x[t * in + i];
        }
    free(w);
    free(full);
}

static void norm(const char *name, int64_t layer, const double *x, double *y)
{
    char *full = xasprintf("model.layers.%d.%s.weight", (int)layer, name);
    float *w = weight_of(full, 0, WIDTH, 1);

    for (int64_t t = 0; t < TOKENS; t++) {
        double sum = 0;

        for (int64_t i = 0; i < WIDTH; i++)
            sum += x[t * WIDTH + i] * x[t * WIDTH + i];
        for (int64_t i = 0; i < WIDTH; i++)
            y[t * WIDTH + i] = x[t * WIDTH + i] / sqrt(sum / WIDTH + 1e-6) * w[i];
    }
    free(w);
    free(full);
}

static void turn(double *x, int64_t heads, int64_t position)
{
    for (int64_t h = 0; h < heads; h++)
        for (int64_t j = 0; j < DIM / 2; j++) {
            double angle = (double)position * pow(10000, -2.0 * (double)j / DIM);
            double *a = &x[h * DIM + j], *b = a + DIM / 2;
            double first = *a * cos(angle) - *b * sin(angle), second = *b * cos(angle) + *a * sin(angle);

            *a = first;
            *b = second;
        }
}

/* Attention of the token at this position of the sequence that begins with row 0. */
static void mix(const double *q, const double *k, const double *v, int64_t position, double *out)
{
    for (int64_t h = 0; h < HEADS; h++) {
        double weight[TOKENS] = {0}, sum = 0, *to = out + position * WIDTH + h * DIM;
        int64_t key = h / (HEADS / KEYS) * DIM;

        for (int64_t p = 0; p <= position; p++) {
            double score = 0;

            for (int64_t j = 0; j < DIM; j++)
                score += q[position * WIDTH + h * DIM + j] * k[p * KEYS * DIM + key + j];
            sum += weight[p] = exp(score / sqrt(DIM));
        }
        for (int64_t j = 0; j < DIM; j++) {
            to[j] = 0;
            for (int64_t p = 0; p <= position; p++)
                to[j] += weight[p] / sum * v[p * KEYS * DIM + key + j];
        }
    }
}

static void attend_all(double *q, double *k, const double *v, double *out)
{
    for (int64_t s = 0, row = 0; s < COUNT; row += lengths[s++]) {
        for (int64_t t = 0; t < lengths[s]; t++) {
            turn(q + (row + t) * WIDTH, HEADS, t);
            turn(k + (row + t) * KEYS * DIM, KEYS, t);
        }
        for (int64_t t = 0; t < lengths[s]; t++)
            mix(q + row * WIDTH, k + row * KEYS * DIM, v + row * KEYS * DIM, t, out + row * WIDTH);
    }
}

/* The inputs of all parts of all blocks. */
struct plain {
    double x[TOKENS * WIDTH];
    double input[LAYERS][PARTS][TOKENS * WIDE];
};

static void add(double *x, const double *y)
{
    for (int64_t i = 0; i < TOKENS * WIDTH; i++)
        x[i] += y[i];
}

static void plain_block(struct plain *p, int64_t layer, float factor)
{
    static double q[TOKENS * WIDTH], k[TOKENS * KEYS * DIM], v[TOKENS * KEYS * DIM], y[TOKENS * WIDTH];
    static double gate[TOKENS * WIDE], up[TOKENS * WIDE];
    double (*input)[TOKENS * WIDE] = p->input[layer];

    norm("input_layernorm", layer, p->x, input[PART_QKV]);
    product("self_attn.q_proj", layer, WIDTH, WIDTH, factor, input[PART_QKV], q);
    product("self_attn.k_proj", layer, KEYS * DIM, WIDTH, factor, input[PART_QKV], k);
    product("self_attn.v_proj", layer, KEYS * DIM, WIDTH, factor, input[PART_QKV], v);
    attend_all(q, k, v, input[PART_O]);
    product("self_attn.o_proj", layer, WIDTH, WIDTH, factor, input[PART_O], y);
    add(p->x, y);
    norm("post_attention_layernorm", layer, p->x, input[PART_GATEUP]);
    product("mlp.gate_proj", layer, WIDE, WIDTH, factor, input[PART_GATEUP], gate);
    product("mlp.up_proj", layer, WIDE, WIDTH, factor, input[PART_GATEUP], up);
    for (int64_t i = 0; i < TOKENS * WIDE; i++)
        input[PART_DOWN][i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    product("mlp.down_proj", layer, WIDTH, WIDE, factor, input[PART_DOWN], y);
    add(p->x, y);
}

static struct plain *plain_model(const int32_t *token, float factor)
{
    struct plain *p = xmalloc(sizeof *p);
    float *embedding = weight_of("model.embed_tokens.weight", VOCAB, WIDTH, factor);

    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t i = 0; i < WIDTH; i++)
            p->x[t * WIDTH + i] = embedding[token[t] * WIDTH + i];
    for (int64_t layer = 0; layer < LAYERS; layer++)
        plain_block(p, layer, factor);
    free(embedding);
    return p;
}

static void start_file(struct writer *writer, const char *path)
{
    assert_int_equal(writer_open(writer, path, NULL, NULL), EX_OK);
}

static void end_file(struct writer *writer)
{
    assert_int_equal(writer_end(writer), EX_OK);
    writer_close(writer);
}

/* The model, all matrices scaled. */
static void make_scaled(const char *path, float factor)
{
    struct json *json = json_parse(config_text, strlen(config_text), "config");
    struct writer writer;
    struct config config;
    struct expected e;

    assert_int_equal(config_read(json, path, &config), EX_OK);
    assert_int_equal(writer_open(&writer, path, json, NULL), EX_OK);
    for (int64_t i = 0; i < config_expected_count(&config); i++) {
        struct record record;
        float *values;

        config_expected(&config, i, &e);
        values = weight_of(e.name, e.rank == 2 ? e.shape[0] : 0, e.shape[e.rank - 1], factor);
        record = record_tensor(e.name, DTYPE(F32), e.rank, e.shape);
        assert_int_equal(writer_put(&writer, &record, values), EX_OK);
        record_free(&record);
        free(values);
    }
    end_file(&writer);
    json_drop(json);
}

struct side {
    struct loader loader;
    struct forward forward;
    struct hidden hidden;
};

static void open_side(struct side *side, const char *path, const struct device *device, int64_t memory,
                      const struct sequence *sequence, struct pass *pass)
{
    struct applied *embedding;

    assert_int_equal(loader_open(&side->loader, path, device, ACTIVATIONS_F32), EX_OK);
    forward_begin(&side->forward, device, &side->loader.config);
    assert_int_equal(hidden_open(&side->hidden, TOKENS, WIDTH, memory), EX_OK);
    assert_int_equal(pass_begin(pass, &side->loader, &side->forward, sequence, COUNT, &side->hidden), EX_OK);
    assert_int_equal(pass_embed(pass, &embedding), EX_OK);
    apply_free(embedding);
}

static void close_side(struct side *side, struct pass *pass)
{
    pass_end(pass);
    assert_int_equal(loader_finish(&side->loader), EX_OK);
    hidden_close(&side->hidden);
    forward_end(&side->forward);
    loader_close(&side->loader);
}

/* All blocks of "m", where reference is set with "r" beside it, into the file "h". */
static void run_calibration(const int32_t *token, const struct device *device, enum block_part part, bool reference,
                            int64_t held, int64_t memory)
{
    int64_t last[COUNT], row = 0;
    struct sequence sequence[COUNT];
    struct calibration_options options = {part, reference, TOKENS, 0};
    int sides = reference ? 2 : 1;
    struct calibration calibration;
    struct side side[2];
    struct pass pass[2];
    struct writer writer;

    for (int64_t s = 0; s < COUNT; row += lengths[s++]) {
        sequence[s] = (struct sequence){token + row, lengths[s], -1};
        last[s] = lengths[s];
        options.held += s >= COUNT - held ? last[s] : 0;
    }
    for (int s = 0; s < sides; s++)                      /* the reference first */
        open_side(&side[s], s == sides - 1 ? "m" : "r", device, memory, sequence, &pass[s]);
    calibration_begin(&calibration, device, &side[0].loader.config, &options);
    side[sides - 1].forward.tap = &calibration.tap;
    if (reference)
        side[0].forward.tap = &calibration.reference;
    start_file(&writer, "h");
    for (int64_t layer = 0; layer < LAYERS; layer++) {
        struct block block[2];

        for (int s = 0; s < sides; s++)
            assert_int_equal(loader_block(&side[s].loader, layer, &block[s]), EX_OK);
        assert_int_equal(pass_block(pass, block, sides, layer), EX_OK);
        for (int s = 0; s < sides; s++)
            block_free(&block[s], device);
        assert_int_equal(calibration_write(&calibration, layer, &writer), EX_OK);
    }
    end_file(&writer);
    calibration_end(&calibration);
    for (int s = 0; s < sides; s++)
        close_side(&side[s], &pass[s]);
}

/* Means of a b' over tokens from..to-1, relative difference of the norm: packed or whole. */
static double difference(const float *found, const double *a, const double *b, int64_t n, int64_t from, int64_t to,
                         bool packed)
{
    double error = 0, square = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < (packed ? i + 1 : n); j++) {
            double sum = 0, value = found[packed ? i * (i + 1) / 2 + j : i * n + j];

            for (int64_t t = from; t < to; t++)
                sum += a[t * n + i] * b[t * n + j];
            sum /= (double)(to - from);
            error += (value - sum) * (value - sum);
            square += sum * sum;
        }
    return sqrt(error / square);
}

static const double close_enough = 2e-6;

static void check_calibration(const struct plain *m, const struct plain *r, int64_t held)
{
    static const char *const matrices[PARTS] = {"self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"};
    const struct moment_set *set;
    struct moments_file *file;
    int64_t fit = TOKENS - (held ? 30 : 0);

    assert_int_equal(moments_open(&file, "h"), EX_OK);
    for (int64_t layer = 0; layer < LAYERS; layer++)
        for (enum block_part part = 0; part < PARTS; part++) {
            const double *x = m->input[layer][part], *y = r ? r->input[layer][part] : NULL;
            char *name = xasprintf("model.layers.%d.%s.weight", (int)layer, matrices[part]);
            int64_t n = widths[part];

            assert_int_equal(moments_find(file, name, n, &set), EX_OK);
            assert_int_equal(set->h.tokens, fit);
            CHECK_AT_MOST(difference(set->h.packed, x, x, n, 0, fit, true), close_enough, name);
            assert_int_equal(!set->held.packed, !held);
            if (held)
                CHECK_AT_MOST(difference(set->held.packed, x, x, n, fit, TOKENS, true), close_enough, name);
            assert_int_equal(!set->cross, !r);
            if (r)
                CHECK_AT_MOST(difference(set->cross, y, x, n, 0, fit, false), close_enough, name);
            assert_int_equal(!set->held_cross, !r || !held);
            if (r && held)
                CHECK_AT_MOST(difference(set->held_cross, y, x, n, fit, TOKENS, false), close_enough, name);
            free(name);
        }
    moments_close(file);
}

static void test_calibration(void)
{
    static const struct device *const devices[] = {&device_cpu, &device_reference};
    int32_t *token = made_tokens(TOKENS, 5, VOCAB);
    struct plain *m = plain_model(token, 1), *r = plain_model(token, 1.25f);

    make_scaled("m", 1);
    make_scaled("r", 1.25f);
    for (int d = 0; d < 2; d++) {
        run_calibration(token, devices[d], PARTS, false, 0, INT64_MAX);
        check_calibration(m, NULL, 0);
        run_calibration(token, devices[d], PARTS, true, 1, INT64_MAX);
        check_calibration(m, r, 1);
        run_calibration(token, devices[d], PARTS, false, 1, 0);      /* hidden states in a file */
        check_calibration(m, NULL, 1);
    }
    free(m);
    free(r);
    free(token);
}

static void same_files(const char *a, const char *b, bool same)
{
    struct text one = {0}, other = {0};

    assert_int_equal(file_read(a, 1 << 24, &one), EX_OK);
    assert_int_equal(file_read(b, 1 << 24, &other), EX_OK);
    assert_int_equal(one.length == other.length && !memcmp(one.data, other.data, one.length), same);
    text_free(&one);
    text_free(&other);
}

static void test_threads(void)
{
    int32_t *token = made_tokens(TOKENS, 6, VOCAB);

    make_scaled("m", 1);
    make_scaled("r", 1.25f);
    run_calibration(token, &device_cpu, PARTS, true, 2, INT64_MAX);
    assert_int_equal(rename("h", "one"), 0);
    parallel_set(3);
    run_calibration(token, &device_cpu, PARTS, true, 2, INT64_MAX);
    parallel_set(0);
    same_files("h", "one", true);
    free(token);
}

/* Sums of many tokens: nothing gets lost where a sum grows large beside what is added to it. */
static void test_many_tokens(void)
{
    enum { N = 20, PIECE = 500, PIECES = 400 };
    struct config config = {.d_model = N, .n_head = 1, .head_dim = N, .d_ff = N};
    struct calibration_options options = {PART_O, false, (int64_t)PIECE * PIECES, 0};
    struct calibration calibration;
    float *x = xmallocarray(PIECE * N, sizeof *x);
    const struct moment_set *set;
    struct moments_file *file;
    struct writer writer;
    double *wide = xmallocarray(PIECE * N, sizeof *wide);

    random_normal(random_named(3, "x"), 0, PIECE * N, x);
    for (int64_t i = 0; i < PIECE * N; i++)
        wide[i] = x[i] += 3;
    calibration_begin(&calibration, &device_cpu, &config, &options);
    for (int64_t p = 0; p < PIECES; p++)
        calibration.tap.see(&calibration, PART_O, p * PIECE, x, PIECE);
    start_file(&writer, "h");
    assert_int_equal(calibration_write(&calibration, 0, &writer), EX_OK);
    end_file(&writer);
    calibration_end(&calibration);
    assert_int_equal(moments_open(&file, "h"), EX_OK);
    assert_int_equal(moments_find(file, "model.layers.0.self_attn.o_proj.weight", N, &set), EX_OK);
    CHECK_AT_MOST(difference(set->h.packed, wide, wide, N, 0, PIECE, true), 5e-7, "sums of many tokens");
    moments_close(file);
    free(x);
    free(wide);
}

/* Activations that aren't finite give no moments. */
static void test_not_finite(void)
{
    char message[256];
    struct config config = {.d_model = 2, .n_head = 1, .head_dim = 2, .d_ff = 2};
    struct calibration_options options = {PART_O, false, 1, 0};
    struct calibration calibration;
    struct writer writer;

    calibration_begin(&calibration, &device_cpu, &config, &options);
    calibration.tap.see(&calibration, PART_O, 0, (const float[]){1, INFINITY}, 1);
    calibration.tap.see(&calibration, PART_QKV, 0, (const float[]){1, 1}, 1);        /* not asked for */
    start_file(&writer, "h2");
    error_capture(message, sizeof message);
    assert_int_equal(calibration_write(&calibration, 4, &writer), EX_DATAERR);
    error_capture(NULL, 0);
    assert_non_null(strstr(message, "'model.layers.4.self_attn.o'"));
    writer_close(&writer);
    calibration_end(&calibration);
    assert_int_equal(access("h2", F_OK), -1);
}

CHECK_MAIN({"moments, cross moments, held-out ones equal those of a model in double", test_calibration},
           {"threads don't change a byte", test_threads},
           {"sums of many tokens stay exact", test_many_tokens},
           {"what isn't finite is refused", test_not_finite})
