/* random.c - Philox 4x32-10 and the two distributions taken from it. */
#include "base/random.h"
#include "base/hash.h"

#include <math.h>
#include <string.h>

struct random random_named(uint64_t seed, const char *name)
{
    return (struct random){.seed = seed, .stream = hash_of(name, strlen(name))};
}

void random_block(struct random random, uint64_t block, uint32_t out[4])
{
    uint32_t c[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)random.stream,
                     (uint32_t)(random.stream >> 32)};
    uint32_t k0 = (uint32_t)random.seed, k1 = (uint32_t)(random.seed >> 32);

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];

        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

static float unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

void random_normal(struct random random, uint64_t first, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i += 4) {
        uint32_t word[4];

        random_block(random, (first + (uint64_t)i) / 4, word);
        for (int pair = 0; pair < 4; pair += 2) {
            float radius = sqrtf(-2.0f * logf(1.0f - unit(word[pair])));
            float angle = 6.28318530717958647692f * unit(word[pair + 1]);

            out[i + pair] = radius * cosf(angle);
            out[i + pair + 1] = radius * sinf(angle);
        }
    }
}

void random_uniform(struct random random, uint64_t first, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i += 4) {
        uint32_t word[4];

        random_block(random, (first + (uint64_t)i) / 4, word);
        for (int j = 0; j < 4; j++)
            out[i + j] = unit(word[j]);
    }
}
