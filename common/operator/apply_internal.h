/* apply_internal.h - what apply*.c share: operators on a device, and general chains with their plan.
 *
 * A chain that is neither a matrix nor low rank is applied in one of two ways. A sweep contracts the input core by
 * core, from the left or from the right. Rebuilding splits the chain in two, multiplies the cores of either part, and
 * with these makes W tile by tile, each used for all columns at once and dropped. */
#ifndef OPERATOR_APPLY_INTERNAL_H
#define OPERATOR_APPLY_INTERNAL_H

#include "operator/apply.h"

/* The axes of a core as it is stored. */
enum { LEFT, OUT, IN, RIGHT };

struct site {
    int64_t size[4];             /* by axis */
    float *w;                    /* on the device, axes in the order that site_order() says */
    float *gradient;             /* in the same order; borrowed; NULL: not wanted */
};

/* Multiply-adds, and floats that are moved besides. */
struct cost {
    double work, moved;
};

/* How W is rebuilt: cores 0..split-1 and split..n_site-1, each part cut into slices of this many o's of its first core.
 * A left part that is small enough is made once for all slices of the right one. */
struct rebuilding {
    int split;
    int64_t left, right;
    bool left_whole;
    struct cost cost;            /* of W, before any column */
};

struct sites {
    const struct device *device;
    int n_site;
    struct site *site;
    int64_t out, in;
    bool from_left;              /* the cheaper direction, for which the cores are laid out */
    struct cost sweep;           /* of one column */
    int64_t state;               /* floats of the largest state of one column on the way */
    struct rebuilding rebuilding;
    int64_t rebuild_from;        /* columns from which on rebuilding costs less; INT64_MAX: none */
};

enum term_kind { TERM_MATRIX, TERM_LOW_RANK, TERM_CHAIN };

struct term {
    enum term_kind kind;
    struct placed *w[2];         /* the matrix; or [out, chi] and [chi, in] */
    struct sites sites;          /* of TERM_CHAIN */
    unsigned train[2];           /* what is trained of w[]; of a chain's cores train[0] */
    float *gradient[2][NUMBERS]; /* of w[]; borrowed; NULL: not wanted */
};

struct applied {
    const struct device *device;
    int64_t out, in;
    int n_term;                  /* terms without numbers are left out */
    struct term *term;
    struct transform input, output;
    struct hadamard turn_in, turn_out;           /* these on the device */
};

/* What moving a float costs, in multiply-adds: measured on AVX-512 with one thread, some 50 against 1.2 per ns. */
enum { MOVE = 32 };

static inline double cost_total(struct cost cost)
{
    return cost.work + MOVE * cost.moved;
}

/* The product of an axis's sizes over sites from..to-1. */
int64_t sites_product(const struct sites *sites, int axis, int from, int to);

/* Moves the chain's cores onto the device and plans. */
struct sites sites_place(const struct device *device, const struct chain *chain);
void sites_free(struct sites *sites);

/* Lays the cores out for sweeps from the other side. */
void sites_turn(struct sites *sites);

/* y [n, out] = or += x W'. */
void sites_apply(const struct sites *sites, float *y, int64_t stride, bool add, const float *x, int64_t x_stride,
                 int64_t n);

/* The backward pass: dx [n, in] = or += dy W, and what dy and x give for the cores is added to their gradients. */
void sites_back(const struct sites *sites, const float *dy, int64_t dy_stride, const float *x, int64_t x_stride,
                int64_t n, float *dx, bool add);

/* Brings those that share the input transform of the first one to the front, of these those with an output transform
 * to the end: an order that depends on the transforms alone. Returns how many they are. */
int apply_alike(struct application *first, int count);

/* Floats between the factors of all low-rank terms, of one column. */
int64_t apply_hidden(const struct application *application, int count);

/* Multiply-adds of one column when n are done at once. */
double sites_work(const struct sites *sites, int64_t n);

/* to = o's first..first+count-1 of a core, axes in the order wanted. */
void site_slice(const struct sites *sites, int site, int64_t first, int64_t count, const int *order, float *to);

/* to = numbers in the order of a site's w, axes as the core has them. */
void site_stored(const struct sites *sites, int site, float *to, const float *from);

/* [(o i right), left]: what a row of states [.., left] is multiplied with. */
extern const int order_append[4];

/* The cheapest way to rebuild; cost.work is infinite where none keeps its workspace small. */
struct rebuilding rebuilding_plan(const struct sites *sites);
struct rebuilding rebuilding_at(const struct sites *sites, int split);

void rebuild(const struct sites *sites, float *y, int64_t stride, bool add, const float *x, int64_t x_stride,
             int64_t n);

#endif
