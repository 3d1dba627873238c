/* mpo-decompose - factor matrices into matrix product operators. */
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "fit/aware.h"
#include "fit/curve.h"
#include "fit/decompose.h"
#include "fit/plan.h"
#include "operator/filter.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_CHI = 1, KEY_KEEP, KEY_TOLERANCE, KEY_SITES, KEY_SHAPE, KEY_FORCE, KEY_EXACT, KEY_PLAN, KEY_MOMENTS,
       KEY_RESIDUAL, KEY_REFERENCE, KEY_CURVES };

enum { SETTINGS = 64 };              /* the most of a curve */

static const char *const limits[] = {"chi", "keep", "tolerance"};    /* in the order of enum mpo_limit */
static const char projections[] = "*_proj.weight";
static char usual[] = "0.05,0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.7,0.8,0.9";

static struct {
    const char *plan_file, *moments_file, *reference;
    const char *shape;           /* as given; NULL: auto */
    int limits, dtype;           /* how many of --chi, --keep, --tolerance were given */
    char *limit;                 /* what the last of these said */
    bool sited, residual, curves;
    struct decomposition how;    /* what holds where no plan says otherwise */
    struct mpo_budget budget[SETTINGS];  /* of curves */
    int n_budget;
    struct plan plan;
} options = {.dtype = 1, .how.sites = 2};

static const struct argp_option table[] = {
    {"chi", KEY_CHI, "N", 0, "bond dimension N; with --shape auto: N (out + in) parameters per matrix", 0},
    {"keep", KEY_KEEP, "R", 0, "the part R of a matrix's parameters, above 0 to 1", 0},
    {"tolerance", KEY_TOLERANCE, "E", 0, "as few parameters as keep the relative error within E: the Frobenius "
     "error, or with --moments the outputs'", 0},
    {"moments", KEY_MOMENTS, "FILE", 0, "what the layers see, from calibrate: outputs are to change least, in place of "
     "weights", 0},
    {"plan", KEY_PLAN, "FILE", 0, "these per weight, from lines `GLOB chi=.. keep=.. tolerance=.. sites=.. shape=.. "
     "dtype=..`; what no line gives one of the first three is left alone", 0},
    {"sites", KEY_SITES, "N", 0, "cores per matrix, 2 to 16 (default: 2)", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "factors per site, out x in: 20x256,640x16; or auto (the default): several are "
     "tried, the least error wins", 0},
    {"dtype", 'd', "TYPE", 0, "of the cores: f32, f16 (the default), bf16", 0},
    {"residual", KEY_RESIDUAL, NULL, 0, "add a term to what is there: a fit of what the reference's matrix is above it",
     0},
    {"reference", KEY_REFERENCE, "DENSE", 0, "of --residual: the model or stream with the matrices as they were", 0},
    {"curves", KEY_CURVES, NULL, 0, "write what each budget would cost and give instead, as JSON lines for allot; "
     "--chi or --keep may then be a list like 0.2,0.4", 0},
    {"exact", KEY_EXACT, NULL, 0, "LAPACK's SVD in double for every cut: slow, and for small matrices", 0},
    {"force", KEY_FORCE, NULL, 0, "also where it saves no bytes, and what is compressed already (multiplied out first)",
     0},
    {0},
};

static void parse_budget(enum mpo_limit limit, const char *value, struct mpo_budget *budget)
{
    budget->limit = limit;
    if (limit == MPO_CHI)
        budget->chi = option_int("--chi", value, 1, 1 << 20);
    else
        budget->part = option_real(limit == MPO_KEEP ? "--keep" : "--tolerance", value, 1e-6, 1);
}

/* One value, or of a curve a list of different ones. */
static void parse_budgets(enum mpo_limit limit, char *values)
{
    char *item;

    while (options.curves && (item = strsep(&values, ","))) {
        struct mpo_budget *budget = &options.budget[options.n_budget];

        if (options.n_budget == SETTINGS)
            die(EX_USAGE, "--%s: more than %d values", limits[limit], SETTINGS);
        parse_budget(limit, item, budget);
        for (int i = 0; i < options.n_budget; i++)
            if (options.budget[i].chi == budget->chi && options.budget[i].part == budget->part)
                die(EX_USAGE, "--%s: %s stands twice", limits[limit], item);
        options.n_budget++;
    }
    if (!options.curves)
        parse_budget(limit, values, &options.how.budget);
}

static void set_shape(const char *value)
{
    options.shape = strcmp(value, "auto") ? value : NULL;
    options.how.shape.n_site = 0;
    if (options.shape && (!shape_parse(value, &options.how.shape) || options.how.shape.n_site < 2))
        die(EX_USAGE, "--shape: '%s' is not auto, and not 2 to %d sites like 20x256,640x16", value, MPO_SITES);
}

static void check_curves(void)
{
    if (options.plan_file || options.how.budget.limit == MPO_TOLERANCE)
        die(EX_USAGE, "--curves tries what --chi or --keep lists: it goes with no --tolerance or --plan");
    if (options.shape || options.sited || options.residual || options.how.budget.exact)
        die(EX_USAGE, "--curves are those of the matrix grouping: it goes with no --shape, --sites, --residual or "
            "--exact");
    if (options.limits > 1)
        die(EX_USAGE, "--curves goes with one of --chi and --keep");
}

static void check_residual(void)
{
    if (options.residual != (options.reference != NULL))
        die(EX_USAGE, "--residual and --reference go together");
    if (options.residual && file_is_stdin(options.reference))
        die(EX_USAGE, "--reference is read in step with the input and can't be standard input");
}

/* Whether any fit draws numbers. */
static bool uses_seed(void)
{
    const struct mpo_shape *shape = &options.how.shape;
    bool matrix = shape->n_site ? aware_is_exact(shape) : options.how.sites == 2;

    return !options.curves && !options.how.budget.exact && (options.plan_file || !options.moments_file || !matrix);
}

static void check_together(void)
{
    check_residual();
    if (options.curves)
        check_curves();
    else if (options.limits + (options.plan_file != NULL) != 1)
        die(EX_USAGE, "exactly one of --chi, --keep, --tolerance and --plan says how much to keep");
    if (options.sited && options.shape && options.how.sites != options.how.shape.n_site)
        die(EX_USAGE, "--shape %s has %d sites, --sites says %d", options.shape, options.how.shape.n_site,
            options.how.sites);
    if (options.moments_file && options.how.budget.exact)
        die(EX_USAGE, "--exact is for fits without --moments");
    if (file_is_stdin(common_options.input) + (options.moments_file && file_is_stdin(options.moments_file))
        + (options.plan_file && file_is_stdin(options.plan_file)) > 1)
        die(EX_USAGE, "only one of the input, --moments and --plan can be standard input");
    if (common_options.seed && !uses_seed())
        die(EX_USAGE, "--seed: a fit by moments in the matrix grouping, LAPACK's and a curve draw no numbers");
    if (options.limit)
        parse_budgets(options.how.budget.limit, options.limit);
    else if (options.curves)
        parse_budgets(MPO_KEEP, usual);
}

static error_t parse_more(int key, char *value)
{
    switch (key) {
    case KEY_MOMENTS:
        options.moments_file = value;
        return 0;
    case KEY_RESIDUAL:
        options.residual = true;
        return 0;
    case KEY_REFERENCE:
        options.reference = value;
        return 0;
    case KEY_CURVES:
        options.curves = true;
        return 0;
    case 'd':
        options.dtype = option_word("--dtype", value, dtype_float_names);
        return 0;
    case KEY_EXACT:
        options.how.budget.exact = true;
        return 0;
    case KEY_FORCE:
        options.how.force = true;
        return 0;
    case ARGP_KEY_END:
        check_together();
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case KEY_CHI:
    case KEY_KEEP:
    case KEY_TOLERANCE:
        options.limits++;
        options.limit = value;
        options.how.budget.limit = (enum mpo_limit)(key - KEY_CHI);
        return 0;
    case KEY_PLAN:
        options.plan_file = value;
        return 0;
    case KEY_SITES:
        options.how.sites = (int)option_int("--sites", value, 2, MPO_SITES);
        options.sited = true;
        return 0;
    case KEY_SHAPE:
        set_shape(value);
        return 0;
    default:
        return parse_more(key, value);
    }
}

static const struct program program = {
    .name = "mpo-decompose",
    .operands = "[MODEL]",
    .purpose = "Factor the matrices of a tensor stream into matrix product operators.",
    .details = "Reads MODEL (a directory, a GGUF file or a stream) or standard input. Each attention and MLP matrix "
               "(*_proj.weight of the blocks; others by --match) becomes a chain of cores by "
               "successive truncated SVDs, with --moments so that the layers' outputs change least; what that would "
               "not make smaller stays as it is. Errors are those of the cores as stored.",
    .example = "  extract-layer model | mpo-decompose --chi 16 -o cores.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_SEED | OPTION_INPUT | OPTION_MATCH,
};

static const struct plan_line *line_of(const char *name)
{
    const struct plan_line *line = plan_find(&options.plan, name);

    return line && (line->chi || line->keep > 0 || line->tolerance > 0) ? line : NULL;
}

static bool wants(void *context, const struct record *record)
{
    int64_t block;

    (void)context;
    if (options.plan_file)
        return line_of(record->name) != NULL && globs_match(&common_options.match, record->name);
    if (common_options.match.count)
        return globs_match(&common_options.match, record->name);
    return record_section(record->name, &block) == SECTION_BLOCKS && !fnmatch(projections, record->name, 0);
}

/* The options, and what the weight's line says instead. */
static struct decomposition how_for(const char *name)
{
    struct decomposition how = options.how;
    const struct plan_line *line = options.plan_file ? line_of(name) : NULL;

    if (!line)
        return how;
    how.budget.limit = line->chi ? MPO_CHI : line->keep > 0 ? MPO_KEEP : MPO_TOLERANCE;
    how.budget.chi = line->chi;
    how.budget.part = line->keep > 0 ? line->keep : line->tolerance;
    if (line->has_dtype)
        how.dtype = line->dtype;
    if (line->sites) {                       /* a shape of the command line has its own number of sites */
        how.sites = line->sites;
        how.shape.n_site = 0;
    }
    if (line->shape && !shape_parse(line->shape, &how.shape))
        how.shape.n_site = 0;                /* auto */
    return how;
}

/* The dense model beside the input. */
struct reference {
    struct source source;
    struct record record;        /* the next one, not yet looked at */
    bool begun;
};

/* What there is beside the input, and what became of all matrices. */
struct work {
    struct moments_file *moments;
    struct reference reference;
    struct output output;        /* of curves */
    int64_t matrices, done, as_matrix, sequential, parameters, stored;
    struct difference difference;
    double worst, error, norm, worst_weighted;
};

/* Goes forward to the matrix of this name; both are in the same order. */
static int find_reference(struct reference *from, const struct operator *op)
{
    struct record wanted = {.kind = RECORD_TENSOR, .name = op->name, .n_term = 1, .n_site = 1};
    int rc = EX_OK;

    while (!rc && (!from->begun || (from->record.kind != RECORD_END && record_compare(&from->record, &wanted) < 0))) {
        from->begun = true;
        record_free(&from->record);
        rc = source_next(&from->source, &from->record);
    }
    if (rc)
        return rc;
    if (from->record.kind == RECORD_END || strcmp(from->record.name, op->name) != 0 || !operator_begins(&from->record))
        return fail(EX_DATAERR, "'%s' has no matrix '%s'", from->source.name, op->name);
    return EX_OK;
}

/* *dense [out, in], the caller's. */
static int read_reference(struct reference *from, const struct operator *op, float **dense)
{
    struct operator whole;
    int rc = find_reference(from, op);

    if (rc || (rc = operator_read(&from->source, &from->record, &whole)))
        return rc;
    from->begun = false;
    if (whole.out != op->out || whole.in != op->in)
        rc = fail(EX_DATAERR, "'%s': %lld x %lld in '%s', expected %lld x %lld", op->name, (long long)whole.out,
                  (long long)whole.in, from->source.name, (long long)op->out, (long long)op->in);
    if (!rc) {
        *dense = xaligned((size_t)(op->out * op->in), sizeof **dense);
        operator_dense(&whole, *dense);
    }
    operator_free(&whole);
    return rc;
}

static int add_residual(struct work *work, struct operator *op, const struct decomposition *how,
                        struct decomposed *result)
{
    float *dense;
    int rc = read_reference(&work->reference, op, &dense);

    if (rc)
        return rc;
    rc = decompose_residual(op, dense, how, result);
    free(dense);
    return rc;
}

static void count(struct work *work, const struct operator *op, const struct decomposed *result)
{
    work->done++;
    work->as_matrix += result->shape.n_site == 2 && result->shape.in[0] == 1 && result->shape.out[1] == 1;
    work->sequential += result->sequential;
    work->parameters += op->out * op->in;
    work->stored += result->parameters;
    work->error += result->error;
    work->norm += result->norm;
    work->worst_weighted = fmax(work->worst_weighted, result->norm > 0 ? sqrt(result->error / result->norm) : 0);
    difference_join(&work->difference, &result->difference);
    work->worst = fmax(work->worst, difference_error(&result->difference));
}

static int change(void *context, struct operator *op)
{
    struct work *work = context;
    struct decomposition how = how_for(op->name);
    struct decomposed result;
    int rc = work->moments ? moments_find(work->moments, op->name, op->in, &how.moments) : EX_OK;

    work->matrices++;
    if (rc)
        return rc;
    if (options.curves)
        return decompose_curve(op, &how, options.budget, options.n_budget, &work->output);
    rc = options.residual ? add_residual(work, op, &how, &result) : decompose(op, &how, &result);
    if (!rc && result.done)
        count(work, op, &result);
    return rc;
}

static int leave(void *context, const struct record *record)
{
    struct work *work = context;

    return curve_write_fixed(&work->output, record);
}

static void report(const struct work *work)
{
    struct text more = {0};

    if (work->moments)
        text_format(&more, ", of the layers' outputs %.4f, at most %.4f",
                    work->norm > 0 ? sqrt(work->error / work->norm) : 0, work->worst_weighted);
    if (work->sequential)
        text_format(&more, ", %lld by the sequential target", (long long)work->sequential);
    if (!work->matrices)
        note("no weight matches: nothing was %s", options.curves ? "tried" : "decomposed");
    else if (work->done)
        note("%lld of %lld matrices %s, %lld of them as low-rank matrices: %lld parameters of %lld, relative "
             "error %.4f in all, at most %.4f%s", (long long)work->done, (long long)work->matrices,
             options.residual ? "given a term" : "decomposed", (long long)work->as_matrix, (long long)work->stored,
             (long long)work->parameters, difference_error(&work->difference), work->worst, more.data ? more.data : "");
    text_free(&more);
}

/* The last step of what a file went through tells it from others. */
static struct json *reference_history(const struct source *source)
{
    struct json *about = json_make_object(), *history = source_history(source);
    size_t steps = json_count(history);
    char *name = file_basename(options.reference);

    json_put(about, "name", json_make_string(name));
    json_put(about, "history", steps ? json_clone(json_item(history, steps - 1)) : json_make_null());
    json_drop(history);
    free(name);
    return about;
}

static struct json *history_options(const struct work *work)
{
    struct json *history = json_make_object();
    const struct mpo_budget *budget = &options.how.budget;

    if (options.plan_file)
        json_put(history, "plan", plan_history(&options.plan));
    else
        json_put(history, limits[budget->limit],
                 budget->limit == MPO_CHI ? json_make_int(budget->chi) : json_make_real(budget->part));
    json_put(history, "shape", json_make_string(options.shape ? options.shape : "auto"));
    if (!options.shape)
        json_put(history, "sites", json_make_int(options.how.sites));
    json_put(history, "dtype", json_make_string(dtype_float_names[options.dtype]));
    if (budget->exact)
        json_put(history, "exact", json_make_bool(true));
    if (options.how.force)
        json_put(history, "force", json_make_bool(true));
    if (work->moments)
        json_put(history, "moments", moments_history(work->moments));
    if (options.residual)
        json_put(history, "reference", reference_history(&work->reference.source));
    if (uses_seed())
        json_put(history, "seed", json_make_int((int64_t)budget->seed));
    return history;
}

static int open_all(struct work *work)
{
    int rc = EX_OK;

    if (options.plan_file)
        rc = plan_read(&options.plan, options.plan_file);
    if (!rc && options.moments_file)
        rc = moments_open(&work->moments, options.moments_file);
    if (!rc && options.residual)
        rc = source_open(&work->reference.source, options.reference);
    if (!rc && options.curves)
        rc = output_open(&work->output, common_options.output, false);
    return rc;
}

static void close_all(struct work *work)
{
    record_free(&work->reference.record);
    if (options.residual)
        source_close(&work->reference.source);
    moments_close(work->moments);
    output_close(&work->output);
    plan_free(&options.plan);
}

int main(int argc, char **argv)
{
    struct work work = {.reference.source.reader.fd = -1, .output.fd = -1};
    int rc;

    options_parse(&program, argc, argv);
    dtype_parse(dtype_float_names[options.dtype], &options.how.dtype);
    options.how.budget.seed = common_options.seed;
    rc = open_all(&work);
    if (!rc)
        rc = filter_run(&(struct filter){.program = program.name, .doing = options.curves ? "trying" : "decomposing",
                                         .options = history_options(&work), .wants = wants, .change = change,
                                         .leave = options.curves ? leave : NULL, .context = &work});
    if (!rc && options.curves)
        rc = output_commit(&work.output);
    if (!rc)
        report(&work);
    close_all(&work);
    return rc;
}
