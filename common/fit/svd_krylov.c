/* svd_krylov.c - truncated SVD from a block Krylov space (Musco and Musco, NeurIPS 2015), kept orthonormal
 * throughout.
 *
 * Rows of Q are an orthonormal basis of span{X, A A'X, (A A')^2 X, ...} with X = A Omega; T = Q A comes along,
 * since the next block is A T_block'. The leading eigenvectors P of T T' give U = (P Q)' and R = U'A = P T without
 * another product with A.
 *
 * Why this and not power iteration with rank + 16 columns: for the same number of products the space holds
 * polynomials of higher degree, and all earlier blocks. Blocks of 5/8 rank and 5 of them cost (2 * 5 - 1) * 5/8 =
 * 5.6 products of rank columns and capture 0.92 of the optimum on white noise, 0.996 on a spectrum k^-0.3 (a sixth
 * block: 0.95 and 0.999). (Smaller blocks capture a little more per operation, but products of fewer than 64
 * columns run slower.) Omega costs no product either: random signs, columns added up modulo the block. */
#include "fit/svd_krylov.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SMALL = 1024,                /* up to this side the Gram matrix costs no more and is exact */
    BLOCKS = 5, DRAFT_BLOCKS = 2,
    BLOCK_MULTIPLE = 16, TOLERANCE_BLOCK = 128,
    SKETCH_ROWS = 64,
};

struct krylov {
    struct matrix a;             /* [m, n] */
    int64_t block, most, count;  /* rows per block, rows that q and t have room for, rows in use */
    float *q, *t;                /* [most, m], [most, n] */
    double *gram;                /* [most, most]: the lower triangle of T T', a block behind */
    struct random random;
};

static int64_t block_for(int64_t rank)
{
    return (rank * 5 / 8 + BLOCK_MULTIPLE - 1) / BLOCK_MULTIPLE * BLOCK_MULTIPLE;
}

bool krylov_suits(int64_t m, int64_t n, const struct svd_target *target, double total)
{
    int64_t side = m < n ? m : n;

    if (side <= SMALL)
        return false;
    if (target->rank == 0)
        return target->discard > 1e-5 * total;
    return block_for(target->rank) <= side / 2 / BLOCKS;
}

struct sketch {
    struct matrix a;
    int64_t block;
    const float *sign;           /* [n] */
    float *space, *out;          /* [threads, block], [block, m] */
};

static void sketch_item(void *context, int64_t item, int thread)
{
    const struct sketch *p = context;
    int64_t first = item * SKETCH_ROWS, end = first + SKETCH_ROWS, n = p->a.columns;
    float *sum = p->space + (int64_t)thread * p->block;

    for (int64_t i = first; i < end && i < p->a.rows; i++) {
        const float *row = p->a.data + i * p->a.stride;

        memset(sum, 0, (size_t)p->block * sizeof *sum);
        for (int64_t c = 0; c < n; c += p->block) {
            int64_t width = n - c < p->block ? n - c : p->block;

            for (int64_t j = 0; j < width; j++)
                sum[j] += p->sign[c + j] * row[c + j];
        }
        for (int64_t j = 0; j < p->block; j++)
            p->out[j * p->a.rows + i] = sum[j];
    }
}

/* out [block, m] = (A Omega)'; each column of A goes with a random sign into one column of the sum. */
static void sketch(const struct krylov *k, float *out)
{
    int64_t n = k->a.columns, padded = (n + 3) / 4 * 4;
    float *sign = xmallocarray((size_t)padded, sizeof *sign);
    struct sketch p = {k->a, k->block, sign, xaligned((size_t)(parallel_threads() * k->block), sizeof(float)), out};

    random_uniform(k->random, 0, padded, sign);
    for (int64_t i = 0; i < n; i++)
        sign[i] = sign[i] < 0.5f ? -1 : 1;
    parallel_for((k->a.rows + SKETCH_ROWS - 1) / SKETCH_ROWS, sketch_item, &p);
    free(sign);
    free(p.space);
}

static float largest(const float *values, int64_t count)
{
    float most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

/* With Z = T_block A' the block to come, Z Q' = T_block T': so the overlaps are rows of the Gram matrix of T. */
static void note_overlap(struct krylov *k, struct matrix o)
{
    for (int64_t i = 0; i < o.rows && k->count; i++)
        for (int64_t j = 0; j < o.columns; j++)
            k->gram[(k->count - k->block + i) * k->most + j] = o.data[i * o.stride + j];
}

/* Clears the rows of which the subtraction of what the old ones span has left rounding only: its direction would
 * be one of theirs again. (linalg_orthonormalise() gives cleared rows a random direction.) */
static void clear_spanned(struct matrix block, struct matrix o)
{
    for (int64_t i = 0; i < block.rows; i++) {
        float *row = block.data + i * block.stride;
        double inside = 0, outside = 0;

        for (int64_t j = 0; j < o.columns; j++)
            inside += (double)o.data[i * o.stride + j] * o.data[i * o.stride + j];
        for (int64_t j = 0; j < block.columns && outside <= 1e-10 * inside; j++)
            outside += (double)row[j] * row[j];
        if (outside <= 1e-10 * inside)
            memset(row, 0, (size_t)block.columns * sizeof *row);
    }
}

/* Makes the new block orthonormal, to the earlier ones too; its overlap with them as it comes in goes to the gram
 * matrix. Twice is enough, save where the block is nearly in their span already. */
static int orthonormalise(struct krylov *k, struct matrix block)
{
    struct matrix old = matrix_of(k->q, k->count, k->a.rows);
    float *overlap = xaligned((size_t)(k->block * (k->count ? k->count : 1)), sizeof *overlap);
    struct matrix o = matrix_of(overlap, k->block, k->count);
    struct random fill = k->random;
    int rc = EX_OK;

    for (int round = 0; round < 5 && !rc; round++) {
        linalg_gemm(1, block, matrix_turn(old), 0, o);
        if (round == 0)
            note_overlap(k, o);
        linalg_gemm(-1, o, old, 1, block);
        /* So small a correction changes lengths and angles within the block by less than f32 rounding. */
        if (round && largest(overlap, k->block * k->count) < 1e-4f)
            break;
        clear_spanned(block, o);
        fill.stream += 1000;
        rc = linalg_orthonormalise(block, fill);
    }
    free(overlap);
    return rc;
}

/* Appends a block to q and t. */
static int step(struct krylov *k)
{
    struct matrix q = matrix_of(k->q + k->count * k->a.rows, k->block, k->a.rows);
    struct matrix t = matrix_of(k->t + k->count * k->a.columns, k->block, k->a.columns);
    int rc;

    if (k->count)
        linalg_gemm(1, matrix_of(t.data - k->block * k->a.columns, k->block, k->a.columns), matrix_turn(k->a), 0, q);
    else
        sketch(k, q.data);
    k->random.stream += 100000;
    rc = orthonormalise(k, q);
    if (!rc) {
        linalg_gemm(1, q, k->a, 0, t);
        k->count += k->block;
    }
    return rc;
}

/* Eigenvalues and eigenvectors of T T', of which the last rows are still missing. */
static int solve(struct krylov *k, double *squares)
{
    float *overlap = xaligned((size_t)(k->block * k->count), sizeof *overlap);
    struct matrix o = matrix_of(overlap, k->block, k->count), t = matrix_of(k->t, k->count, k->a.columns);
    int64_t d = k->count;

    linalg_gemm(1, matrix_rows(t, d - k->block, k->block), matrix_turn(t), 0, o);
    note_overlap(k, o);
    free(overlap);
    for (int64_t i = 0; i < d; i++)         /* the lower triangle, closed up to its size and mirrored */
        memmove(k->gram + i * d, k->gram + i * k->most, (size_t)(i + 1) * sizeof *k->gram);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < i; j++)
            k->gram[j * d + i] = k->gram[i * d + j];
    return linalg_eigh(d, k->gram, squares);
}

/* U = (P Q)', R = P T with the eigenvectors P that solve() left in gram. */
static void finish(const struct krylov *k, const double *squares, struct svd *svd)
{
    int64_t m = k->a.rows, n = k->a.columns, d = k->count, rank = svd->rank;
    float *p32 = xaligned((size_t)(rank * d), sizeof *p32);

    for (int64_t i = 0; i < rank * d; i++)
        p32[i] = (float)k->gram[i];
    svd->u = xaligned((size_t)(m * rank), sizeof *svd->u);
    svd->r = xaligned((size_t)(rank * n), sizeof *svd->r);
    linalg_gemm(1, matrix_turn(matrix_of(k->q, d, m)), matrix_turn(matrix_of(p32, rank, d)), 0,
                matrix_of(svd->u, m, rank));
    linalg_gemm(1, matrix_of(p32, rank, d), matrix_of(k->t, d, n), 0, matrix_of(svd->r, rank, n));
    free(p32);
    svd->method = SVD_KRYLOV;
    svd->kept = linalg_sum_squares(svd->r, rank * n);
    svd->discarded = svd->total > svd->kept ? svd->total - svd->kept : 0;
    svd->n_value = d;
    svd->values = xmallocarray((size_t)d, sizeof *svd->values);
    for (int64_t i = 0; i < d; i++)
        svd->values[i] = squares[i] > 0 ? sqrt(squares[i]) : 0;
}

/* Grows the space until it holds the target; *enough is false where a tolerance isn't reached. */
static int grow(struct krylov *k, const struct svd_target *target, double total, bool *enough)
{
    double inside = 0;

    *enough = target->rank > 0;
    while (k->count + k->block <= k->most) {
        int rc = step(k);

        if (rc)
            return rc;
        if (target->rank)
            continue;
        inside += linalg_sum_squares(k->t + (k->count - k->block) * k->a.columns, k->block * k->a.columns);
        if (total - inside <= target->discard / 2) {     /* half: leaves room to drop what the space has too much */
            *enough = true;
            break;
        }
    }
    return EX_OK;
}

static int64_t least_rank(const double *squares, int64_t count, double total, double discard)
{
    int64_t rank = 0;

    while (rank < count && total > discard)
        total -= squares[rank++];
    return rank ? rank : 1;
}

int krylov_truncate(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd, bool *done)
{
    struct krylov k = {.a = matrix_of(a, m, n), .random = target->random};
    int64_t side = m < n ? m : n;
    double *squares = NULL;
    int rc;

    k.block = target->rank ? block_for(target->rank) : TOLERANCE_BLOCK;
    k.most = target->rank ? k.block * (target->draft ? DRAFT_BLOCKS : BLOCKS) : side / 4;
    k.q = xaligned((size_t)(k.most * m), sizeof *k.q);
    k.t = xaligned((size_t)(k.most * n), sizeof *k.t);
    k.gram = xaligned((size_t)(k.most * k.most), sizeof *k.gram);
    rc = grow(&k, target, svd->total, done);
    if (!rc && *done) {
        squares = xmallocarray((size_t)k.count, sizeof *squares);
        rc = solve(&k, squares);
    }
    if (!rc && *done) {
        svd->rank = target->rank ? target->rank : least_rank(squares, k.count, svd->total, target->discard);
        finish(&k, squares, svd);
    }
    free(k.q);
    free(k.t);
    free(k.gram);
    free(squares);
    return rc;
}
