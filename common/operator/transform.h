/* transform.h - the orthogonal turn that an operator's input goes through before its terms: W x = (sum of terms) T x,
 * with T = H S: S flips signs, H is block-diagonal with orthonormal Hadamard matrices of size block. T' T = 1, so a
 * matrix W is turned by storing W T'. Incoherence: it spreads what stands out over its block (Chee et al., QuIP,
 * arXiv:2307.13304; Tseng et al., QuIP#, arXiv:2402.04396). */
#ifndef OPERATOR_TRANSFORM_H
#define OPERATOR_TRANSFORM_H

#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>

enum { TRANSFORM_BLOCK_MOST = 1 << 16 };

struct transform {
    int64_t block;               /* 0: no transform; otherwise a power of two, 2 or more, that divides the width */
    uint64_t seed;               /* of the signs, below 2^63: FORMAT says how they follow from it */
};

bool transform_same(struct transform a, struct transform b);

/* sign [n]: +1 or -1. */
void transform_signs(struct transform transform, int64_t n, float *sign);

/* Each row of x [rows, n] becomes (T x')' in place: with vectors for rows, inputs are turned; with the rows of W, W
 * becomes W T'. n log(block) additions per row. In parallel; the inverse is the transpose. */
void transform_rows(struct transform transform, float *x, int64_t rows, int64_t n);
void transform_rows_inverse(struct transform transform, float *x, int64_t rows, int64_t n);

/* The largest block that is at most block and divides n; 1 where none from 2 on does. */
int64_t transform_block(int64_t block, int64_t n);

/* {"signs": seed, "hadamard": block}, as records have it under "input"; NULL for none. */
struct json *transform_json(struct transform transform);

/* Reads that; false where it isn't one, or not one for this width. */
bool transform_parse(const struct json *json, int64_t n, struct transform *transform);

#endif
