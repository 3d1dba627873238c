/* hash.c - XXH3 by xxHash, compiled in line so that it uses the vector width this build was made for. */
#include "base/hash.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash {
    XXH3_state_t state;
};

struct hash *hash_new(void)
{
    struct hash *hash = xaligned(1, sizeof *hash);

    XXH3_INITSTATE(&hash->state);
    hash_reset(hash);
    return hash;
}

void hash_free(struct hash *hash)
{
    free(hash);
}

void hash_reset(struct hash *hash)
{
    XXH3_64bits_reset(&hash->state);
}

void hash_update(struct hash *hash, const void *data, size_t size)
{
    if (size)
        XXH3_64bits_update(&hash->state, data, size);
}

uint64_t hash_value(const struct hash *hash)
{
    return XXH3_64bits_digest(&hash->state);
}

uint64_t hash_of(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

const char *hash_text(uint64_t value, char text[HASH_TEXT])
{
    snprintf(text, HASH_TEXT, "%016llx", (unsigned long long)value);
    return text;
}
