/* kernels.h - the inner loops of device_cpu, private to it. One table per instruction set; all are compiled from the
 * same sources (kernels_*.h), and one is chosen at run time.
 *
 * Rows of W are the lanes of vectors wherever W was repacked: so there are no sums across lanes, and any number of
 * columns of x goes through the same code. Every sum's order depends on shapes and the instruction set alone. */
#ifndef COMPUTE_KERNELS_H
#define COMPUTE_KERNELS_H

#include "compute/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TILE = 16,                   /* rows of a packed matrix that are interleaved */
    BLOCK = 32,                  /* columns that share a scale of x, and the unit of packed codes */
    PANEL_MOST = 32,             /* of all instruction sets, see struct kernels */
};

/* A packed matrix in tiles of 16 rows (missing rows have scale 0). A tile is read from its first byte to its last,
 * group after group, since memory likes nothing better:
 *
 * scale    f16 [16], or integers: u8 [16]
 * zero     int: u8 [16]; min: as scale; none: nothing
 * codes    [blocks of the group][bits * 64 bytes]: a block is 16 rows x 32 columns. Its codes are eight vectors
 *          w[0..7] of 64 bytes, w[j] byte 4 r + c being row r, column 4 j + c; they are stored as planes of 4, 2, 1
 *          or 8 bits, the low bits first (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2). A plane of b bits is b vectors: byte i of
 *          vector v holds byte i of w[8/b v + f] at bit b f.
 *
 * Where scales are integers, the factors of all super-blocks stand before the groups: f16 [16] of scales, and f16 [16]
 * of minima (min). */
struct tiles {
    const unsigned char *data;
    int64_t tile_bytes, group_bytes, head;      /* head: of a group, before its codes */
    int64_t factor_bytes, super_bytes;          /* of all factors, of those of a super-block; 0: scales are f16 */
    int64_t blocks, group_blocks;               /* per row, per group (the last may have fewer) */
    int bits;
    enum dtype_zero zero;
};

/* A trellis-coded matrix (tensor/trellis.h) of whole strips of 16 rows. A strip is, after the scales of its rows, f32
 * [16], the tiles of 16 x 16 weights, an even number of them, each with its first bytes once more behind its last
 * column, so that no window wraps. A column of a tile has column_bytes bytes. The window of a row in it begins at bit
 * `shift` of the four bytes from byte[row] on; with h its product with factor, of which only 16 bits count, number (h
 * >> spare) / 256 % 128 in `level` is the byte b of its weight, scale * (2 b - 255). */
enum {
    STRIP_TILE = 16,
    STRIP_HEAD = 64,             /* bytes of a strip's scales */
    STRIP_BEHIND = 2,            /* bytes behind a tile: of a window of 16 bits that begins in it */
    STRIP_LOAD = 64,             /* bytes that may be read from the start of a column on */
    STRIP_CENTRE = 255,
};

struct strips {
    const unsigned char *data;
    int64_t strip_bytes, tile_bytes, column_bytes, tiles;        /* tiles: of a strip */
    int spare;                   /* 1 with states of 16 bits; 0: factors shift what is above a state out */
    int32_t byte[TILE], shift[TILE];
    uint16_t factor[2 * TILE];   /* of row r: at 2 r and at 2 r + 1 */
    unsigned char level[128];
    /* The windows of columns c and c + 2 of a row side by side, the four words of two rows in eight bytes: for each
     * byte of 64 its offset (below 32) from column c, then the first bit, in its eight bytes, of each byte of the words
     * (vpermb, vpmultishiftqb). */
    unsigned char pick[4 * TILE], bit[4 * TILE];
};

/* Rows of x rounded to 8 bits. codes [n][blocks * 32], zero beyond the columns; scale, sum [n][blocks]: what a code
 * stands for, and the sum of the codes (whole numbers). */
struct rounded {
    int8_t *codes;
    float *scale, *sum;
    int64_t blocks;
};

/* A step of Viterbi's search over the states of a trellis (compute/trellis.h), backwards. An overlap p is the lower
 * state - bits of a state's bits; state s = p + j * overlaps is followed by overlap s >> bits. */
struct trellis_step {
    const int16_t *value[2];     /* [2^state] in units of 2^-13; the second NULL: one weight per step */
    const int16_t *square;       /* [2^state] the sum of their squares in units of 2^-10 */
    int state, bits;
    int16_t *ahead;              /* [overlaps, and 32 that may be read] the cost of what follows */
    int16_t level;               /* is added to all of ahead first, with saturation */
    int16_t x[2];                /* the numbers to come near to, as values */
    int16_t *cost;               /* [overlaps] of the best state: its ahead, square, and -2 x value, saturated */
    unsigned char *choice;       /* [overlaps] its j, the lowest of equal ones */
};

struct kernels {
    const char *name;
    int tokens, panel;           /* the tile of gemm: rows of x, rows of w */

    /* y [m, rows] = x w' + beta y; m <= tokens, rows <= panel. x: k groups of m; w: k lines of which `rows` are used
     * and whole panels read, w_step apart. */
    void (*gemm)(int m, int rows, int64_t k, const float *x, const float *w, int64_t w_step, float beta, float *y,
                 int64_t y_stride);
    /* The same with x in rows, m <= tokens / 2. */
    void (*gemm_rows)(int m, int rows, int64_t k, const float *x, int64_t x_stride, const float *w, int64_t w_step,
                      float beta, float *y, int64_t y_stride);

    /* The same as gemm with lines of x x_step apart, of which m are used. */
    void (*gemm_turned)(int m, int rows, int64_t k, const float *x, int64_t x_step, const float *w, int64_t w_step,
                        float beta, float *y, int64_t y_stride);

    /* out [k][m] = factor * rows of x, turned, m <= tokens. */
    void (*pack)(const float *x, int64_t x_stride, int m, int64_t k, float factor, float *out);
    /* panel [k][panel] = rows of a matrix, zero beyond `rows`. w in f32, f16 or bf16, stride in elements. */
    void (*panel_rows)(enum dtype_kind kind, const void *w, int64_t stride, int rows, int64_t k, float *panel);
    /* panel [k][panel] = k lines of a matrix, of which `columns` are used, zero beyond. */
    void (*panel_lines)(enum dtype_kind kind, const void *w, int64_t stride, int columns, int64_t k, float *panel);
    /* panel_rows() from blocks first..first+count-1, at row `row` (a multiple of panel) to the end of the tiles. */
    void (*panel_tiles)(const struct tiles *w, int64_t tiles, int64_t row, int64_t first, int64_t count, float *panel);

    /* out [tokens][rows] (stride out_stride) = x w' for rows in f32, f16 or bf16; every row of w is read once for
     * four of x. */
    void (*dense)(enum dtype_kind kind, const void *w, int64_t stride, int64_t rows, int64_t columns, const float *x,
                  int64_t x_stride, int64_t n, float *out, int64_t out_stride);
    /* out [n][16] = x w' for one tile: x rounded, or f32 with its rows padded to whole blocks. */
    void (*tile_int8)(const struct tiles *w, int64_t tile, const struct rounded *x, int64_t first, int64_t n,
                      float *out);
    void (*tile_f32)(const struct tiles *w, int64_t tile, const float *x, int64_t x_stride, int64_t n, float *out);

    /* The same of a strip, and of panels from the strips of a matrix. */
    void (*strip_int8)(const struct strips *w, int64_t strip, const struct rounded *x, int64_t first, int64_t n,
                       float *out);
    void (*strip_f32)(const struct strips *w, int64_t strip, const float *x, int64_t x_stride, int64_t n, float *out);
    void (*panel_strips)(const struct strips *w, int64_t strips, int64_t row, int64_t first, int64_t count,
                         float *panel);

    /* One row of x. */
    void (*round)(const float *x, int64_t columns, int64_t blocks, int8_t *codes, float *scale, float *sum);
    void (*rms_norm)(float *y, const float *x, const float *weight, int64_t d, double epsilon);
    void (*rope)(float *x, int64_t n_head, int64_t head_dim, const float *cosine, const float *sine);
    void (*hadamard)(float *y, const float *x, const struct hadamard *turn, bool inverse, int64_t d);
    void (*silu_multiply)(float *gate, const float *up, int64_t count);
    void (*add_scaled)(float *x, const float *y, float factor, int64_t count);
    void (*scale)(float *x, float factor, int64_t count);
    /* x = exp(x - most), the sum of which is returned, and the largest of x. */
    float (*exponentials)(float *x, int64_t count, float most);
    float (*largest)(const float *x, int64_t count);
    /* Of one row, as in compute/device.h. */
    double (*log_sum_exp)(const float *x, int64_t d, int32_t *argmax);
    double (*divergence)(const float *p, double p_lse, const float *q, double q_lse, int64_t d);
    void (*rms_norm_back)(float *dx, bool add, float *dweight, const float *dy, const float *x, const float *weight,
                          int64_t d, double epsilon);
    void (*silu_multiply_back)(float *gate, float *up, const float *dy, int64_t count);
    /* x = student * exp(x - lse) - teacher * exp(t - t_lse); t may be NULL. */
    void (*loss)(float *x, double lse, const float *t, double t_lse, float student, float teacher, int64_t d);
    /* The step's corrections are in first and second: 1 - beta^step. */
    void (*adamw)(float *x, const float *dx, float *mean, float *square, const struct adamw *step, double first,
                  double second, int64_t count);

    /* Levels ahead, fills cost and choice; the least cost. The same bits in all tables. */
    int16_t (*trellis_step)(const struct trellis_step *step);
};

/* Products of bf16, two at a time: lines of numbers become lines of pairs, and a line of pairs has, for each number, what
 * stood in two lines one behind the other. The tile is that of the kernels for AVX-512. */
struct pair_kernels {
    int tokens, panel;

    /* gemm() with k lines of pairs. */
    void (*gemm)(int m, int rows, int64_t k, const float *x, const float *w, int64_t w_step, float beta, float *y,
                 int64_t y_stride);
    /* k lines of `width` numbers, contiguous, become (k + 1) / 2 lines of pairs where they stand, each number rounded
     * to nearest even; an odd last line has zeros beside it. */
    void (*make)(float *lines, int width, int64_t k);
};

extern const struct kernels kernels_portable;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512, kernels_avx512_vbmi;
extern const struct pair_kernels pair_kernels_avx512;
#endif

/* The best that this processor runs, and all that it runs, best first, NULL-terminated. */
const struct kernels *kernels_best(void);
const struct kernels *const *kernels_all(void);

/* Those that go with these kernels; NULL where this processor or these kernels have none. */
const struct pair_kernels *kernels_pairs(const struct kernels *kernels);

#endif
