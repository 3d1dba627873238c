/* tensor.h - tensors in memory, and their conversion to and from f32. Row-major everywhere, little-endian
 * payloads. */
#ifndef TENSOR_TENSOR_H
#define TENSOR_TENSOR_H

#include "base/hash.h"
#include "tensor/dtype.h"

#include <stddef.h>

struct tensor {
    struct dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK];
    int64_t bytes;               /* of the payload */
    unsigned char *data;         /* owned, at a multiple of 64 unless it was read from a pipe in pieces */
};

/* A tensor whose payload is allocated, not set; only the gaps between the planes of a packed format are zero, so that
 * equal rows give equal bytes. Sizes must be good (dtype_payload() >= 0). */
struct tensor tensor_new(struct dtype dtype, int rank, const int64_t *shape);

/* Releases the payload and zeroes. */
void tensor_free(struct tensor *tensor);

/* Adds dtype, shape and payload to a hash. */
void tensor_hash(const struct tensor *tensor, struct hash *hash);

/* Elements. */
int64_t tensor_count(const struct tensor *tensor);

/* Rows of the tensor seen as a matrix whose rows run along the last axis longer than 1, and their length. */
int64_t tensor_rows(const struct tensor *tensor);
int64_t tensor_row_length(const struct tensor *tensor);

/* out [rows, row length] f32: rows first..first+rows-1. The dtype must be real; f64 is rounded. */
void tensor_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out);

/* All elements as f32, by parallel rows. */
void tensor_get(const struct tensor *tensor, float *out);

/* Rounds f32 rows (to nearest, ties to even) into an f32, f16 or bf16 tensor. */
void tensor_set_rows(struct tensor *tensor, int64_t first, int64_t rows, const float *in);
void tensor_set(struct tensor *tensor, const float *in);

/* The same for elements first..first+count-1. */
void tensor_set_elements(struct tensor *tensor, int64_t first, int64_t count, const float *in);

/* Whether all numbers of an f32, f16 or bf16 tensor are finite: rounding to f16 overflows beyond 65504. */
bool tensor_is_finite(const struct tensor *tensor);

/* Single numbers. */
float half_to_float(uint16_t half);
uint16_t half_from_float(float value);           /* overflow gives infinity, NaN stays NaN */
float bfloat_to_float(uint16_t value);
uint16_t bfloat_from_float(float value);

/* One row of a group format: codes (one byte each) packed or unpacked, `bits` bits each, little-endian, each group
 * of at most `group` codes starting at a whole byte. */
void codes_pack(int bits, int64_t length, int64_t group, const unsigned char *codes, unsigned char *packed);
void codes_unpack(int bits, int64_t length, int64_t group, const unsigned char *packed, unsigned char *codes);

/* One row of a group format, unpacked: as tensor_put_row() writes it. */
struct group_row {
    unsigned char *codes;        /* [length] */
    uint16_t *scale;             /* [groups]: f16, or integers of scale_bits */
    uint16_t *zero;              /* [groups]: zero points (int); f16 or integers of scale_bits (min); unused (none) */
    uint16_t *scale_factor;      /* [supers] f16; the last two are for formats with scale_bits only */
    uint16_t *minimum_factor;    /* [supers] f16; min only */
};

/* Room for one row of such a layout, all zero. */
struct group_row group_row_new(const struct group_layout *layout);
void group_row_free(struct group_row *row);

/* Packs a row into the payload of tensor, whose layout this is. Integers must fit their bits. Different rows may be
 * written by different threads. */
void tensor_put_row(struct tensor *tensor, const struct group_layout *layout, int64_t index,
                    const struct group_row *row);

/* The codes and whole zero points (ZERO_INT) of a row; the rest of row stays. */
void tensor_get_codes(const struct tensor *tensor, const struct group_layout *layout, int64_t index,
                      struct group_row *row);

/* What tensor_get_rows() does for a group format. */
void group_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out);

/* What scales_get_units() and scales_get() do for one. */
void group_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit);
void group_get_scales(const struct tensor *tensor, float *scale, float *minimum);

#endif
