/* reorder.h - the index permutation that turns a matrix into the tensor of its sites. */
#ifndef FIT_REORDER_H
#define FIT_REORDER_H

#include "fit/shape.h"

/* W[(o1 o2 ...), (i1 i2 ...)] becomes [(o1 i1), (o2 i2), ...], row-major, in place, by moves only.
 * w has prod out * prod in elements. Temporary memory: a quarter of w at most, save where o1 is below 8: then w / o1
 * (2 or more), or for o1 = 1 one bit per element with one thread at work (of o1 = i1 = 1 the next site counts). */
void reorder_sites(float *w, const struct mpo_shape *shape);

/* The way back. */
void reorder_matrix(float *w, const struct mpo_shape *shape);

#endif
