/* device_cpu_attend.c - attention in tiles: rows (queries, times the heads that share a key head) by keys, with the
 * softmax carried along (Milakov, Gimelshein 2018), so no matrix of all queries by all keys is ever there. Where
 * there are few rows and many keys, the keys are cut into chunks whose results are merged (Dao et al.,
 * Flash-Decoding, 2023). */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = 48, KEYS = 128,                       /* of a tile: scores and packed keys fit the second-level cache */
    CHUNK = 512, CHUNKED_ITEMS = 8,              /* keys are cut where there would be fewer items than this */
    SERIAL_WORK = 1 << 14,
};

/* A thread's workspace. */
struct space {
    float *q;                    /* groups of rows, packed for gemm, times the scale */
    float *keys, *values;        /* panels [head_dim][panel]; [KEYS][width] where they must be copied */
    float *score;                /* [rows][KEYS] */
};

/* Softmax under way: out [rows][width] = the sum of exp(score - most) * v, total that of the factors. */
struct state {
    float *out, *most, *total;
};

struct job {
    const struct attention *a;
    const struct kernels *kernels;
    int64_t share, queries, rows;                /* heads per key head; queries and rows per item */
    int64_t width;                               /* head_dim, up to whole panels */
    int64_t blocks, chunks, chunk;
    bool copy_values;
    size_t space_floats, state_floats;
    float *space, *state;                        /* [threads][space_floats]; [threads or items][state_floats] */
};

static int64_t most_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static struct space space_of(const struct job *job, int thread)
{
    float *at = job->space + (size_t)thread * job->space_floats;
    struct space space = {.q = at};

    space.keys = space.q + job->rows * job->width;
    space.score = space.keys + KEYS * job->width;
    space.values = space.score + job->rows * KEYS;
    return space;
}

static struct state state_of(const struct job *job, int64_t index)
{
    struct state state = {.out = job->state + (size_t)index * job->state_floats};

    state.most = state.out + job->rows * job->width;
    state.total = state.most + job->rows;
    return state;
}

/* Row r of a block: query first + r / share, head r % share of those at the key head. */
static void pack_queries(const struct job *job, int64_t first, int64_t rows, int64_t kv_head, struct space *space)
{
    const struct attention *a = job->a;
    float *line = space->score;  /* free yet: room for the rows of one group, one after the other */

    for (int64_t r = 0; r < rows; r += job->kernels->tokens) {
        int m = (int)least(rows - r, job->kernels->tokens);

        for (int i = 0; i < m; i++)
            memcpy(line + i * a->head_dim,
                   a->q + (first + (r + i) / job->share) * a->q_stride
                       + (kv_head * job->share + (r + i) % job->share) * a->head_dim,
                   (size_t)a->head_dim * sizeof *line);
        job->kernels->pack(line, a->head_dim, m, a->head_dim, a->scale, space->q + r * a->head_dim);
    }
}

/* score [rows][KEYS] = q k' for keys in consecutive rows. */
static void score_keys(const struct job *job, const float *k, int64_t keys, int64_t rows, struct space *space)
{
    const struct attention *a = job->a;
    int panel = job->kernels->panel;

    for (int64_t p = 0; p < keys; p += panel) {
        int height = (int)least(keys - p, panel);

        job->kernels->panel_rows(DTYPE_F32, k + p * a->kv_stride, a->kv_stride, height, a->head_dim, space->keys);
        for (int64_t r = 0; r < rows; r += job->kernels->tokens)
            job->kernels->gemm((int)least(rows - r, job->kernels->tokens), height, a->head_dim,
                               space->q + r * a->head_dim, space->keys, panel, 0, space->score + r * KEYS + p, KEYS);
    }
}

/* Scores of keys position..position+keys-1 become factors, 0 where a query doesn't see the key. */
static void soften(const struct job *job, int64_t first, int64_t position, int64_t keys, int64_t rows,
                   struct space *space, struct state *state)
{
    const struct attention *a = job->a;

    for (int64_t r = 0; r < rows; r++) {
        float *score = space->score + r * KEYS, most, factor;
        int64_t end = a->past + first + r / job->share + 1, begin = a->window > 0 ? most_of(end - a->window, 0) : 0;

        begin = most_of(begin - position, 0);
        end = least(end - position, keys);
        if (begin >= end) {
            memset(score, 0, (size_t)keys * sizeof *score);
            continue;
        }
        most = job->kernels->largest(score + begin, end - begin);
        most = most > state->most[r] ? most : state->most[r];
        factor = expf(state->most[r] - most);
        state->total[r] = state->total[r] * factor + job->kernels->exponentials(score + begin, end - begin, most);
        state->most[r] = most;
        if (factor != 1)
            job->kernels->scale(state->out + r * job->width, factor, job->width);
        memset(score, 0, (size_t)begin * sizeof *score);
        memset(score + end, 0, (size_t)(keys - end) * sizeof *score);
    }
}

static void add_values(const struct job *job, const float *v, int64_t keys, int64_t rows, struct space *space,
                       struct state *state)
{
    const struct attention *a = job->a;
    int64_t stride = a->kv_stride;
    int at_once = job->kernels->tokens / 2, panel = job->kernels->panel;

    if (job->copy_values) {      /* or whole panels would reach beyond the head */
        for (int64_t p = 0; p < keys; p++)
            memcpy(space->values + p * job->width, v + p * stride, (size_t)a->head_dim * sizeof *v);
        v = space->values;
        stride = job->width;
    }
    for (int64_t r = 0; r < rows; r += at_once)
        for (int64_t c = 0; c < a->head_dim; c += panel)
            job->kernels->gemm_rows((int)least(rows - r, at_once), (int)least(a->head_dim - c, panel), keys,
                                    space->score + r * KEYS, KEYS, v + c, stride, 1, state->out + r * job->width + c,
                                    job->width);
}

static void write_out(const struct job *job, int64_t first, int64_t rows, int64_t kv_head, const struct state *state)
{
    const struct attention *a = job->a;

    for (int64_t r = 0; r < rows; r++) {
        float *out = a->out + (first + r / job->share) * a->out_stride
                     + (kv_head * job->share + r % job->share) * a->head_dim;

        for (int64_t j = 0; j < a->head_dim; j++)
            out[j] = state->out[r * job->width + j] / state->total[r];
        if (a->lse)
            a->lse[(first + r / job->share) * a->n_head + kv_head * job->share + r % job->share]
                = state->most[r] + logf(state->total[r]);
    }
}

static void attend_item(void *context, int64_t item, int thread)
{
    const struct job *job = context;
    const struct attention *a = job->a;
    int64_t kv_head = item % a->n_kv_head, chunk = item / a->n_kv_head % job->chunks;
    int64_t block = job->blocks - 1 - item / a->n_kv_head / job->chunks;      /* the longest first */
    int64_t first = block * job->queries, rows = least(job->queries, a->n - first) * job->share;
    int64_t begin = a->window > 0 ? most_of(a->past + first + 1 - a->window, 0) : 0;
    int64_t end = least(a->past + first + rows / job->share, (chunk + 1) * job->chunk);
    struct space space = space_of(job, thread);
    struct state state = state_of(job, job->chunks > 1 ? item : thread);

    begin = most_of(begin, chunk * job->chunk);
    memset(state.out, 0, (size_t)(rows * job->width) * sizeof *state.out);
    for (int64_t r = 0; r < rows; r++) {
        state.most[r] = -INFINITY;
        state.total[r] = 0;
    }
    pack_queries(job, first, rows, kv_head, &space);
    for (int64_t p = begin, keys; p < end; p += keys) {
        int64_t line = p < a->shared ? p : a->own + p - a->shared;

        keys = least(least(end - p, KEYS), p < a->shared ? a->shared - p : KEYS);
        score_keys(job, a->k + line * a->kv_stride + kv_head * a->head_dim, keys, rows, &space);
        soften(job, first, p, keys, rows, &space, &state);
        add_values(job, a->v + line * a->kv_stride + kv_head * a->head_dim, keys, rows, &space, &state);
    }
    if (job->chunks == 1)
        write_out(job, first, rows, kv_head, &state);
}

/* The chunks of one block and head, into the state of the first. */
static void merge(const struct job *job, int64_t block, int64_t kv_head)
{
    const struct attention *a = job->a;
    int64_t first = block * job->queries, rows = least(job->queries, a->n - first) * job->share;
    int64_t item = (job->blocks - 1 - block) * job->chunks * a->n_kv_head + kv_head;
    struct state whole = state_of(job, item);

    for (int64_t chunk = 1; chunk < job->chunks; chunk++) {
        struct state part = state_of(job, item + chunk * a->n_kv_head);

        for (int64_t r = 0; r < rows; r++) {
            float most = part.most[r] > whole.most[r] ? part.most[r] : whole.most[r], left, right;

            if (part.most[r] == -INFINITY && part.total[r] == 0)
                continue;
            left = expf(whole.most[r] - most);
            right = expf(part.most[r] - most);
            for (int64_t j = 0; j < a->head_dim; j++)
                whole.out[r * job->width + j] = whole.out[r * job->width + j] * left
                                                + part.out[r * job->width + j] * right;
            whole.total[r] = whole.total[r] * left + part.total[r] * right;
            whole.most[r] = most;
        }
    }
    write_out(job, first, rows, kv_head, &whole);
}

static void cut(struct job *job)
{
    const struct attention *a = job->a;
    int64_t keys = a->past + a->n, items, panel = job->kernels->panel;

    job->share = a->n_head / a->n_kv_head;
    job->queries = least(most_of(ROWS / job->share, 1), a->n);
    job->rows = job->queries * job->share;
    job->width = (a->head_dim + panel - 1) / panel * panel;
    job->copy_values = a->head_dim % (panel / 2) != 0;
    job->blocks = (a->n + job->queries - 1) / job->queries;
    job->chunk = job->blocks * a->n_kv_head < CHUNKED_ITEMS ? CHUNK : keys;
    job->chunks = (keys + job->chunk - 1) / job->chunk;
    items = job->chunks > 1 ? job->blocks * a->n_kv_head * job->chunks : parallel_threads();
    job->space_floats = (size_t)((job->rows + 2 * KEYS) * job->width
                                 + most_of(job->rows * KEYS, job->kernels->tokens * job->width));
    job->space_floats = (job->space_floats + 15) / 16 * 16;
    job->state_floats = (size_t)((job->rows * (job->width + 2) + 15) / 16 * 16);
    job->space = cpu_scratch(SCRATCH_ATTEND, (size_t)parallel_threads() * job->space_floats * sizeof(float));
    job->state = cpu_scratch(SCRATCH_PARTIAL, (size_t)items * job->state_floats * sizeof(float));
}

void cpu_attend(const struct attention *attention)
{
    struct job job = {.a = attention, .kernels = cpu_kernels()};
    const struct attention *a = attention;
    int64_t items;

    if (a->n <= 0 || a->n_head <= 0)
        return;
    cut(&job);
    items = job.blocks * job.chunks * a->n_kv_head;
    if (a->n * a->n_head * (a->past + a->n) * a->head_dim > SERIAL_WORK)
        parallel_for(items, attend_item, &job);
    else
        for (int64_t item = 0; item < items; item++)
            attend_item(&job, item, 0);
    if (job.chunks > 1)
        for (int64_t block = 0; block < job.blocks; block++)
            for (int64_t head = 0; head < a->n_kv_head; head++)
                merge(&job, block, head);
}
