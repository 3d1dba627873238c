/* gguf_blocks.c - the element types of GGUF, and its block formats turned into f32.
 *
 * Each formula is kept in the order of operations of gguf.quants (products first, every step rounded to f32), so
 * that the results are equal bit for bit. A block of the first five holds 32 elements, of the K formats 256 in
 * sub-blocks of 16 or 32 with scales of their own. */
#include "files/gguf_internal.h"

#include <string.h>

enum { SMALL = 32, LARGE = 256 };

static float half_at(const unsigned char *at)
{
    return half_to_float((uint16_t)(at[0] | at[1] << 8));
}

/* f16 d; 16 bytes of nibbles, elements 0..15 low and 16..31 high: d * (q - 8). */
static void decode_q4_0(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 18, out += SMALL) {
        float d = half_at(block);

        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((block[2 + i] & 15) - 8);
            out[i + 16] = d * (float)((block[2 + i] >> 4) - 8);
        }
    }
}

/* f16 d, f16 m; nibbles: d * q + m. */
static void decode_q4_1(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 20, out += SMALL) {
        float d = half_at(block), m = half_at(block + 2);

        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(block[4 + i] & 15) + m;
            out[i + 16] = d * (float)(block[4 + i] >> 4) + m;
        }
    }
}

/* The fifth bits of 32 elements, bit i of a little-endian u32 for element i, as 0 or 16 each. */
static void fifth_bits(const unsigned char *at, unsigned char high[SMALL])
{
    for (int i = 0; i < SMALL; i++)
        high[i] = (unsigned char)((at[i / 8] >> i % 8 & 1) << 4);
}

/* f16 d; fifth bits; nibbles: d * (q - 16). */
static void decode_q5_0(const unsigned char *block, int64_t count, float *out)
{
    unsigned char high[SMALL];

    for (; count-- > 0; block += 22, out += SMALL) {
        float d = half_at(block);

        fifth_bits(block + 2, high);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)(((block[6 + i] & 15) | high[i]) - 16);
            out[i + 16] = d * (float)((block[6 + i] >> 4 | high[i + 16]) - 16);
        }
    }
}

/* f16 d, f16 m; fifth bits; nibbles: d * q + m. */
static void decode_q5_1(const unsigned char *block, int64_t count, float *out)
{
    unsigned char high[SMALL];

    for (; count-- > 0; block += 24, out += SMALL) {
        float d = half_at(block), m = half_at(block + 2);

        fifth_bits(block + 4, high);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((block[8 + i] & 15) | high[i]) + m;
            out[i + 16] = d * (float)(block[8 + i] >> 4 | high[i + 16]) + m;
        }
    }
}

/* f16 d; 32 signed bytes: d * q. */
static void decode_q8_0(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 34, out += SMALL) {
        float d = half_at(block);

        for (int i = 0; i < SMALL; i++)
            out[i] = d * (float)(signed char)block[2 + i];
    }
}

/* Two bits of element i where a byte holds elements l, l+32, l+64, l+96 of its half of the block. */
static int two_bits(const unsigned char *q, int i)
{
    return q[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3;
}

/* 16 bytes: scale low, minimum high nibble; 64 bytes of two bits; f16 d, f16 dmin: (d * scale) * q - dmin * minimum. */
static void decode_q2_k(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 84, out += LARGE) {
        float d = half_at(block + 80), dmin = half_at(block + 82);

        for (int group = 0; group < 16; group++) {
            float scale = d * (float)(block[group] & 15), minimum = dmin * (float)(block[group] >> 4);

            for (int i = 16 * group; i < 16 * (group + 1); i++)
                out[i] = scale * (float)two_bits(block + 16, i) - minimum;
        }
    }
}

/* 32 bytes of third bits (bit i/32 of byte i%32; where it is clear, 4 is taken off); 64 bytes of two bits; 16 scales
 * of six bits, offset 32: 8 bytes of low nibbles, 4 bytes of high pairs; f16 d: (d * (scale - 32)) * q. */
static void decode_q3_k(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 110, out += LARGE) {
        const unsigned char *packed = block + 96;
        float d = half_at(block + 108);

        for (int group = 0; group < 16; group++) {
            int low = packed[group % 8] >> group / 8 * 4 & 15, high = packed[8 + group % 4] >> group / 4 * 2 & 3;
            float scale = d * (float)((low | high << 4) - 32);

            for (int i = 16 * group; i < 16 * (group + 1); i++)
                out[i] = scale * (float)(two_bits(block + 32, i) - (block[i % 32] >> i / 32 & 1 ? 0 : 4));
        }
    }
}

/* Scale and minimum of sub-block group (0..7), six bits each, of 12 bytes: the first four whole in bytes 0..3 and
 * 4..7, whose top pairs belong to the last four, whose nibbles lie in bytes 8..11. */
static void six_bits(const unsigned char *packed, int group, int *scale, int *minimum)
{
    const unsigned char *p = packed + group % 4;

    *scale = group < 4 ? p[0] & 63 : (p[8] & 15) | (p[0] >> 2 & 48);
    *minimum = group < 4 ? p[4] & 63 : p[8] >> 4 | (p[4] >> 2 & 48);
}

/* f16 d, f16 dmin; 12 bytes of scales; 128 bytes of nibbles, sub-blocks 2n low and 2n+1 high in bytes 32n on:
 * (d * scale) * q - dmin * minimum. */
static void decode_q4_k(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 144, out += LARGE) {
        float d = half_at(block), dmin = half_at(block + 2);

        for (int group = 0; group < 8; group++) {
            const unsigned char *q = block + 16 + group / 2 * 32;
            int s, m, shift = group % 2 * 4;
            float scale, minimum;

            six_bits(block + 4, group, &s, &m);
            scale = d * (float)s;
            minimum = dmin * (float)m;
            for (int i = 0; i < 32; i++)
                out[32 * group + i] = scale * (float)(q[i] >> shift & 15) - minimum;
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits (bit g of byte i for element i of sub-block g) before the nibbles. */
static void decode_q5_k(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 176, out += LARGE) {
        float d = half_at(block), dmin = half_at(block + 2);

        for (int group = 0; group < 8; group++) {
            const unsigned char *high = block + 16, *q = block + 48 + group / 2 * 32;
            int s, m, shift = group % 2 * 4;
            float scale, minimum;

            six_bits(block + 4, group, &s, &m);
            scale = d * (float)s;
            minimum = dmin * (float)m;
            for (int i = 0; i < 32; i++)
                out[32 * group + i] = scale * (float)((q[i] >> shift & 15) | (high[i] >> group & 1) << 4) - minimum;
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, f16 d: (d * scale) * (q - 32). In each half of
 * the block the nibbles of 32 elements in a row lie in bytes 0..31 low, 32..63 low, 0..31 high, 32..63 high. */
static void decode_q6_k(const unsigned char *block, int64_t count, float *out)
{
    for (; count-- > 0; block += 210, out += LARGE) {
        float d = half_at(block + 208);

        for (int group = 0; group < 16; group++) {
            float scale = d * (float)(signed char)block[192 + group];
            int row = group / 2, quarter = row % 4;
            const unsigned char *low = block + row / 4 * 64 + quarter % 2 * 32 + group % 2 * 16;
            const unsigned char *high = block + 128 + row / 4 * 32 + group % 2 * 16;

            for (int i = 0; i < 16; i++)
                out[16 * group + i] = scale * (float)(((low[i] >> quarter / 2 * 4 & 15) |
                                                       (high[i] >> quarter * 2 & 3) << 4) - 32);
        }
    }
}

#define PLAIN(number, type, size) {number, #type, 1, size, {.kind = DTYPE_##type}, NULL}
#define BLOCK(number, text, elements, bytes, decode) {number, text, elements, bytes, {.kind = DTYPE_F32}, decode}
#define NAMED(number, text) {number, text, 0, 0, {.kind = DTYPE_F32}, NULL}

static const struct gguf_format formats[] = {
    PLAIN(0, F32, 4), PLAIN(1, F16, 2), PLAIN(30, BF16, 2),
    BLOCK(2, "Q4_0", SMALL, 18, decode_q4_0), BLOCK(3, "Q4_1", SMALL, 20, decode_q4_1),
    BLOCK(6, "Q5_0", SMALL, 22, decode_q5_0), BLOCK(7, "Q5_1", SMALL, 24, decode_q5_1),
    BLOCK(8, "Q8_0", SMALL, 34, decode_q8_0), BLOCK(10, "Q2_K", LARGE, 84, decode_q2_k),
    BLOCK(11, "Q3_K", LARGE, 110, decode_q3_k), BLOCK(12, "Q4_K", LARGE, 144, decode_q4_k),
    BLOCK(13, "Q5_K", LARGE, 176, decode_q5_k), BLOCK(14, "Q6_K", LARGE, 210, decode_q6_k),
    NAMED(4, "Q4_2"), NAMED(5, "Q4_3"), NAMED(9, "Q8_1"), NAMED(15, "Q8_K"), NAMED(16, "IQ2_XXS"), NAMED(17, "IQ2_XS"),
    NAMED(18, "IQ3_XXS"), NAMED(19, "IQ1_S"), NAMED(20, "IQ4_NL"), NAMED(21, "IQ3_S"), NAMED(22, "IQ2_S"),
    NAMED(23, "IQ4_XS"), NAMED(24, "I8"), NAMED(25, "I16"), NAMED(26, "I32"), NAMED(27, "I64"), NAMED(28, "F64"),
    NAMED(29, "IQ1_M"), NAMED(31, "Q4_0_4_4"), NAMED(32, "Q4_0_4_8"), NAMED(33, "Q4_0_8_8"), NAMED(34, "TQ1_0"),
    NAMED(35, "TQ2_0"), NAMED(39, "MXFP4"), NAMED(40, "NVFP4"), NAMED(41, "Q1_0"),
};

const struct gguf_format *gguf_format(uint32_t id)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if ((uint32_t)formats[i].id == id)
            return &formats[i];
    return NULL;
}
