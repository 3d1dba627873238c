/* transform.h - the orthogonal turns around an operator's terms: W = T_out' (sum of terms) T_in.
 *
 * T = (Q kron H) S in each span of mix * block numbers: S flips signs by seed, H is the orthonormal Hadamard matrix of
 * size block, a power of two, and Q the Hartley matrix of size mix, which mixes the blocks of a span: orthogonal,
 * symmetric, and no entry above sqrt(2 / mix), so that with the signs it spreads as a Hadamard matrix does, and it
 * exists for every size. With mix 1 T is block-diagonal of Hadamard matrices. T' T = 1, so a matrix W is turned by
 * storing T_out W T_in'. Incoherence: it spreads what stands out over the span (Chee et al., QuIP, arXiv:2307.13304;
 * Tseng et al., QuIP#, arXiv:2402.04396, whose section 3 has the randomized Fourier transform where Hadamard matrices
 * don't exist; Hartley's is its real form). */
#ifndef OPERATOR_TRANSFORM_H
#define OPERATOR_TRANSFORM_H

#include "base/json.h"
#include "compute/device.h"

#include <stdbool.h>
#include <stdint.h>

struct text;

enum { TRANSFORM_BLOCK_MOST = 1 << 16, TRANSFORM_MIX_MOST = HADAMARD_MIX };

struct transform {
    int64_t block;               /* 0: none; otherwise a power of two. The span, 2 or more, divides the width */
    uint64_t seed;               /* of the signs, below 2^63: FORMAT says how they follow from it */
    int64_t mix;                 /* 0: blocks are not mixed; otherwise 2 or more */
};

bool transform_same(struct transform a, struct transform b);

/* Numbers that belong together: mix * block; 1 without a transform. */
int64_t transform_span(struct transform transform);

/* sign [n]: +1 or -1. */
void transform_signs(struct transform transform, int64_t n, float *sign);

/* The transform on a device, for rows of n numbers; block 0 where there is none. Not to be called inside
 * parallel_for(). */
struct hadamard transform_place(const struct device *device, struct transform transform, int64_t n);
void transform_displace(const struct device *device, struct hadamard *placed);

/* Bytes that it takes there, and operations per row. */
int64_t transform_bytes(struct transform transform, int64_t n);
double transform_work(struct transform transform, int64_t n);

/* Each row of x [rows, n] becomes (T x')' in place: with vectors for rows, inputs are turned; with the rows of W, W
 * becomes W T'. n log(block) additions per row, and mix * n multiply-adds where blocks are mixed. In parallel; the
 * inverse is the transpose. */
void transform_rows(struct transform transform, float *x, int64_t rows, int64_t n);
void transform_rows_inverse(struct transform transform, float *x, int64_t rows, int64_t n);

/* Each column of w [n, columns] becomes T times it: of W, W becomes T W, or T' W. With size less than n, a divisor of
 * it, each piece of so many numbers is turned by itself, all in the same way. Takes some MiB besides. */
void transform_columns(struct transform transform, int64_t size, float *w, int64_t n, int64_t columns);
void transform_columns_inverse(struct transform transform, int64_t size, float *w, int64_t n, int64_t columns);

/* The largest block that is at most block and divides n; 1 where none from 2 on does. */
int64_t transform_block(int64_t block, int64_t n);

/* The transform of the whole width: all of its powers of two up to TRANSFORM_BLOCK_MOST in block, and in mix the rest
 * of n, or the largest divisor of the rest up to TRANSFORM_MIX_MOST. So each number of the output is made of all
 * numbers of the input unless the rest is larger than that, and then of a span's. None (block 0) where nothing but
 * signs is left: widths of 1, and primes that are larger. */
struct transform transform_full(int64_t n, uint64_t seed);

/* {"signs": seed, "hadamard": block}, and "hartley": mix where there is one, as records have it under "input" and
 * "output"; NULL for none. */
struct json *transform_json(struct transform transform);

/* The words before, and "hadamard 64 hartley 9", to the end of a text; nothing where there is no transform. */
void transform_print(struct transform transform, const char *before, struct text *text);

/* Reads that; false where it isn't one, or not one for this width. */
bool transform_parse(const struct json *json, int64_t n, struct transform *transform);

#endif
