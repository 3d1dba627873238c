/* moments_turn.h - moments in other coordinates. */
#ifndef FIT_MOMENTS_TURN_H
#define FIT_MOMENTS_TURN_H

#include "fit/moments.h"
#include "operator/transform.h"

/* T H T': the moments of T x, where x is cut into pieces of this width and T turns each of them (width n: the whole
 * input; otherwise a divisor of n, and all pieces get the same signs). *turned is the caller's: its packed is to be
 * freed. Costs n^2 floats for the time of it. */
void moments_turn(const struct moments *h, struct transform transform, int64_t width, struct moments *turned);

#endif
