/* difference.h - how far two operators lie apart, measured on the matrices that their stored cores give. */
#ifndef OPERATOR_DIFFERENCE_H
#define OPERATOR_DIFFERENCE_H

#include "operator/operator.h"

struct difference {
    double norm;                 /* |A|_F^2 */
    double squares;              /* |A - B|_F^2 */
    int64_t unequal;             /* elements whose values differ */
    int64_t worst;               /* index of the largest |a - b|, row-major; a NaN on one side is the largest of all */
    float worst_a, worst_b;
};

/* sqrt(squares / norm): the relative Frobenius error; 0 where both are 0, infinite where only the norm is. */
double difference_error(const struct difference *difference);

/* Adds the elements of two f32 arrays, count each, that stand at index first of a tensor; sums in double. */
void difference_add(struct difference *difference, const float *a, const float *b, int64_t count, int64_t first);

/* Adds a part, of a later piece of the same tensor or of another tensor. */
void difference_join(struct difference *sum, const struct difference *part);

/* Two operators of the same size, band by band (see struct contraction). */
struct difference operator_difference(const struct operator *a, const struct operator *b);

/* The same against a reference W [out, in] in f32. */
struct difference operator_difference_from(const float *w, const struct operator *op);

#endif
