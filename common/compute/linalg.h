/* linalg.h - dense linear algebra on the host. The only door to CBLAS and LAPACK.
 *
 * Products are cut into tiles fixed by the shapes, and each tile is one single-threaded BLAS call, spread by
 * parallel_for(): equal inputs give equal bytes for any number of threads on one kind of CPU. (Threaded OpenBLAS gives
 * other bytes for other thread counts.) LAPACK runs on one thread, column-major on the transposed view of our row-major
 * data, never in its copying row-major mode. Signs of vectors are fixed: the entry of largest magnitude is positive.
 * Outputs must not overlap inputs. None of this may be called from inside parallel_for(). */
#ifndef COMPUTE_LINALG_H
#define COMPUTE_LINALG_H

#include "base/random.h"

#include <stdbool.h>
#include <stdint.h>

/* A view of an f32 matrix, borrowed: element (i, j) lies at data[i * stride + j], where turned at data[j * stride
 * + i]. */
struct matrix {
    float *data;
    int64_t rows, columns, stride;
    bool turned;
};

/* The same in double. */
struct matrix64 {
    double *data;
    int64_t rows, columns, stride;
    bool turned;
};

/* A whole row-major matrix; what is only read may be const where it comes from. */
struct matrix matrix_of(const float *data, int64_t rows, int64_t columns);
struct matrix64 matrix64_of(const double *data, int64_t rows, int64_t columns);

/* The transposed view. */
struct matrix matrix_turn(struct matrix a);
struct matrix64 matrix64_turn(struct matrix64 a);

/* Rows first..first+rows-1, columns likewise. */
struct matrix matrix_rows(struct matrix a, int64_t first, int64_t rows);
struct matrix matrix_columns(struct matrix a, int64_t first, int64_t columns);

/* c = alpha a b + beta c. With beta 0, c need not be set. 2 m n k operations. */
void linalg_gemm(float alpha, struct matrix a, struct matrix b, float beta, struct matrix c);
void linalg_gemm64(double alpha, struct matrix64 a, struct matrix64 b, double beta, struct matrix64 c);

/* g [a.rows, a.rows] = a a', both triangles, products and sums in double. About a.rows^2 a.columns operations. */
void linalg_gram(struct matrix a, double *g);

/* The sum of squares in double; it is finite exactly where all values are. */
double linalg_sum_squares(const float *values, int64_t count);

/* Eigenvalues alone, descending; g is destroyed. A third of the time of linalg_eigh(). */
int linalg_eigenvalues(int64_t n, double *g, double *values);

/* Eigenvalues, descending, and eigenvectors of a symmetric matrix: row i of g becomes the vector of values[i].
 * Workspace 16 n^2 bytes, about 6 n^3 operations on one thread. EX_SOFTWARE after a message. LAPACK dsyevd. */
int linalg_eigh(int64_t n, double *g, double *values);

/* The same for the leading vectors alone: rows 0..count-1 of g become the vectors of values[0..count-1]; all values are
 * set. Only the upper triangle of g is read. Workspace 16 n^2 bytes. The reduction to a tridiagonal matrix (4/3 n^3
 * operations) and its vectors, by divide and conquer, run on one thread, turning them back (2 count n^2) on all.
 * EX_SOFTWARE after a message. LAPACK dsytrd, dstedc, dormtr. */
int linalg_eigh_leading(int64_t n, int64_t count, double *g, double *values);

/* a = r' r in place, in parallel tiles, for a matrix that is safely positive definite: the upper triangle of a [n, n]
 * becomes r, only that triangle is read. False, and nothing said, where a isn't positive definite; then it is
 * destroyed. n^3 / 3 operations, no memory beside. */
bool linalg_cholesky(int64_t n, double *a);

/* The same for a positive semidefinite matrix: a[pivot[i], pivot[j]] = (r' r)[i, j], the lower triangle is work space.
 * Returns the rank, the rows of r that count: where all pivots are above tolerance times the largest diagonal entry, n,
 * and pivot is 0, 1, ...; otherwise what is below it, brought to the end, is left out, and all is done by one thread.
 * LAPACK dpstrf. */
int64_t linalg_cholesky_pivoted(int64_t n, double *a, double tolerance, int *pivot);

/* x = x r^-1, or with turned x = x r'^-1, in place: x [rows, n] row-major, r the upper triangle in n rows of length
 * stride. rows n^2 operations, in parallel. */
void linalg_solve64(double *x, int64_t rows, int64_t n, const double *r, int64_t stride, bool turned);

/* Economy SVD a = u diag(s) vt, k = min(m, n): a [m, n] destroyed, u [m, k], s [k] descending, vt [k, n]. One thread.
 * EX_SOFTWARE after a message. LAPACK dgesdd. */
int linalg_svd(struct matrix64 a, double *u, double *s, double *vt);

/* Makes the rows of x (rows <= columns) orthonormal to f32 rounding; they span at least what they did. Directions that
 * don't exist numerically (dependent or zero rows) are filled with random ones, so the result is always a whole
 * basis. EX_SOFTWARE after a message where x isn't finite.
 * Cholesky QR in double, repeated (Yamamoto et al. 2015); by eigenvectors where that is too badly conditioned
 * (Stathopoulos, Wu, SIAM J. Sci. Comput. 23 (2002)). */
int linalg_orthonormalise(struct matrix x, struct random fill);

#endif
