/* random.h - counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011).
 *
 * The n-th number of a stream depends on (seed, stream, n) alone, never on threads or order. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t seed, stream;
};

/* The stream that belongs to a name, under a seed. */
struct random random_named(uint64_t seed, const char *name);

/* Four 32-bit words, block number block of the stream. */
void random_block(struct random random, uint64_t block, uint32_t out[4]);

/* out[0..count-1]: standard normal numbers (Box-Muller), numbers first..first+count-1 of the stream; first and
 * count are multiples of 4. */
void random_normal(struct random random, uint64_t first, int64_t count, float *out);

/* out[0..count-1]: uniform in [0, 1), likewise. */
void random_uniform(struct random random, uint64_t first, int64_t count, float *out);

#endif
