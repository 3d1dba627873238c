/* device_cpu_attend_back.c - the backward pass of attention, tile by tile (Dao et al., FlashAttention, 2022, algorithm
 * 4): scores are computed again from queries, keys and the logarithms of the sums, so no matrix of all queries by all
 * keys is ever there. An item is one key head of one sequence, with all query heads that share it: nothing is summed
 * across items.
 *
 * With p = exp(scale q k' - lse), dp = do v', D = sum(do * o):  ds = scale p (dp - D),  dv = p' do,  dq = ds k,
 * dk = ds' q. */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <string.h>

enum { ROWS = 48, KEYS = 64, SERIAL_WORK = 1 << 14 };    /* of a tile */

/* A thread's workspace. Rows are width floats long: head_dim up to whole panels, zero beyond. */
struct space {
    float *q, *dout;             /* [ROWS][width], of a tile of queries: row r is query r / share, head r % share */
    float *packed_q, *packed_out;        /* the same in groups for gemm, q times the scale */
    float *dq;                   /* [ROWS][width] */
    float *inner, *lse;          /* [ROWS] */
    float *k, *v;                /* [KEYS][width], of a tile of keys */
    float *k_panels, *v_panels;  /* [KEYS / panel][width][panel] */
    float *p, *ds;               /* [ROWS][KEYS] */
    float *dk, *dv;              /* [keys][width]: of all keys of the head */
};

struct job {
    const struct attention_back *back;
    const struct kernels *kernels;
    int64_t share, queries, rows, width, n_kv_head;
    size_t space_floats;
    float *space;                /* [threads][space_floats] */
};

/* The workspace's floats; where it begins is NULL, only counted. */
static size_t lay_out(const struct job *job, int64_t keys, float *start, struct space *s)
{
    int64_t tile = job->rows * job->width, key_tile = KEYS * job->width, scores = job->rows * KEYS;
    struct {
        float **part;
        int64_t count;
    } parts[] = {{&s->q, tile}, {&s->dout, tile}, {&s->packed_q, tile}, {&s->packed_out, tile}, {&s->dq, tile},
                 {&s->inner, job->rows}, {&s->lse, job->rows}, {&s->k, key_tile}, {&s->v, key_tile},
                 {&s->k_panels, key_tile}, {&s->v_panels, key_tile}, {&s->p, scores}, {&s->ds, scores},
                 {&s->dk, keys * job->width}, {&s->dv, keys * job->width}};
    size_t at = 0;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = start ? start + at : NULL;
        at += (size_t)(divide_up(parts[i].count, 16) * 16);
    }
    return at;
}

static void copy_row(const struct job *job, float *to, const float *from, int64_t head_dim)
{
    memcpy(to, from, (size_t)head_dim * sizeof *to);
    memset(to + head_dim, 0, (size_t)(job->width - head_dim) * sizeof *to);
}

/* Rows of the tile of queries first.. */
static void load_queries(const struct job *job, const struct attention_back *b, int64_t kv_head, int64_t first,
                         int64_t rows, const struct space *s)
{
    const struct attention *a = b->forward;
    int tokens = job->kernels->tokens;

    for (int64_t r = 0; r < rows; r++) {
        int64_t query = first + r / job->share, head = kv_head * job->share + r % job->share;
        const float *out = a->out + query * a->out_stride + head * a->head_dim;
        const float *dout = b->dout + query * a->out_stride + head * a->head_dim;
        float inner = 0;

        for (int64_t j = 0; j < a->head_dim; j++)
            inner += out[j] * dout[j];
        s->inner[r] = inner;
        s->lse[r] = a->lse[query * a->n_head + head];
        copy_row(job, s->q + r * job->width, a->q + query * a->q_stride + head * a->head_dim, a->head_dim);
        copy_row(job, s->dout + r * job->width, dout, a->head_dim);
    }
    for (int64_t r = 0; r < rows; r += tokens) {
        int m = (int)least(rows - r, tokens);

        job->kernels->pack(s->q + r * job->width, job->width, m, a->head_dim, a->scale, s->packed_q + r * a->head_dim);
        job->kernels->pack(s->dout + r * job->width, job->width, m, a->head_dim, 1, s->packed_out + r * a->head_dim);
    }
    memset(s->dq, 0, (size_t)(rows * job->width) * sizeof *s->dq);
}

static void load_keys(const struct job *job, const struct attention *a, int64_t kv_head, int64_t first, int64_t keys,
                      const struct space *s)
{
    int panel = job->kernels->panel;

    for (int64_t p = 0; p < keys; p++) {
        copy_row(job, s->k + p * job->width, a->k + (first + p) * a->kv_stride + kv_head * a->head_dim, a->head_dim);
        copy_row(job, s->v + p * job->width, a->v + (first + p) * a->kv_stride + kv_head * a->head_dim, a->head_dim);
    }
    for (int64_t p = 0; p < keys; p += panel) {
        int height = (int)least(keys - p, panel);

        job->kernels->panel_rows(DTYPE_F32, s->k + p * job->width, job->width, height, a->head_dim,
                                 s->k_panels + p * job->width);
        job->kernels->panel_rows(DTYPE_F32, s->v + p * job->width, job->width, height, a->head_dim,
                                 s->v_panels + p * job->width);
    }
}

/* p and ds of the tile: both 0 where a query doesn't see a key. */
static void score(const struct job *job, const struct attention *a, int64_t first, int64_t rows, int64_t position,
                  int64_t keys, const struct space *s)
{
    int tokens = job->kernels->tokens, panel = job->kernels->panel;

    for (int64_t p = 0; p < keys; p += panel)
        for (int64_t r = 0; r < rows; r += tokens) {
            int m = (int)least(rows - r, tokens), height = (int)least(keys - p, panel);

            job->kernels->gemm(m, height, a->head_dim, s->packed_q + r * a->head_dim, s->k_panels + p * job->width,
                               panel, 0, s->p + r * KEYS + p, KEYS);
            job->kernels->gemm(m, height, a->head_dim, s->packed_out + r * a->head_dim, s->v_panels + p * job->width,
                               panel, 0, s->ds + r * KEYS + p, KEYS);
        }
    for (int64_t r = 0; r < rows; r++) {
        float *weight = s->p + r * KEYS, *ds = s->ds + r * KEYS;
        int64_t end = first + r / job->share + 1, begin = a->window > 0 ? most(end - a->window, 0) : 0;

        begin = least(most(begin - position, 0), keys);
        end = most(least(end - position, keys), begin);
        job->kernels->exponentials(weight + begin, end - begin, s->lse[r]);
        memset(weight, 0, (size_t)begin * sizeof *weight);
        memset(weight + end, 0, (size_t)(keys - end) * sizeof *weight);
        for (int64_t p = 0; p < keys; p++)
            ds[p] = weight[p] != 0 ? a->scale * weight[p] * (ds[p] - s->inner[r]) : 0;
    }
}

/* to [keys][width] += x' rows, x [rows][KEYS]. */
static void add_turned(const struct job *job, float *to, const float *x, const float *lines, int64_t rows, int64_t keys)
{
    int tokens = job->kernels->tokens, panel = job->kernels->panel;

    for (int64_t p = 0; p < keys; p += tokens)
        for (int64_t c = 0; c < job->width; c += panel)
            job->kernels->gemm_turned((int)least(keys - p, tokens), panel, rows, x + p, KEYS, lines + c, job->width, 1,
                                      to + p * job->width + c, job->width);
}

static void do_tile(const struct job *job, const struct attention_back *b, int64_t first, int64_t rows,
                    int64_t position, int64_t keys, const struct space *s)
{
    int at_once = job->kernels->tokens / 2, panel = job->kernels->panel;

    score(job, b->forward, first, rows, position, keys, s);
    add_turned(job, s->dv + position * job->width, s->p, s->dout, rows, keys);
    add_turned(job, s->dk + position * job->width, s->ds, s->q, rows, keys);
    for (int64_t r = 0; r < rows; r += at_once)
        for (int64_t c = 0; c < job->width; c += panel)
            job->kernels->gemm_rows((int)least(rows - r, at_once), panel, keys, s->ds + r * KEYS, KEYS, s->k + c,
                                    job->width, 1, s->dq + r * job->width + c, job->width);
}

static void store_queries(const struct job *job, const struct attention_back *b, int64_t kv_head, int64_t first,
                          int64_t rows, const struct space *s)
{
    const struct attention *a = b->forward;

    for (int64_t r = 0; r < rows; r++)
        memcpy(b->dq + (first + r / job->share) * a->q_stride + (kv_head * job->share + r % job->share) * a->head_dim,
               s->dq + r * job->width, (size_t)a->head_dim * sizeof *s->dq);
}

static void back_item(void *context, int64_t item, int thread)
{
    const struct job *job = context;
    const struct attention_back *b = &job->back[item / job->n_kv_head];
    const struct attention *a = b->forward;
    int64_t kv_head = item % job->n_kv_head;
    struct space s;

    lay_out(job, a->n, job->space + (size_t)thread * job->space_floats, &s);
    memset(s.dk, 0, (size_t)(a->n * job->width) * sizeof *s.dk);
    memset(s.dv, 0, (size_t)(a->n * job->width) * sizeof *s.dv);
    for (int64_t first = 0; first < a->n; first += job->queries) {
        int64_t queries = least(a->n - first, job->queries), rows = queries * job->share;
        int64_t begin = a->window > 0 ? most(first + 1 - a->window, 0) / KEYS * KEYS : 0;

        load_queries(job, b, kv_head, first, rows, &s);
        for (int64_t p = begin; p < first + queries; p += KEYS) {
            int64_t keys = least(first + queries - p, KEYS);

            load_keys(job, a, kv_head, p, keys, &s);
            do_tile(job, b, first, rows, p, keys, &s);
        }
        store_queries(job, b, kv_head, first, rows, &s);
    }
    for (int64_t p = 0; p < a->n; p++) {
        int64_t at = p * a->kv_stride + kv_head * a->head_dim;

        memcpy(b->dk + at, s.dk + p * job->width, (size_t)a->head_dim * sizeof *s.dk);
        memcpy(b->dv + at, s.dv + p * job->width, (size_t)a->head_dim * sizeof *s.dv);
    }
}

void cpu_attend_back(const struct attention_back *back, int count)
{
    struct job job = {.back = back, .kernels = cpu_kernels()};
    int64_t longest = 0, panel = job.kernels->panel;
    struct space s;

    if (count == 0)
        return;
    for (int i = 0; i < count; i++)
        longest = most(longest, back[i].forward->n);
    job.n_kv_head = back->forward->n_kv_head;
    job.share = back->forward->n_head / job.n_kv_head;
    job.queries = most(ROWS / job.share, 1);
    job.rows = job.queries * job.share;
    job.width = divide_up(back->forward->head_dim, panel) * panel;
    job.space_floats = lay_out(&job, longest, NULL, &s);
    job.space = cpu_scratch(SCRATCH_ATTEND, (size_t)parallel_threads() * job.space_floats * sizeof(float));
    parallel_for(count * job.n_kv_head, back_item, &job);
}
