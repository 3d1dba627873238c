/* transform.c - signs by counter, and the fast Hadamard transform of the host's device. */
#include "operator/transform.h"
#include "base/memory.h"
#include "compute/device.h"

#include <stdlib.h>

bool transform_same(struct transform a, struct transform b)
{
    return a.block == b.block && (!a.block || a.seed == b.seed);
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

static void turn_rows(struct transform transform, float *x, int64_t rows, int64_t n, bool inverse)
{
    float *sign;

    if (!transform.block)
        return;
    sign = xmallocarray((size_t)n, sizeof *sign);
    transform_signs(transform, n, sign);
    device_cpu.hadamard(x, n, x, n, sign, transform.block, inverse, rows, n);
    free(sign);
}

void transform_rows(struct transform transform, float *x, int64_t rows, int64_t n)
{
    turn_rows(transform, x, rows, n, false);
}

void transform_rows_inverse(struct transform transform, float *x, int64_t rows, int64_t n)
{
    turn_rows(transform, x, rows, n, true);
}

int64_t transform_block(int64_t block, int64_t n)
{
    int64_t most = 1;

    while (2 * most <= block && most < TRANSFORM_BLOCK_MOST && n > 0 && n % (2 * most) == 0)
        most *= 2;
    return most;
}

struct json *transform_json(struct transform transform)
{
    struct json *json = transform.block ? json_make_object() : NULL;

    if (json) {
        json_put(json, "signs", json_make_int((int64_t)transform.seed));
        json_put(json, "hadamard", json_make_int(transform.block));
    }
    return json;
}

bool transform_parse(const struct json *json, int64_t n, struct transform *transform)
{
    int64_t seed = json_as_int(json_at(json, "signs"), -1), block = json_as_int(json_at(json, "hadamard"), -1);

    if (json_count(json) != 2 || seed < 0 || block < 2 || transform_block(block, n) != block)
        return false;
    *transform = (struct transform){.block = block, .seed = (uint64_t)seed};
    return true;
}
