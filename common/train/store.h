/* store.h - what was trained, back into the operators and vectors of the model. */
#ifndef TRAIN_STORE_H
#define TRAIN_STORE_H

#include "operator/operator.h"
#include "train/parameters.h"

/* Whether anything of the weight of this name was trained. */
bool store_wants(const struct parameters *parameters, const char *name);

/* Puts the trained numbers into an operator as it was when the network was loaded: plain cores are rounded to the
 * dtype they have, or to dtype where that isn't NULL; packed cores whose values were trained are rounded to nearest in
 * their format (codes along a trellis are searched anew), as `quantize` rounds them, or likewise become dtype. Where
 * scales and minima were trained, codes stay and these are rounded to what the format stores, whatever dtype is.
 * EX_DATAERR after a message where a number isn't finite or overflows. */
int store_operator(const struct parameters *parameters, struct operator *op, const struct dtype *dtype);

/* The same for a norm. */
int store_vector(const struct parameters *parameters, const char *name, struct tensor *tensor,
                 const struct dtype *dtype);

#endif
