/* trellis.h - the codes of a tile that come nearest to given numbers: Viterbi's search over the states of a trellis
 * format (tensor/trellis.h).
 *
 * Sources: Viterbi 1967, IEEE Trans. Inf. Theory 13; trellis-coded quantization, Marcellin and Fischer 1990, IEEE
 * Trans. Commun. 38; tail-biting in two searches, QTIP (Tseng et al. 2024, arXiv:2406.11235), algorithm 4.
 *
 * The search is in 16-bit integers with saturation: costs in units of 2^-10, numbers and values in units of 2^-13, so
 * that all instruction sets give the same codes. A number beyond +-4 counts as +-4 (values reach +-3.98). */
#ifndef COMPUTE_TRELLIS_H
#define COMPUTE_TRELLIS_H

#include "tensor/trellis.h"

struct kernels;

/* The tables of one format: read-only, for any number of threads. About 6 bytes per state. */
struct trellis_search;

/* kernels: NULL, or those to use instead of the best (for tests). */
struct trellis_search *trellis_search_new(struct dtype dtype, const struct kernels *kernels);
void trellis_search_free(struct trellis_search *search);         /* NULL is allowed */

/* Bytes of work space that a search needs, one per thread, at a multiple of 64: 2^(state - bits) times the number of
 * steps, 256 KiB for "t2-12", 8 MiB for "t1-16". */
size_t trellis_search_room(const struct trellis_search *search);

/* state [steps]: those of the tail-biting codes that are (nearly) nearest to x [count], 1 to TRELLIS_WEIGHTS numbers
 * in units of a scale: x = w / scale, against trellis_value() / TRELLIS_ONE, all errors weighing the same. Two
 * searches: one over the numbers about the seam with free ends, which gives the bits that first and last state share,
 * then one over all of them with these bits; of fewer bits than a state has, all codes are tried. 1.5 times 2^state
 * operations per step. */
void trellis_search(const struct trellis_search *search, const float *x, int count, void *room, uint32_t *state);

/* The same with free ends, so that the last states have bits that no tile has room for: what tail-biting is
 * measured against. */
void trellis_search_free_ends(const struct trellis_search *search, const float *x, int count, void *room,
                              uint32_t *state);

#endif
