/* moments.h - what linear layers see: second moments of their inputs, as `calibrate` writes them and the fits read
 * them.
 *
 * A moments file is a tensor stream whose records are of kind "moments" (stream/FORMAT): for each input of a block
 * ("model.layers.3.self_attn.qkv", ".self_attn.o", ".mlp.gateup", ".mlp.down"; "weights" lists the matrices that see
 * it)
 *     NAME             H = E[x~ x~'], packed: the lower triangle by rows, f32 [n (n + 1) / 2]
 *     NAME.cross       C = E[x x~'], f32 [n, n]; x is the input in the dense model
 *     NAME.held        H of the held-out sequences
 *     NAME.held.cross  C of these
 * where x~ is the input in the model that was calibrated. Without a reference the first (and NAME.held) stand alone. */
#ifndef FIT_MOMENTS_H
#define FIT_MOMENTS_H

#include "base/json.h"
#include "stream/writer.h"

#include <stdbool.h>
#include <stdint.h>

/* E[x x'] of an input of width n. */
struct moments {
    int64_t n;
    int64_t tokens;              /* it was averaged over */
    float *packed;               /* [n (n + 1) / 2]: (i, j), j <= i, at i (i + 1) / 2 + j */
};

/* Element i, i. */
static inline float moments_diagonal(const struct moments *h, int64_t i)
{
    return h->packed[i * (i + 1) / 2 + i];
}

/* Both triangles: full [n, n], f32 or double. */
void moments_full(const struct moments *h, float *full);
void moments_full64(const struct moments *h, double *full);

/* Rows first..first+rows-1 of the whole symmetric matrix: to [rows, n]. In parallel. */
void moments_band(const struct moments *h, int64_t first, int64_t rows, float *to);

/* y [rows, n] = x H, x [rows, n]. 2 rows n^2 operations, some MiB beside. */
void moments_times(const struct moments *h, const float *x, int64_t rows, float *y);

/* tr(D H D'), D [rows, n] f32: the mean squared change of the layer's output. Sums in double, in a fixed order;
 * rows n^2 operations, 16 MiB and 1 KiB n beside. Never negative. */
double moments_error(const struct moments *h, const float *d, int64_t rows);

/* All moments of one input. cross and held parts are empty (NULL) where the file has none. */
struct moment_set {
    char *name;
    char **weight;               /* names of the matrices that see it */
    int n_weight;
    struct moments h;
    float *cross;                /* [n, n] row-major: row of x, column of x~ */
    struct moments held;
    float *held_cross;
};

/* A moments file, read forwards, the sets of one block in memory at a time (who asks for an earlier block has it read
 * again from its start; a pipe can't be). */
struct moments_file;

/* EX_NOINPUT, EX_DATAERR, EX_IOERR after a message. */
int moments_open(struct moments_file **file, const char *path);

/* The set that a matrix [.., n] sees; borrowed until a weight of another block is asked for. EX_DATAERR after a message
 * where the file has none for it, or of another width, or one that isn't finite. */
int moments_find(struct moments_file *file, const char *weight, int64_t n, const struct moment_set **set);

/* For the history of what is made with them: {"name", and what calibrate says of itself}. The caller's. */
struct json *moments_history(const struct moments_file *file);

void moments_close(struct moments_file *file);           /* NULL is allowed */

/* Writes a set as records, in order. */
int moments_write(struct writer *writer, const struct moment_set *set);

/* Frees what a set owns and zeroes. */
void moment_set_free(struct moment_set *set);

#endif
