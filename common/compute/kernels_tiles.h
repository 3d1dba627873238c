/* kernels_tiles.h - products with packed matrices, see struct tiles. See kernels_vector.h. */

/* The eight vectors of a block, for the lanes that start at row `row` of the tile. */
INLINE void block_codes(const int bits, const unsigned char *block, int row, vi w[8])
{
    const int low = bits == 8 ? 8 : bits >= 4 ? 4 : 2, high = bits - low;
    const int mask = low == 4 ? 0x0f0f0f0f : 0x03030303, per = 8 / low;

    block += 4 * row;
    UNROLL for (int j = 0; j < 8; j++) {
        vi plane = vi_load(block + j / per * 64);

        w[j] = low == 8 ? plane : plane >> low * (j % per) & mask;
    }
    if (high > 0) {
        const int upper = high == 2 ? 0x03030303 : 0x01010101, each = high == 2 ? 4 : 8;

        UNROLL for (int j = 0; j < 8; j++)
            w[j] |= (vi_load(block + low * 64 + j / each * 64) >> high * (j % each) & upper) << low;
    }
}

/* w = scale * code + offset for the lanes that start at row `row`, in group number `group` of a tile, which begins at
 * `at`. */
INLINE void group_affine(const struct tiles *w, const unsigned char *tile, int64_t group, const unsigned char *at,
                         int row, vf *scale, vf *offset)
{
    const uint16_t *half = (const uint16_t *)(const void *)at + row;
    const unsigned char *zero = at + 2 * TILE + row;

    if (w->super_bytes) {
        half = (const uint16_t *)(const void *)(tile + group / SUPER_GROUPS * w->super_bytes) + row;
        zero = at + TILE + row;
        *scale = vf_from_half(half) * vf_from_bytes(at + row);
    } else
        *scale = vf_from_half(half);
    if (w->zero == ZERO_NONE)
        *offset = *scale * (float)-(1 << (w->bits - 1));
    else if (w->zero == ZERO_INT)
        *offset = -*scale * vf_from_bytes(zero);
    else if (w->super_bytes)
        *offset = vf_from_half(half + TILE) * vf_from_bytes(zero);
    else
        *offset = vf_from_half(half + TILE);
}

/* out [T][16]. Of each block the sum of code * x is exact; scale * scale of x * that, and offset * scale of x * the sum
 * of x, are added up in f32. */
INLINE void int8_lanes(const int bits, const int t, const struct tiles *w, const unsigned char *tile, int row,
                       const int8_t *codes, const float *x_scale, const float *x_sum, int64_t blocks, float *out)
{
    const unsigned char *at = tile + w->factor_bytes;
    vf sum[8], scale = {0}, offset = {0};
    int64_t left = 0, group = 0;

    UNROLL for (int b = 0; b < t; b++)
        sum[b] = (vf){0};
    for (int64_t k = 0; k < blocks; k++, codes += BLOCK, at += bits * 64) {
        vi line[8];

        if (left-- == 0) {
            group_affine(w, tile, group++, at, row, &scale, &offset);
            left = w->group_blocks - 1;
            at += w->head;
        }
        block_codes(bits, at, row, line);
        UNROLL for (int b = 0; b < t; b++) {
            vi dot = {0};

            UNROLL for (int j = 0; j < 8; j++) {
                int32_t four;

                memcpy(&four, codes + b * blocks * BLOCK + 4 * j, sizeof four);
                dot = vi_dot(dot, line[j], four);
            }
            sum[b] = vf_fma(vf_fma(scale, vf_of(dot), offset * x_sum[b * blocks + k]), vf_set(x_scale[b * blocks + k]),
                            sum[b]);
        }
    }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, sum[b]);
}

INLINE void int8_tokens(const int bits, const int t, const struct tiles *w, const unsigned char *tile,
                        const struct rounded *x, int64_t i, float *out)
{
    for (int row = 0; row < TILE; row += LANES)
        int8_lanes(bits, t, w, tile, row, x->codes + i * x->blocks * BLOCK, x->scale + i * x->blocks,
                   x->sum + i * x->blocks, x->blocks, out);
}

INLINE void int8_bits(const int bits, const struct tiles *w, const unsigned char *tile, const struct rounded *x,
                      int64_t first, int64_t n, float *out)
{
    int64_t i = 0;

    for (; i + INT8_TOKENS <= n; i += INT8_TOKENS)
        int8_tokens(bits, INT8_TOKENS, w, tile, x, first + i, out + i * TILE);
    for (; i + 2 <= n; i += 2)
        int8_tokens(bits, 2, w, tile, x, first + i, out + i * TILE);
    for (; i < n; i++)
        int8_tokens(bits, 1, w, tile, x, first + i, out + i * TILE);
}

#define BY_BITS(call)                                                                                                 \
    switch (w->bits) {                                                                                                \
    case 2: call(2); break;                                                                                           \
    case 3: call(3); break;                                                                                           \
    case 4: call(4); break;                                                                                           \
    case 5: call(5); break;                                                                                           \
    case 6: call(6); break;                                                                                           \
    case 8: call(8); break;                                                                                           \
    }

static void tile_int8(const struct tiles *w, int64_t tile, const struct rounded *x, int64_t first, int64_t n,
                      float *out)
{
    const unsigned char *at = w->data + tile * w->tile_bytes;

#define CALL(bits) int8_bits(bits, w, at, x, first, n, out)
    BY_BITS(CALL)
#undef CALL
}

/* Column c (0..3) of a vector of codes as f32 weights: scale and offset are exact, so this rounds as the reference
 * does (but for the last bit where an integer scale times a code has more than 24). */
INLINE vf weights(vi line, int c, vf scale, vf offset)
{
    return vf_fma(scale, vf_of(line >> 8 * c & 255), offset);
}

INLINE void f32_lanes(const int bits, const int t, const struct tiles *w, const unsigned char *tile, int row,
                      const float *x, int64_t x_stride, float *out)
{
    const unsigned char *at = tile + w->factor_bytes;
    vf sum[4][2], scale = {0}, offset = {0};
    int64_t left = 0, group = 0;

    UNROLL for (int b = 0; b < t; b++)
        sum[b][0] = sum[b][1] = (vf){0};
    for (int64_t k = 0; k < w->blocks; k++, x += BLOCK, at += bits * 64) {
        vi line[8];

        if (left-- == 0) {
            group_affine(w, tile, group++, at, row, &scale, &offset);
            left = w->group_blocks - 1;
            at += w->head;
        }
        block_codes(bits, at, row, line);
        UNROLL for (int j = 0; j < 8; j++)
            UNROLL for (int c = 0; c < 4; c++) {
                vf value = weights(line[j], c, scale, offset);

                UNROLL for (int b = 0; b < t; b++)
                    sum[b][c & 1] = vf_fma(value, vf_set(x[b * x_stride + 4 * j + c]), sum[b][c & 1]);
            }
    }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, sum[b][0] + sum[b][1]);
}

INLINE void f32_bits(const int bits, const struct tiles *w, const unsigned char *tile, const float *x, int64_t x_stride,
                     int64_t n, float *out)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        for (int row = 0; row < TILE; row += LANES)
            f32_lanes(bits, 4, w, tile, row, x + i * x_stride, x_stride, out + i * TILE);
    for (; i < n; i++)
        for (int row = 0; row < TILE; row += LANES)
            f32_lanes(bits, 1, w, tile, row, x + i * x_stride, x_stride, out + i * TILE);
}

static void tile_f32(const struct tiles *w, int64_t tile, const float *x, int64_t x_stride, int64_t n, float *out)
{
    const unsigned char *at = w->data + tile * w->tile_bytes;

#define CALL(bits) f32_bits(bits, w, at, x, x_stride, n, out)
    BY_BITS(CALL)
#undef CALL
}

/* One vector of rows of a panel. */
INLINE void panel_lanes(const int bits, const struct tiles *w, const unsigned char *tile, int row, int64_t first,
                        int64_t count, float *panel)
{
    for (int64_t k = first; k < first + count; k++, panel += BLOCK * PANEL) {
        int64_t group = k / w->group_blocks;
        const unsigned char *at = tile + w->factor_bytes + group * w->group_bytes;
        vf scale, offset;
        vi line[8];

        group_affine(w, tile, group, at, row, &scale, &offset);
        block_codes(bits, at + w->head + k % w->group_blocks * bits * 64, row, line);
        UNROLL for (int j = 0; j < 8; j++)
            UNROLL for (int c = 0; c < 4; c++)
                vf_store(panel + (4 * j + c) * PANEL, weights(line[j], c, scale, offset));
    }
}

static void panel_tiles(const struct tiles *w, int64_t tiles, int64_t row, int64_t first, int64_t count, float *panel)
{
    for (int v = 0; v < 2; v++, row += LANES, panel += LANES) {
        const unsigned char *tile = w->data + row / TILE * w->tile_bytes;

        if (row / TILE < tiles) {
#define CALL(bits) panel_lanes(bits, w, tile, (int)(row % TILE), first, count, panel)
            BY_BITS(CALL)
#undef CALL
        } else
            for (int64_t k = 0; k < count * BLOCK; k++)
                vf_store(panel + k * PANEL, (vf){0});
    }
}
