/* transform.c - signs by counter, Hartley matrices, and the fast transform of the host's device. */
#include "operator/transform.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"

#include <math.h>
#include <stdlib.h>

bool transform_same(struct transform a, struct transform b)
{
    return a.block == b.block && (!a.block || (a.seed == b.seed && a.mix == b.mix));
}

int64_t transform_span(struct transform transform)
{
    return most(transform.block, 1) * most(transform.mix, 1);
}

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), its state after step + 1 additions. */
static uint64_t splitmix(uint64_t seed, uint64_t step)
{
    uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void transform_signs(struct transform transform, int64_t n, float *sign)
{
    uint64_t bits = 0;

    for (int64_t i = 0; i < n; i++) {
        bits = i % 64 ? bits >> 1 : splitmix(transform.seed, (uint64_t)i / 64);
        sign[i] = bits & 1 ? -1 : 1;
    }
}

/* q [mix, mix]: its entries take mix values. */
static void hartley(int64_t mix, float *q)
{
    float value[TRANSFORM_MIX_MOST];

    for (int64_t i = 0; i < mix; i++) {
        double angle = 2 * M_PI * (double)i / (double)mix;

        value[i] = (float)((cos(angle) + sin(angle)) / sqrt((double)mix));
    }
    for (int64_t k = 0; k < mix; k++)
        for (int64_t l = 0; l < mix; l++)
            q[k * mix + l] = value[k * l % mix];
}

static float *upload(const struct device *device, float *host, int64_t count)
{
    float *placed = device->allocate((size_t)count * sizeof *placed);

    device->upload(placed, host, (size_t)count * sizeof *placed);
    free(host);
    return placed;
}

struct hadamard transform_place(const struct device *device, struct transform transform, int64_t n)
{
    struct hadamard placed = {.block = transform.block, .mix = most(transform.mix, 1)};
    float *host;

    if (!transform.block)
        return placed;
    host = xmallocarray((size_t)n, sizeof *host);
    transform_signs(transform, n, host);
    placed.sign = upload(device, host, n);
    if (transform.mix) {
        host = xmallocarray((size_t)(transform.mix * transform.mix), sizeof *host);
        hartley(transform.mix, host);
        placed.hartley = upload(device, host, transform.mix * transform.mix);
    }
    return placed;
}

void transform_displace(const struct device *device, struct hadamard *placed)
{
    device->release((void *)(uintptr_t)placed->sign);
    device->release((void *)(uintptr_t)placed->hartley);
    *placed = (struct hadamard){0};
}

int64_t transform_bytes(struct transform transform, int64_t n)
{
    return transform.block ? (n + transform.mix * transform.mix) * (int64_t)sizeof(float) : 0;
}

double transform_work(struct transform transform, int64_t n)
{
    return transform.block ? (double)n * (1 + log2((double)transform.block) + (double)transform.mix) : 0;
}

static void turn_rows(struct transform transform, float *x, int64_t rows, int64_t n, bool inverse)
{
    struct hadamard turn;

    if (!transform.block)
        return;
    turn = transform_place(&device_cpu, transform, n);
    device_cpu.hadamard(x, n, x, n, &turn, inverse, rows, n);
    transform_displace(&device_cpu, &turn);
}

void transform_rows(struct transform transform, float *x, int64_t rows, int64_t n)
{
    turn_rows(transform, x, rows, n, false);
}

void transform_rows_inverse(struct transform transform, float *x, int64_t rows, int64_t n)
{
    turn_rows(transform, x, rows, n, true);
}

/* Columns of w that are rows for the time being, and tiles of their transposition. */
enum { STRIP = 1 << 20, TILE = 32 };

struct strip {
    float *w, *turned;           /* [n, columns]; [count, n] */
    int64_t n, columns, first, count;
    bool back;
};

static void transpose_tile(void *context, int64_t item, int thread)
{
    const struct strip *s = context;
    int64_t from = item * TILE, to = least(from + TILE, s->n);

    (void)thread;
    for (int64_t column = 0; column < s->count; column += TILE)
        for (int64_t i = from; i < to; i++)
            for (int64_t j = column; j < least(column + TILE, s->count); j++) {
                float *w = &s->w[i * s->columns + s->first + j], *turned = &s->turned[j * s->n + i];

                *(s->back ? w : turned) = *(s->back ? turned : w);
            }
}

static void turn_columns(struct transform transform, int64_t size, float *w, int64_t n, int64_t columns, bool inverse)
{
    struct strip s = {.w = w, .n = n, .columns = columns};
    int64_t step = least(n ? STRIP / n + 1 : 1, columns);

    if (!transform.block)
        return;
    s.turned = xaligned((size_t)(step * n), sizeof *s.turned);
    for (; s.first < columns; s.first += step) {
        s.count = least(step, columns - s.first);
        s.back = false;
        parallel_for(divide_up(n, TILE), transpose_tile, &s);
        turn_rows(transform, s.turned, s.count * (n / size), size, inverse);
        s.back = true;
        parallel_for(divide_up(n, TILE), transpose_tile, &s);
    }
    free(s.turned);
}

void transform_columns(struct transform transform, int64_t size, float *w, int64_t n, int64_t columns)
{
    turn_columns(transform, size, w, n, columns, false);
}

void transform_columns_inverse(struct transform transform, int64_t size, float *w, int64_t n, int64_t columns)
{
    turn_columns(transform, size, w, n, columns, true);
}

int64_t transform_block(int64_t block, int64_t n)
{
    int64_t largest = 1;

    while (2 * largest <= block && largest < TRANSFORM_BLOCK_MOST && n > 0 && n % (2 * largest) == 0)
        largest *= 2;
    return largest;
}

struct transform transform_full(int64_t n, uint64_t seed)
{
    struct transform transform = {.block = transform_block(TRANSFORM_BLOCK_MOST, n), .seed = seed};
    int64_t rest = n / transform.block, mix = least(rest, TRANSFORM_MIX_MOST);

    while (mix > 1 && rest % mix)
        mix--;
    transform.mix = mix > 1 ? mix : 0;
    return transform_span(transform) > 1 ? transform : (struct transform){0};
}

struct json *transform_json(struct transform transform)
{
    struct json *json = transform.block ? json_make_object() : NULL;

    if (json) {
        json_put(json, "signs", json_make_int((int64_t)transform.seed));
        json_put(json, "hadamard", json_make_int(transform.block));
        if (transform.mix)
            json_put(json, "hartley", json_make_int(transform.mix));
    }
    return json;
}

void transform_print(struct transform transform, const char *before, struct text *text)
{
    if (transform.block)
        text_format(text, "%shadamard %lld", before, (long long)transform.block);
    if (transform.mix)
        text_format(text, " hartley %lld", (long long)transform.mix);
}

bool transform_parse(const struct json *json, int64_t n, struct transform *transform)
{
    const struct json *mixes = json_at(json, "hartley");
    int64_t seed = json_as_int(json_at(json, "signs"), -1), block = json_as_int(json_at(json, "hadamard"), -1);
    int64_t mix = mixes ? json_as_int(mixes, -1) : 0;

    if (json_count(json) != 2 + (mixes != NULL) || seed < 0 || n < 1
        || block < (mixes ? 1 : 2) || transform_block(block, n) != block)
        return false;
    if (mixes && (mix < 2 || mix > TRANSFORM_MIX_MOST || n / block % mix))
        return false;
    *transform = (struct transform){.block = block, .seed = (uint64_t)seed, .mix = mix};
    return true;
}
