/* device_cpu_multiply.c - products with matrices, in four ways, all of them parts of one parallel loop:
 *
 * by rows     few rows of x, W in f32, f16, bf16: bound by memory, W is read once
 * by panels   many rows of x: pieces of W become f32 panels, whatever they were, and x is packed once for all
 * rounded     packed W, x in 8 bits: sums of whole numbers, for any number of rows of x (few with trellis codes)
 * by tiles    packed W, x in f32, few rows of x
 *
 * By panels also in bf16: cpu_pairs(). A row's sums never cross items, so their order depends on the shapes alone. */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <stdlib.h>
#include <string.h>

enum {
    DENSE_TOKENS = 8, TILE_TOKENS = 4,           /* at most, of products by rows and by tiles */
    STRIP_TOKENS = 8,                            /* at most, rounded, by strips: decoding costs as much as 4 of them */
    PANEL_ROWS = 64, PANEL_DEPTH = 512,          /* of W unpacked at a time: half of a second-level cache */
    PANEL_CHUNK = 384, PANEL_CHUNK_LEAST = 96,   /* rows of x per item, roughly; each unpacks W anew */
    ITEMS_LEAST = 8, INT8_CHUNK = 128,
    ITEM_BYTES = 1 << 15,                        /* of W, where little else is done with it */
    SLICE = 1024,                                /* rows of x done in one go: bounds working memory */
    SERIAL_WORK = 1 << 15,                       /* multiply-adds that aren't worth a second thread */
};

enum way { BY_ROWS, BY_PANELS, ROUNDED, BY_TILES };

/* x in the forms that the products need; what none needs is NULL. */
struct forms {
    const float *x;
    int64_t stride, n, columns, blocks;
    struct rounded rounded;
    float *padded, *back;        /* [n][blocks * 32]: x with zeros behind it; x rounded and back in f32 */
    float *packed, *packed_back; /* see pack_group() */
    float factor;                /* of packed */
    bool turned;                 /* x is [columns, n]: by panels only */
};

struct part {
    const struct cpu_matrix *w;  /* or the f32 view */
    const float *view;
    int64_t view_stride;
    int64_t rows, columns;
    enum way way;
    float beta, *y;
    int64_t stride;
    int64_t item_rows, item_tokens, row_items, items;
    bool rounded;                /* by panels: of x rounded */
    bool lines;                  /* by panels: the matrix is [columns, rows] */
};

struct job {
    const struct kernels *kernels;
    const struct pair_kernels *pairs;            /* by panels: of bf16; NULL: of f32 */
    struct forms forms;
    struct part *parts;
    int count;
    float *panels;               /* [threads][PANEL_ROWS * PANEL_DEPTH] */
};

/* ---- x ---- */

static void pack_group(const struct job *job, const float *x, int64_t stride, float factor, int64_t group,
                       float *packed)
{
    const struct forms *f = &job->forms;
    int64_t first = group * job->kernels->tokens;
    int m = (int)least(f->n - first, job->kernels->tokens);

    packed += first * f->columns;
    if (!f->turned)
        job->kernels->pack(x + first * stride, stride, m, f->columns, factor, packed);
    for (int64_t k = 0; f->turned && k < f->columns; k++)
        for (int i = 0; i < m; i++)
            packed[k * m + i] = factor * x[k * stride + first + i];
    if (job->pairs && x == f->x)
        job->pairs->make(packed, m, f->columns);
}

static void round_back(struct forms *f, int64_t i)
{
    const struct rounded *r = &f->rounded;
    float *out = f->back + i * f->blocks * BLOCK;

    for (int64_t j = 0; j < f->blocks * BLOCK; j++)
        out[j] = (float)r->codes[i * f->blocks * BLOCK + j] * r->scale[i * f->blocks + j / BLOCK];
}

/* Everything for one group of rows of x. */
static void prepare_group(void *context, int64_t group, int thread)
{
    struct job *job = context;
    struct forms *f = &job->forms;
    int64_t first = group * job->kernels->tokens, end = least(f->n, first + job->kernels->tokens);
    int64_t width = f->blocks * BLOCK;

    (void)thread;
    for (int64_t i = first; i < end; i++) {
        if (f->rounded.codes)
            job->kernels->round(f->x + i * f->stride, f->columns, f->blocks, f->rounded.codes + i * width,
                                f->rounded.scale + i * f->blocks, f->rounded.sum + i * f->blocks);
        if (f->back)
            round_back(f, i);
        if (f->padded) {
            memcpy(f->padded + i * width, f->x + i * f->stride, (size_t)f->columns * sizeof *f->x);
            memset(f->padded + i * width + f->columns, 0, (size_t)(width - f->columns) * sizeof *f->x);
        }
    }
    if (f->packed)
        pack_group(job, f->x, f->stride, f->factor, group, f->packed);
    if (f->packed_back)
        pack_group(job, f->back, width, 1, group, f->packed_back);
}

static void need_rounded(struct forms *f)
{
    size_t rows = (size_t)(f->n * f->blocks);
    unsigned char *space;

    if (f->rounded.codes || !rows)
        return;
    space = cpu_scratch(SCRATCH_ROUNDED, rows * (BLOCK + 2 * sizeof(float)));
    f->rounded = (struct rounded){(int8_t *)space, (float *)(void *)(space + rows * BLOCK), NULL, f->blocks};
    f->rounded.sum = f->rounded.scale + rows;
}

static void prepare(struct job *job)
{
    struct forms *f = &job->forms;
    bool padded = false, packed = false, packed_back = false;
    size_t size;

    f->blocks = divide_up(f->columns, BLOCK);
    for (int i = 0; i < job->count; i++) {
        const struct part *part = job->parts + i;

        if (part->way == ROUNDED || part->rounded)
            need_rounded(f);
        packed |= part->way == BY_PANELS && !part->rounded;
        packed_back |= part->rounded;
        padded |= part->way == BY_TILES;
    }
    size = (size_t)(f->n * f->blocks * BLOCK) * sizeof(float);
    if (padded && f->columns % BLOCK)
        f->padded = cpu_scratch(SCRATCH_PADDED, size);
    if (packed_back)
        f->back = cpu_scratch(SCRATCH_BACK, size);
    if (packed || packed_back) {
        f->packed = cpu_scratch(SCRATCH_PACKED, size * ((size_t)packed + packed_back));
        f->packed_back = packed_back ? f->packed + (packed ? f->n * f->columns : 0) : NULL;
        f->packed = packed ? f->packed : NULL;
        job->panels = cpu_scratch(SCRATCH_PANELS,
                                  (size_t)parallel_threads() * PANEL_ROWS * PANEL_DEPTH * sizeof(float));
    }
    if (f->n * f->columns > SERIAL_WORK / 2)
        parallel_for(divide_up(f->n, job->kernels->tokens), prepare_group, job);
    else
        for (int64_t group = 0; group < divide_up(f->n, job->kernels->tokens); group++)
            prepare_group(job, group, 0);
}

/* ---- items ---- */

static void finish(const struct part *part, const float *out, int64_t out_stride, int64_t first, int64_t n, int64_t row,
                   int64_t rows)
{
    for (int64_t i = 0; i < n; i++) {
        float *y = part->y + (first + i) * part->stride + row;

        if (part->beta == 0)
            memcpy(y, out + i * out_stride, (size_t)rows * sizeof *y);
        else
            for (int64_t r = 0; r < rows; r++)
                y[r] = out[i * out_stride + r] + part->beta * y[r];
    }
}

static void do_rows(const struct job *job, const struct part *part, int64_t row, int64_t rows)
{
    const struct forms *f = &job->forms;
    float out[DENSE_TOKENS * PANEL_ROWS];

    job->kernels->dense(part->w->kind, cpu_row(part->w, row), part->columns, rows, part->columns, f->x, f->stride, f->n,
                        out, PANEL_ROWS);
    finish(part, out, PANEL_ROWS, 0, f->n, row, rows);
}

static void do_tiles(const struct job *job, const struct part *part, int64_t row, int64_t rows, int64_t first,
                     int64_t n)
{
    const struct forms *f = &job->forms;
    const struct kernels *kernels = job->kernels;
    const struct tiles *tiles = &part->w->tiles;
    const struct strips *strips = &part->w->strips;
    const float *x = f->padded ? f->padded : f->x;
    int64_t x_stride = f->padded ? f->blocks * BLOCK : f->stride;
    bool stripped = part->w->layout == LAYOUT_STRIPS;
    _Alignas(64) float out[INT8_CHUNK * TILE];

    for (int64_t r = 0; r < rows; r += TILE) {
        int64_t tile = (row + r) / TILE;

        if (part->way == ROUNDED && stripped)
            kernels->strip_int8(strips, tile, &f->rounded, first, n, out);
        else if (part->way == ROUNDED)
            kernels->tile_int8(tiles, tile, &f->rounded, first, n, out);
        else if (stripped)
            kernels->strip_f32(strips, tile, x, x_stride, n, out);
        else
            kernels->tile_f32(tiles, tile, x, x_stride, n, out);
        finish(part, out, TILE, first, n, row + r, least(rows - r, TILE));
    }
}

/* The panels of rows row..row+rows-1 and columns first..first+depth-1, one after the other. */
static void fill_panels(const struct job *job, const struct part *part, int64_t row, int64_t rows, int64_t first,
                        int64_t depth, float *panels)
{
    const struct kernels *kernels = job->kernels;
    const struct cpu_matrix *w = part->w;

    for (int64_t r = 0; r < rows; r += kernels->panel, panels += kernels->panel * PANEL_DEPTH) {
        int height = (int)least(rows - r, kernels->panel);

        if (!w)
            kernels->panel_rows(DTYPE_F32, part->view + (row + r) * part->view_stride + first, part->view_stride,
                                height, depth, panels);
        else if (w->layout == LAYOUT_TILES)
            kernels->panel_tiles(&w->tiles, divide_up(part->rows, TILE), row + r, first / BLOCK,
                                 divide_up(depth, BLOCK), panels);
        else if (w->layout == LAYOUT_STRIPS)
            kernels->panel_strips(&w->strips, divide_up(part->rows, TILE), row + r, first / BLOCK,
                                  divide_up(depth, BLOCK), panels);
        else
            kernels->panel_rows(w->kind, cpu_row(w, row + r) + first * dtype_size(w->tensor.dtype), part->columns,
                                height, depth, panels);
    }
}

/* What fill_panels() does where the matrix is [columns, rows]: panels of its columns row..row+rows-1. */
static void fill_lines(const struct job *job, const struct part *part, int64_t row, int64_t rows, int64_t first,
                       int64_t depth, float *panels)
{
    const struct kernels *kernels = job->kernels;
    const struct cpu_matrix *w = part->w;
    int panel = kernels->panel;

    for (int64_t r = row; r < row + rows; r += panel, panels += panel * PANEL_DEPTH) {
        int width = (int)least(row + rows - r, panel);

        if (!w)
            kernels->panel_lines(DTYPE_F32, part->view + first * part->view_stride + r, part->view_stride, width, depth,
                                 panels);
        else if (w->layout == LAYOUT_ROWS)
            kernels->panel_lines(w->kind, cpu_row(w, first) + r * dtype_size(w->tensor.dtype), part->rows, width, depth,
                                 panels);
        else
            for (int64_t k = 0; k < depth; k += panel) {     /* a block of columns, turned */
                int64_t tiles = divide_up(part->columns, TILE);
                float block[BLOCK * PANEL_MOST];

                if (w->layout == LAYOUT_STRIPS)
                    kernels->panel_strips(&w->strips, tiles, first + k, r / BLOCK, 1, block);
                else
                    kernels->panel_tiles(&w->tiles, tiles, first + k, r / BLOCK, 1, block);
                kernels->panel_rows(DTYPE_F32, block + r % BLOCK * panel, panel, width, panel, panels + k * panel);
            }
    }
}

static void do_panels(const struct job *job, const struct part *part, int64_t row, int64_t rows, int64_t token,
                      int64_t tokens, int thread)
{
    const struct kernels *kernels = job->kernels;
    const struct pair_kernels *pairs = part->rounded ? NULL : job->pairs;
    void (*gemm)(int, int, int64_t, const float *, const float *, int64_t, float, float *, int64_t)
        = pairs ? pairs->gemm : kernels->gemm;
    int lines = pairs ? 2 : 1;   /* of numbers in a line of x and of panels; PANEL_DEPTH is even */
    const float *x = part->rounded ? job->forms.packed_back : job->forms.packed;
    float *panels = job->panels + (int64_t)thread * PANEL_ROWS * PANEL_DEPTH;
    int64_t depths = divide_up(part->columns, PANEL_DEPTH);
    int64_t depth = divide_up(divide_up(part->columns, depths), BLOCK) * BLOCK;

    for (int64_t first = 0; first < part->columns; first += depth) {
        int64_t k = least(depth, part->columns - first);

        if (part->lines)
            fill_lines(job, part, row, rows, first, k, panels);
        else
            fill_panels(job, part, row, rows, first, k, panels);
        for (int64_t r = 0; pairs && r < rows; r += kernels->panel)
            pairs->make(panels + r * PANEL_DEPTH, kernels->panel, k);
        for (int64_t t = token; t < token + tokens; t += kernels->tokens) {
            int m = (int)least(token + tokens - t, kernels->tokens);

            for (int64_t r = 0; r < rows; r += kernels->panel)
                gemm(m, (int)least(rows - r, kernels->panel), divide_up(k, lines),
                     x + t * part->columns + first / lines * m, panels + r * PANEL_DEPTH, kernels->panel,
                     first ? 1 : part->beta, part->y + t * part->stride + row + r, part->stride);
        }
    }
}

/* The rows in f32, once for all panels. */
static void do_stored(const struct job *job, const struct part *part, int64_t row, int64_t rows, int64_t token,
                      int64_t tokens, int thread)
{
    float *wide = xmallocarray((size_t)(rows * part->columns), sizeof *wide);
    struct part view = *part;

    cpu_unpack(part->w, row, rows, wide);
    view.w = NULL;
    view.view = wide;
    view.view_stride = part->columns;
    view.y += row;
    do_panels(job, &view, 0, rows, token, tokens, thread);
    free(wide);
}

static void do_item(void *context, int64_t item, int thread)
{
    const struct job *job = context;
    const struct part *part = job->parts;
    int64_t row, rows, token, tokens;

    for (; item >= part->items; part++)
        item -= part->items;
    row = item % part->row_items * part->item_rows;
    rows = least(part->item_rows, part->rows - row);
    token = item / part->row_items * part->item_tokens;
    tokens = least(part->item_tokens, job->forms.n - token);
    if (part->way == BY_ROWS)
        do_rows(job, part, row, rows);
    else if (part->way == BY_PANELS && part->w && part->w->layout >= LAYOUT_STORED)
        do_stored(job, part, row, rows, token, tokens, thread);
    else if (part->way == BY_PANELS)
        do_panels(job, part, row, rows, token, tokens, thread);
    else
        do_tiles(job, part, row, rows, token, tokens);
}

/* ---- the whole ---- */

static void cut_panels(const struct job *job, struct part *part)
{
    int64_t n = job->forms.n, chunks = divide_up(n, PANEL_CHUNK), tiles = divide_up(part->rows, PANEL_ROWS);

    part->item_rows = PANEL_ROWS;
    while (chunks * tiles < ITEMS_LEAST && n / (chunks * 2) >= PANEL_CHUNK_LEAST)
        chunks *= 2;
    part->item_tokens = divide_up(divide_up(n, chunks), job->kernels->tokens) * job->kernels->tokens;
}

static void cut(const struct job *job, struct part *part)
{
    int64_t n = job->forms.n, row_bytes, tile_bytes;

    part->item_tokens = n;
    if (part->way == BY_PANELS)
        cut_panels(job, part);
    else if (part->way == BY_ROWS) {
        row_bytes = part->columns * dtype_size(part->w->tensor.dtype);
        part->item_rows = least(divide_up(ITEM_BYTES / row_bytes + 1, 4) * 4, PANEL_ROWS);
    } else {
        tile_bytes = part->w->layout == LAYOUT_STRIPS ? part->w->strips.strip_bytes : part->w->tiles.tile_bytes;
        part->item_rows = n > INT8_CHUNK / 2 ? PANEL_ROWS : (ITEM_BYTES / tile_bytes + 1) * TILE;
        part->item_tokens = least(n, INT8_CHUNK);
    }
    part->row_items = divide_up(part->rows, part->item_rows);
    part->items = part->row_items * divide_up(n, part->item_tokens);
}

/* Products without columns. */
static void clear(const struct job *job)
{
    for (const struct part *part = job->parts; part < job->parts + job->count; part++)
        for (int64_t i = 0; i < job->forms.n; i++)
            for (int64_t r = 0; r < part->rows; r++) {
                float *y = part->y + i * part->stride + r;

                *y = part->beta != 0 ? part->beta * *y : 0;
            }
}

static void run(struct job *job)
{
    int64_t items = 0, work = 0;

    job->pairs = cpu_pairs();
    if (job->forms.columns == 0) {
        clear(job);
        return;
    }
    for (int i = 0; i < job->count; i++) {
        cut(job, job->parts + i);
        items += job->parts[i].items;
        work += job->parts[i].rows * job->forms.n * job->forms.columns;
    }
    prepare(job);
    if (work > SERIAL_WORK)
        parallel_for(items, do_item, job);
    else
        for (int64_t item = 0; item < items; item++)
            do_item(job, item, 0);
}

static struct part part_of(const struct product *product, int64_t first, int64_t n)
{
    const struct placed *placed = product->w;
    const struct cpu_matrix *w = (const struct cpu_matrix *)placed;
    bool round = placed->activations == ACTIVATIONS_INT8 && dtype_is_packed(placed->dtype);
    struct part part = {.w = w, .rows = placed->rows, .columns = placed->columns, .beta = product->add,
                        .y = product->y + first * product->stride, .stride = product->stride, .way = BY_PANELS};

    if (round && (w->layout == LAYOUT_TILES || (w->layout == LAYOUT_STRIPS && n <= STRIP_TOKENS)))
        part.way = ROUNDED;
    else if (!round && (w->layout == LAYOUT_TILES || w->layout == LAYOUT_STRIPS) && n <= TILE_TOKENS)
        part.way = BY_TILES;
    else if (w->layout == LAYOUT_ROWS && !round && n <= DENSE_TOKENS)
        part.way = BY_ROWS;
    else
        part.rounded = round;
    return part;
}

void cpu_multiply(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n)
{
    for (int i = 0; i < count; i++)
        cpu_set_strips((const struct cpu_matrix *)product[i].w, ((const struct cpu_matrix *)product[i].w)->scale);
    cpu_multiply_placed(product, count, x, x_stride, n);
}

void cpu_multiply_placed(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n)
{
    struct part *parts = xmallocarray((size_t)count, sizeof *parts);

    for (int64_t first = 0; first < n && count > 0; first += SLICE) {
        int64_t slice = least(n - first, SLICE);
        struct job job = {.kernels = cpu_kernels(), .parts = parts, .count = count,
                          .forms = {.x = x + first * x_stride, .stride = x_stride, .n = slice,
                                    .columns = product->w->columns, .factor = 1}};

        for (int i = 0; i < count; i++)
            parts[i] = part_of(product + i, first, slice);
        run(&job);
    }
    free(parts);
}

/* One product by panels, of forms.n rows of x in slices. */
static void multiply_panels(struct part part, struct forms forms)
{
    int64_t n = forms.n;
    const float *x = forms.x;
    float *y = part.y;

    part.way = BY_PANELS;
    for (int64_t first = 0; first < n; first += SLICE) {
        struct job job = {.kernels = cpu_kernels(), .parts = &part, .count = 1, .forms = forms};

        part.y = y + first * part.stride;
        job.forms.x = x + first * (forms.turned ? 1 : forms.stride);
        job.forms.n = least(n - first, SLICE);
        run(&job);
    }
}

void cpu_gemm(float alpha, const float *x, int64_t x_stride, const float *w, int64_t w_stride, float beta, float *y,
              int64_t y_stride, int64_t n, int64_t rows, int64_t columns)
{
    multiply_panels((struct part){.view = w, .view_stride = w_stride, .rows = rows, .columns = columns, .beta = beta,
                                  .y = y, .stride = y_stride},
                    (struct forms){.x = x, .stride = x_stride, .n = n, .columns = columns, .factor = alpha});
}

void cpu_gemm_back(const float *y, int64_t y_stride, const float *w, int64_t w_stride, float beta, float *x,
                   int64_t x_stride, int64_t n, int64_t rows, int64_t columns)
{
    multiply_panels((struct part){.view = w, .view_stride = w_stride, .rows = columns, .columns = rows, .lines = true,
                                  .beta = beta, .y = x, .stride = x_stride},
                    (struct forms){.x = y, .stride = y_stride, .n = n, .columns = rows, .factor = 1});
}

void cpu_gemm_gradient(float *w, int64_t w_stride, const float *y, int64_t y_stride, const float *x, int64_t x_stride,
                       int64_t n, int64_t rows, int64_t columns)
{
    multiply_panels((struct part){.view = x, .view_stride = x_stride, .rows = columns, .columns = n, .lines = true,
                                  .beta = 1, .y = w, .stride = w_stride},
                    (struct forms){.x = y, .stride = y_stride, .n = rows, .columns = n, .factor = 1, .turned = true});
}

void cpu_multiply_lines(const struct cpu_matrix *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                        bool add, int64_t n)
{
    multiply_panels((struct part){.w = w, .rows = w->placed.columns, .columns = w->placed.rows, .lines = true,
                                  .beta = add, .y = dx, .stride = dx_stride},
                    (struct forms){.x = dy, .stride = dy_stride, .n = n, .columns = w->placed.rows, .factor = 1});
}
