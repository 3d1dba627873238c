/* operator.h - a weight W [out, in] as a sum of matrix product operators: the one representation that all filters
 * share.
 *
 *     W  =  sum over terms t of  MPO(core_t0, core_t1, ..., core_t,n-1)      core: [chi_left, d_out, d_in, chi_right]
 *
 * With row index o = (o_0, o_1, ...) and column index i = (i_0, i_1, ...), first digits most significant,
 * W[o, i] = sum over terms of  core_0[0, o_0, i_0, :] core_1[:, o_1, i_1, :] ... core_n-1[:, o_n-1, i_n-1, 0].
 * With transforms T_in and T_out of input and output, W is T_out' times that sum times T_in (operator/transform.h).
 * A dense or a packed matrix is one term with one core [1, out, in, 1]; a low-rank product one term with two cores
 * [1, out, 1, chi] and [chi, 1, in, 1]. Each core has a dtype of its own; W is exactly what the stored cores give. */
#ifndef OPERATOR_OPERATOR_H
#define OPERATOR_OPERATOR_H

#include "base/hash.h"
#include "files/source.h"
#include "operator/transform.h"
#include "stream/writer.h"
#include "tensor/tensor.h"

struct chain {
    int n_site;
    struct tensor *core;         /* n_site of them, owned */
};

struct operator {
    char *name;                  /* the weight's name, owned */
    int64_t out, in;
    int n_term;
    struct chain *term;          /* n_term of them, owned */
    struct transform input;      /* what the input goes through before the terms */
    struct transform output;     /* and the inverse of which the output goes through behind them */
};

/* True where the record begins an operator: a matrix in one piece, or the first core of one. */
bool operator_begins(const struct record *record);

/* Reads the operator that begins with record (and takes the records of its other cores from the source). Bonds,
 * sizes and the completeness of terms and chains are checked: EX_DATAERR. *op is the caller's; it is empty after
 * an error. */
int operator_read(struct source *source, const struct record *record, struct operator *op);

/* Writes its cores as records: a plain tensor where it is a matrix in one piece, without a transform. */
int operator_write(struct writer *writer, const struct operator *op);

/* One term with the cores given; the cores move into it. out and in follow from them. */
struct operator operator_from_cores(const char *name, int n_site, struct tensor *cores);

/* True where there is a transform on either side. */
bool operator_is_turned(const struct operator *op);

/* One core holding a matrix [out, in]; the tensor moves into it. */
struct operator operator_from_matrix(const char *name, struct tensor *matrix);

/* True for one term with one core; with a transform that isn't W yet. */
bool operator_is_matrix(const struct operator *op);

/* True for one core in a plain dtype and no transform: what any safetensors reader understands. */
bool operator_is_dense(const struct operator *op);

/* True for (out x 1)(1 x in): the product of the two cores as matrices is W itself. */
bool chain_is_low_rank(const struct chain *chain);

/* Numbers stored in the cores; a code counts as one number. */
int64_t operator_parameters(const struct operator *op);

/* Bytes of the payloads. */
int64_t operator_bytes(const struct operator *op);

/* Adds all that it is to a hash: name, transforms, and of each core dtype, shape and payload. */
void operator_hash(const struct operator *op, struct hash *hash);

/* W [out, in] f32, in full. */
void operator_dense(const struct operator *op, float *w);

/* Puts a dense matrix in place of terms and transform: W as dtype (f32, f16, bf16). EX_DATAERR after a message where a
 * number is not finite, or too large for f16; then op is as it was. */
int operator_contract(struct operator *op, struct dtype dtype);

/* W band by band, so that it need not be there in full. A band is the rows that share o_0, in each of the terms, and
 * with an output transform all rows: of a chain whose first site has few rows, or of two with different ones, it may
 * still be all of W. */
struct contraction {
    const struct operator *op;   /* borrowed */
    int64_t band;                /* rows that are worth computing together: pass multiples of it, save at the end */
    float **left, **rest;        /* per term, of several cores: the first [o_0 i_0, chi], the product of all others */
};

/* Costs the cores in f32 and, for chains other than (out x 1)(1 x in), the product of all cores but the first. */
void contraction_begin(struct contraction *contraction, const struct operator *op);

/* w [rows, in] f32: rows first..first+rows-1, first a multiple of band, rows too or up to the last one. Costs another
 * rows * in floats where a chain isn't low rank or terms are added. Not to be called inside parallel_for(). */
void contraction_rows(const struct contraction *contraction, int64_t first, int64_t rows, float *w);

/* Rows to take at a time: whole bands of some MiB. */
int64_t contraction_step(const struct contraction *contraction);

void contraction_end(struct contraction *contraction);

/* Releases what it owns and zeroes. */
void operator_free(struct operator *op);

#endif
