/* shape.h - how a matrix is cut into the sites of a matrix product operator, and what that costs in parameters. */
#ifndef FIT_SHAPE_H
#define FIT_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

enum { MPO_SITES = 16 };         /* the most sites */
enum { SHAPE_TEXT = 640 };       /* bytes of a printed shape, terminated: 16 times two numbers */
enum { SHAPE_CANDIDATES = 5 };

/* W [prod out, prod in] has the row index (o1, o2, ...) and the column index (i1, i2, ...), the last running
 * fastest. Site k carries out[k] and in[k]. */
struct mpo_shape {
    int n_site;
    int64_t out[MPO_SITES], in[MPO_SITES];
};

/* Reads "20x256,640x16" (out x in per site). False, and nothing said, where it isn't 1 to MPO_SITES sites with
 * factors of 1 or more whose products fit in 63 bits. */
bool shape_parse(const char *text, struct mpo_shape *shape);

/* The same text back; returns buffer. */
const char *shape_print(const struct mpo_shape *shape, char buffer[SHAPE_TEXT]);

/* Whether the factors multiply to out and in. */
bool shape_fits(const struct mpo_shape *shape, int64_t out, int64_t in);

bool shape_same(const struct mpo_shape *a, const struct mpo_shape *b);

/* The rank that the cut before site k (1..n_site-1) can have: the smaller of the products left and right of it. */
int64_t shape_rank(const struct mpo_shape *shape, int k);

/* bond[0..n_site]: 1 at the ends, else chi clipped to the cut's rank. True where a cut was clipped. */
bool shape_bonds(const struct mpo_shape *shape, int64_t chi, int64_t bond[MPO_SITES + 1]);

/* sum over sites of bond[k] out[k] in[k] bond[k+1] with bonds from chi; INT64_MAX where that overflows. */
int64_t shape_parameters(const struct mpo_shape *shape, int64_t chi);

/* The largest chi whose parameters are at most budget (no larger than the largest rank of a cut); 0 where even chi 1
 * exceeds it. */
int64_t shape_chi(const struct mpo_shape *shape, int64_t budget);

/* Different shapes worth trying for a matrix [out, in] with n_site sites, the matrix grouping (or the nearest to it)
 * first; returns how many (1 or more). Primes leave sites of size 1. */
int shape_candidates(int64_t out, int64_t in, int n_site, struct mpo_shape candidate[SHAPE_CANDIDATES]);

#endif
