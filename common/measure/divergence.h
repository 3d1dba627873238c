/* divergence.h - sums over windows of what a model says of the tokens beside what a reference says. */
#ifndef MEASURE_DIVERGENCE_H
#define MEASURE_DIVERGENCE_H

#include "measure/windows.h"

enum { MODEL_NLL, REFERENCE_NLL, DIFFERENCE, KL, AGREEMENT, N_SUMS };

struct divergence {
    struct subject *model;       /* borrowed */
    struct sums sums[N_SUMS];    /* by group of windows */
    double *each;                /* KL of every predicted token */
    int64_t done;                /* tokens */
};

/* Of count models (their .model is set), whose hidden states are there as the reference's are: *divergence is begun
 * here, the caller's to end in any case. The reference's logits are computed once for all. Nats. EX_IOERR; EX_DATAERR
 * where logits aren't finite. */
int divergence_score(struct subject *reference, const struct windows *windows, struct divergence *divergence,
                     int count);
void divergence_end(struct divergence *divergence);      /* {0} is allowed */

/* exp(mean of the differences of nlls), and its standard error by the delta method (NaN of one window). */
double divergence_ratio(const struct divergence *divergence, double *error);

#endif
