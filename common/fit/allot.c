/* allot.c - chooses settings. */
#include "fit/allot.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

double allot_relative(const struct curve *curve, const struct curve_point *point)
{
    return curve->norm > 0 ? point->error / curve->norm : 0;
}

double allot_loss(double relative)
{
    const double most = 0.99;

    return relative <= most ? -log1p(-relative) : -log1p(-most) + (relative - most) / (1 - most);
}

static int64_t cost_of(const struct allotment *a, const struct curve_point *point)
{
    return a->budget.unit == ALLOT_PART ? point->parameters : point->bytes;
}

static double error_of(const struct allot_matrix *matrix, int point)
{
    return matrix->weight * allot_loss(allot_relative(matrix->curve, &matrix->point[point]));
}

/* Bytes and numbers can order settings differently: those of the curve are put into the order of their cost. */
static void sort_points(const struct allotment *a, struct allot_matrix *matrix)
{
    for (int i = 1; i < matrix->n_point; i++) {
        struct curve_point point = matrix->point[i];
        int at = i;

        for (; at > 0; at--) {
            const struct curve_point *before = &matrix->point[at - 1];
            int64_t less = cost_of(a, &point) - cost_of(a, before);

            if (less > 0 || (!less && point.error >= before->error))
                break;
            matrix->point[at] = *before;
        }
        matrix->point[at] = point;
    }
}

static bool has_kept(const struct curve *curve)
{
    for (int i = 0; i < curve->n_point; i++)
        if (!*curve->point[i].plan)
            return true;
    return false;
}

static int add_matrix(struct allotment *a, const struct curve *curve, const struct allot_rule *rule, int n_rule)
{
    struct allot_matrix *matrix = &a->matrix[a->n_matrix++];
    struct curve_point kept;

    *matrix = (struct allot_matrix){.curve = curve, .weight = 1, .chosen = -1};
    matrix->point = xmallocarray((size_t)curve->n_point + 1, sizeof *matrix->point);
    for (int i = 0; i < curve->n_point; i++)
        if (allot_allows(rule, n_rule, curve, &curve->point[i]))
            matrix->point[matrix->n_point++] = curve->point[i];
    if (!has_kept(curve) && curve_kept(curve, &kept) && allot_allows(rule, n_rule, curve, &kept))
        matrix->point[matrix->n_point++] = kept;
    if (!matrix->n_point)
        return fail(EX_DATAERR, "'%s': floors and ceilings leave none of its %d settings", curve->name,
                    curve->n_point);
    sort_points(a, matrix);
    return EX_OK;
}

static int check_rules(const struct curves *curves, const struct allot_rule *rule, int n_rule)
{
    for (int i = 0; i < n_rule; i++) {
        bool matches = false;

        for (int c = 0; c < curves->n_curve && !matches; c++)
            matches = !curves->curve[c].fixed && !fnmatch(rule[i].glob, curves->curve[c].name, 0);
        if (!matches)
            return fail(EX_DATAERR, "the %s for '%s' is for no matrix of the curves",
                        rule[i].ceiling ? "ceiling" : "floor", rule[i].glob);
    }
    return EX_OK;
}

/* Sums that later ones stay below: so that none of these can overflow. */
static int check_sums(const struct allotment *a, const struct curves *curves)
{
    int64_t bytes = 0, parameters = 0, original = 0;
    bool good = true;

    for (int c = 0; c < curves->n_curve && good; c++) {
        const struct curve *curve = &curves->curve[c];
        struct curve_point most;

        curve_kept(curve, &most);
        for (int i = 0; i < curve->n_point; i++) {
            most.bytes = most.bytes > curve->point[i].bytes ? most.bytes : curve->point[i].bytes;
            most.parameters = most.parameters > curve->point[i].parameters ? most.parameters
                                                                           : curve->point[i].parameters;
        }
        good = size_add(bytes, most.bytes, &bytes) && size_add(parameters, most.parameters, &parameters)
            && size_add(original, curve->original, &original);
    }
    if (!good)
        return fail(EX_DATAERR, "the sizes in the curves add up to more than 63 bits hold");
    return a->original ? EX_OK : fail(EX_DATAERR, "the matrices of the curves have no parameters");
}

static void set_limit(struct allotment *a)
{
    double original = (double)a->original, amount = a->budget.amount;
    double limit = a->budget.unit == ALLOT_BPW ? amount * original / 8
                 : a->budget.unit == ALLOT_PART ? amount * original / 100 : amount;
    int64_t fixed = a->budget.unit == ALLOT_PART ? a->fixed_parameters : a->fixed_bytes;

    a->limit = (limit < 0x1p62 ? (int64_t)floor(limit) : (int64_t)1 << 62) - fixed;
}

int allotment_begin(struct allotment *a, const struct curves *curves, const struct allot_budget *budget,
                    const struct allot_rule *rule, int n_rule)
{
    struct curve_point kept;
    int rc;

    *a = (struct allotment){.budget = *budget};
    a->matrix = xmallocarray((size_t)curves->n_curve + 1, sizeof *a->matrix);
    rc = check_rules(curves, rule, n_rule);
    for (int c = 0; c < curves->n_curve && !rc; c++) {
        const struct curve *curve = &curves->curve[c];

        if (!curve->fixed) {
            rc = add_matrix(a, curve, rule, n_rule);
        } else if (budget->whole) {
            curve_kept(curve, &kept);
            a->fixed_bytes += kept.bytes;
            a->fixed_parameters += kept.parameters;
        }
        a->original += !curve->fixed || budget->whole ? curve->original : 0;
    }
    if (!rc && !a->n_matrix)
        rc = fail(EX_DATAERR, "no matrix in the curves has settings to choose from");
    if (!rc && !(rc = check_sums(a, curves)))
        set_limit(a);
    return rc;
}

void allotment_free(struct allotment *a)
{
    for (int m = 0; m < a->n_matrix; m++)
        free(a->matrix[m].point);
    free(a->matrix);
    *a = (struct allotment){0};
}

static int64_t chosen_cost(const struct allotment *a)
{
    int64_t sum = 0;

    for (int m = 0; m < a->n_matrix; m++)
        sum += cost_of(a, &a->matrix[m].point[a->matrix[m].chosen]);
    return sum;
}

/* of: what the least is one of */
static int impossible(const struct allotment *a, int64_t least, const char *of)
{
    int64_t fixed = a->budget.unit == ALLOT_PART ? a->fixed_parameters : a->fixed_bytes, all = least + fixed;
    double original = (double)a->original;
    const char *with = a->budget.whole ? " with what stays as it is" : "";

    if (a->budget.unit == ALLOT_BPW)
        return fail(EX_DATAERR, "%gbpw is too little: the least that %s allow%s is %.4fbpw", a->budget.amount, of,
                    with, 8 * (double)all / original);
    if (a->budget.unit == ALLOT_PART)
        return fail(EX_DATAERR, "%g%% is too little: the least that %s allow%s is %.3f%%", a->budget.amount, of,
                    with, 100 * (double)all / original);
    return fail(EX_DATAERR, "%.0f bytes are too little: the least that %s allow%s is %lld bytes",
                a->budget.amount, of, with, (long long)all);
}

/* A step from one point of a matrix's hull to the next: what it costs more, and what error goes for each of these. */
struct step {
    int matrix, to;
    int64_t cost;
    double slope;
};

static double slope(const struct allotment *a, const struct allot_matrix *matrix, int from, int to)
{
    return (error_of(matrix, from) - error_of(matrix, to))
        / (double)(cost_of(a, &matrix->point[to]) - cost_of(a, &matrix->point[from]));
}

/* Appends the steps of a matrix's lower convex hull, steepest first; chooses the point that they begin at. */
static int hull(const struct allotment *a, int number, struct step *step)
{
    struct allot_matrix *matrix = &a->matrix[number];
    int *kept = xmallocarray((size_t)matrix->n_point, sizeof *kept), n = 1;

    kept[0] = 0;                         /* least in cost, and of those in error */
    for (int p = 1; p < matrix->n_point; p++) {
        if (!(error_of(matrix, p) < error_of(matrix, kept[n - 1])))
            continue;                    /* no better than a cheaper one */
        while (n > 1 && slope(a, matrix, kept[n - 2], kept[n - 1]) < slope(a, matrix, kept[n - 1], p))
            n--;
        kept[n++] = p;
    }
    matrix->chosen = kept[0];
    for (int i = 1; i < n; i++)
        step[i - 1] = (struct step){number, kept[i], cost_of(a, &matrix->point[kept[i]])
                                    - cost_of(a, &matrix->point[kept[i - 1]]),
                                    slope(a, matrix, kept[i - 1], kept[i])};
    free(kept);
    return n - 1;
}

static int by_slope(const void *first, const void *second)
{
    const struct step *x = first, *y = second;

    if (x->slope > y->slope || x->slope < y->slope)
        return x->slope > y->slope ? -1 : 1;
    return x->matrix != y->matrix ? x->matrix - y->matrix : x->to - y->to;
}

/* The exchange that saves most error for its cost, of those that cost at most left; false where none saves any. */
static bool best_exchange(const struct allotment *a, int64_t left, struct step *best)
{
    best->slope = 0;
    for (int m = 0; m < a->n_matrix; m++) {
        const struct allot_matrix *matrix = &a->matrix[m];
        int64_t now = cost_of(a, &matrix->point[matrix->chosen]);

        for (int p = 0; p < matrix->n_point; p++) {
            int64_t cost = cost_of(a, &matrix->point[p]) - now;
            double gain = error_of(matrix, matrix->chosen) - error_of(matrix, p);
            double rate = cost > 0 ? gain / (double)cost : INFINITY;

            if (gain > 0 && cost <= left && rate > best->slope)
                *best = (struct step){m, p, cost, rate};
        }
    }
    return best->slope > 0;
}

int allot_least(struct allotment *a)
{
    int64_t left = a->limit;
    size_t points = 0, n = 0;
    struct step *step, exchange;

    for (int m = 0; m < a->n_matrix; m++)
        points += (size_t)a->matrix[m].n_point;
    step = xmallocarray(points, sizeof *step);
    for (int m = 0; m < a->n_matrix; m++)
        n += (size_t)hull(a, m, step + n);
    if ((left -= chosen_cost(a)) < 0) {
        free(step);
        return impossible(a, chosen_cost(a), "the curves");
    }
    qsort(step, n, sizeof *step, by_slope);
    for (size_t i = 0; i < n && step[i].cost <= left; i++) {
        a->matrix[step[i].matrix].chosen = step[i].to;
        left -= step[i].cost;
    }
    while (best_exchange(a, left, &exchange)) {
        a->matrix[exchange.matrix].chosen = exchange.to;
        left -= exchange.cost;
    }
    free(step);
    return EX_OK;
}

static int point_of(const struct allot_matrix *matrix, const char *plan)
{
    for (int p = 0; p < matrix->n_point; p++)
        if (!strcmp(matrix->point[p].plan, plan))
            return p;
    return -1;
}

struct place {
    int64_t block;
    int matrix;
};

static int deeper(const void *first, const void *second)
{
    const struct place *x = first, *y = second;

    return x->block != y->block ? (x->block < y->block) - (x->block > y->block) : x->matrix - y->matrix;
}

int allot_deeper_first(struct allotment *a, const char *plan)
{
    struct place *place = xmallocarray((size_t)a->n_matrix, sizeof *place);
    int rc = EX_OK;
    int64_t cost;

    for (int m = 0; m < a->n_matrix; m++) {
        struct allot_matrix *matrix = &a->matrix[m];

        if (!rc && plan && point_of(matrix, plan) < 0)
            rc = fail(EX_DATAERR, "'%s' has no setting '%s' in the curves", matrix->curve->name, plan);
        matrix->chosen = matrix->n_point - 1;
        place[m].matrix = m;
        record_section(matrix->curve->name, &place[m].block);
    }
    qsort(place, (size_t)a->n_matrix, sizeof *place, deeper);
    cost = chosen_cost(a);
    for (int i = 0; i < a->n_matrix && cost > a->limit && !rc; i++) {
        struct allot_matrix *matrix = &a->matrix[place[i].matrix];

        cost -= cost_of(a, &matrix->point[matrix->chosen]);
        matrix->chosen = plan ? point_of(matrix, plan) : 0;
        cost += cost_of(a, &matrix->point[matrix->chosen]);
    }
    free(place);
    if (!rc && cost > a->limit)
        rc = impossible(a, cost, plan ? "the curves with this setting" : "the curves");
    return rc;
}

struct allot_totals allot_totals(const struct allotment *a)
{
    struct allot_totals totals = {.bytes = a->fixed_bytes, .parameters = a->fixed_parameters};

    for (int m = 0; m < a->n_matrix; m++) {
        const struct allot_matrix *matrix = &a->matrix[m];
        const struct curve_point *point = &matrix->point[matrix->chosen];

        totals.bytes += point->bytes;
        totals.parameters += point->parameters;
        totals.error += allot_relative(matrix->curve, point);
        totals.weighted += error_of(matrix, matrix->chosen);
    }
    totals.bpw = 8 * (double)totals.bytes / (double)a->original;
    totals.percent = 100 * (double)totals.parameters / (double)a->original;
    return totals;
}
