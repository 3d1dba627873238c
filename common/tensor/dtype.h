/* dtype.h - the registry of number formats: plain ones, groups of packed codes with a scale, and trellis codes.
 *
 * A group format "q4-64-min" has bits (2, 3, 4, 5, 6, 8), a group length (1 or more, or "row": the whole row) and
 * an offset:
 *
 *     none   w = scale * (code - 2^(bits-1))
 *     int    w = scale * (code - zero),    zero an unsigned integer of `bits` bits
 *     min    w = scale * code + minimum,   minimum in f16
 *
 * code is unsigned, scale f16. With "-s6" or "-s8" behind the name ("q3-64-min-s6") the groups of a row come in
 * super-blocks of SUPER_GROUPS (a shorter one at the row's end), and a group's scale and minimum are a factor times an
 * unsigned integer of 6 or 8 bits: each super-block has an f16 factor for its scales and one for its minima, of either
 * sign. Zero points stay as they are.
 *
 * Rows run along the last axis longer than 1; groups never cross rows, and a short last group has its own scale and
 * offset. A payload is up to GROUP_PLANES planes, each starting at a multiple of 64 bytes (see struct group_layout).
 *
 * A trellis format "t2-12", "t2.5-12" has a rate in bits per weight (1 to 4 by halves) and a state of 8 to 16 bits: see
 * tensor/trellis.h. */
#ifndef TENSOR_DTYPE_H
#define TENSOR_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

enum dtype_kind { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64, DTYPE_U8, DTYPE_I8, DTYPE_I16, DTYPE_I32, DTYPE_I64,
                  DTYPE_BOOL, DTYPE_GROUP, DTYPE_TRELLIS };
enum dtype_zero { ZERO_NONE, ZERO_INT, ZERO_MIN };

enum { GROUP_ROW = 0 };          /* group: the whole row */
enum { SUPER_GROUPS = 8 };       /* groups that share the f16 factors of their integer scales and minima */
enum { GROUP_PLANES = 5 };       /* the most planes of a payload */
enum { TENSOR_RANK = 8 };        /* the most axes a tensor has */
enum { DTYPE_NAME = 32 };        /* bytes of a name, terminated */

struct dtype {
    enum dtype_kind kind;
    int bits;                    /* of a code: of a weight of DTYPE_GROUP, of a step of DTYPE_TRELLIS; others: 0 */
    int group;                   /* of DTYPE_GROUP only, as the next two */
    enum dtype_zero zero;
    int scale_bits;              /* 0: f16 scales and minima; 6 or 8: integers with factors, in super-blocks */
    int step, state;             /* of DTYPE_TRELLIS only: weights per step, 1 or 2; bits of a state */
};

#define DTYPE(k) ((struct dtype){.kind = DTYPE_##k})

/* NULL-terminated: "none", "int", "min", in the order of enum dtype_zero. */
extern const char *const dtype_zero_names[];

/* NULL-terminated: "f32", "f16", "bf16", in the order of enum dtype_kind: what options can ask for. */
extern const char *const dtype_float_names[];

/* The dtype a name stands for; false where there is none. */
bool dtype_parse(const char *name, struct dtype *dtype);

/* The name; written to buffer for packed formats. */
const char *dtype_name(struct dtype dtype, char buffer[DTYPE_NAME]);

bool dtype_same(struct dtype a, struct dtype b);

/* f64, f32, f16, bf16 or a packed format: what can be read as f32. */
bool dtype_is_real(struct dtype dtype);

/* A group or a trellis format. */
bool dtype_is_packed(struct dtype dtype);

/* The trellis format of this rate, in half bits per weight (2 to 8), and state; false where there is none. */
bool dtype_trellis(int half_bits, int state, struct dtype *dtype);

/* Bytes of one element of a plain dtype; 0 for packed formats. */
int dtype_size(struct dtype dtype);

/* Rows of a tensor of rank 1 or more seen as a matrix whose rows run along the last axis longer than 1, and their
 * length; false where the rows overflow or the length exceeds INT64_MAX / 16. */
bool dtype_rows(int rank, const int64_t *shape, int64_t *rows, int64_t *length);

/* Bytes of the payload of a tensor: plain formats rank 0 or more, packed formats rank 1 or more. -1 where a size is
 * negative, the product exceeds INT64_MAX, or an empty tensor's other axes multiply to more than 2^24. */
int64_t dtype_payload(struct dtype dtype, int rank, const int64_t *shape);

/* Where things lie in the payload of a group format. The planes follow each other as here; one that isn't there has
 * zero bytes. Packed integers are little-endian within a row, a row starts at a whole byte. */
struct group_layout {
    int64_t rows, length;        /* of the tensor, rows along its last axis longer than 1 */
    int64_t group, groups;       /* elements per group, groups per row */
    int64_t supers;              /* super-blocks per row; scale_bits 0: 0 */
    int64_t code_bytes;          /* bytes of codes per row: each group starts at a whole byte */
    int64_t scale_bytes;         /* of scales per row: 2 * groups, or those of packed integers */
    int64_t zero_bytes;          /* int: of packed zero points per row; min: as scale_bytes; none: 0 */
    int64_t minimum_supers;      /* factors of minima per row: supers, or 0 where the format has no minima */
    int64_t scale, zero;         /* offsets of planes: codes [rows][code_bytes] at 0, scale [rows][scale_bytes], */
    int64_t scale_factor;        /* zero [rows][zero_bytes], scale_factor [rows][supers] f16, */
    int64_t minimum_factor, total;       /* minimum_factor [rows][minimum_supers] f16 */
};

/* False where the shape overflows. */
bool group_layout(struct dtype dtype, int rank, const int64_t *shape, struct group_layout *layout);

#endif
