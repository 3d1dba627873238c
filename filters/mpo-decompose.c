/* mpo-decompose - factor matrices into matrix product operators. */
#include "base/error.h"
#include "base/json.h"
#include "base/options.h"
#include "fit/decompose.h"
#include "fit/plan.h"
#include "operator/filter.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

enum { KEY_CHI = 1, KEY_KEEP, KEY_TOLERANCE, KEY_SITES, KEY_SHAPE, KEY_FORCE, KEY_EXACT, KEY_PLAN };

static const char *const limits[] = {"chi", "keep", "tolerance"};    /* in the order of enum mpo_limit */
static const char projections[] = "*_proj.weight";

static struct {
    const char *plan_file;
    const char *shape;           /* as given; NULL: auto */
    int limits, dtype;           /* how many of --chi, --keep, --tolerance were given */
    bool sited;
    struct decomposition how;    /* what holds where no plan says otherwise */
    struct plan plan;
} options = {.dtype = 1, .how.sites = 2};

static const struct argp_option table[] = {
    {"chi", KEY_CHI, "N", 0, "bond dimension N; with --shape auto: N (out + in) parameters per matrix", 0},
    {"keep", KEY_KEEP, "R", 0, "the part R of a matrix's parameters, above 0 to 1", 0},
    {"tolerance", KEY_TOLERANCE, "E", 0, "as few parameters as keep the relative Frobenius error within E", 0},
    {"plan", KEY_PLAN, "FILE", 0, "these per weight, from lines `GLOB chi=.. keep=.. tolerance=.. sites=.. shape=.. "
     "dtype=..`; what no line gives one of the first three is left alone", 0},
    {"sites", KEY_SITES, "N", 0, "cores per matrix, 2 to 16 (default: 2)", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "factors per site, out x in: 20x256,640x16; or auto (the default): several are "
     "tried, the least error wins", 0},
    {"dtype", 'd', "TYPE", 0, "of the cores: f32, f16 (the default), bf16", 0},
    {"exact", KEY_EXACT, NULL, 0, "LAPACK's SVD in double for every cut: slow, and for small matrices", 0},
    {"force", KEY_FORCE, NULL, 0, "also where it saves no bytes, and what is compressed already (multiplied out first)",
     0},
    {0},
};

static void set_limit(enum mpo_limit limit, const char *value)
{
    options.limits++;
    options.how.budget.limit = limit;
    if (limit == MPO_CHI)
        options.how.budget.chi = option_int("--chi", value, 1, 1 << 20);
    else
        options.how.budget.part = option_real(limit == MPO_KEEP ? "--keep" : "--tolerance", value, 1e-6, 1);
}

static void set_shape(const char *value)
{
    options.shape = strcmp(value, "auto") ? value : NULL;
    options.how.shape.n_site = 0;
    if (options.shape && (!shape_parse(value, &options.how.shape) || options.how.shape.n_site < 2))
        die(EX_USAGE, "--shape: '%s' is not auto, and not 2 to %d sites like 20x256,640x16", value, MPO_SITES);
}

static void check_together(void)
{
    if (options.limits + (options.plan_file != NULL) != 1)
        die(EX_USAGE, "exactly one of --chi, --keep, --tolerance and --plan says how much to keep");
    if (options.plan_file && common_options.match.count)
        die(EX_USAGE, "--plan says which weights: it goes with no --match");
    if (options.sited && options.shape && options.how.sites != options.how.shape.n_site)
        die(EX_USAGE, "--shape %s has %d sites, --sites says %d", options.shape, options.how.shape.n_site,
            options.how.sites);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case KEY_CHI:
    case KEY_KEEP:
    case KEY_TOLERANCE:
        set_limit((enum mpo_limit)(key - KEY_CHI), value);
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

static const struct program program = {
    .name = "mpo-decompose",
    .operands = "[MODEL]",
    .purpose = "Factor the matrices of a tensor stream into matrix product operators.",
    .details = "Reads MODEL (a directory, a GGUF file or a stream) or standard input. Each attention and MLP matrix "
               "(*_proj.weight of the blocks; others by --match) becomes a chain of cores by "
               "successive truncated SVDs; what that would not make smaller stays as it "
               "is. Errors are those of the cores as stored.",
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
        return line_of(record->name) != NULL;
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

/* What became of all matrices. */
struct sums {
    int64_t matrices, done, as_matrix, parameters, stored;
    struct difference difference;
    double worst;
};

static int change(void *context, struct operator *op)
{
    struct sums *sums = context;
    struct decomposition how = how_for(op->name);
    struct decomposed result;
    int rc = decompose(op, &how, &result);

    sums->matrices++;
    if (rc || !result.done)
        return rc;
    sums->done++;
    sums->as_matrix += result.shape.n_site == 2 && result.shape.in[0] == 1 && result.shape.out[1] == 1;
    sums->parameters += op->out * op->in;
    sums->stored += result.parameters;
    difference_join(&sums->difference, &result.difference);
    sums->worst = fmax(sums->worst, difference_error(&result.difference));
    return EX_OK;
}

static void report(const struct sums *sums)
{
    if (!sums->matrices)
        note("no weight matches: nothing was decomposed");
    else if (sums->done)
        note("%lld of %lld matrices decomposed, %lld of them as low-rank matrices: %lld parameters of %lld, relative "
             "error %.4f in all, at most %.4f", (long long)sums->done, (long long)sums->matrices,
             (long long)sums->as_matrix, (long long)sums->stored, (long long)sums->parameters,
             difference_error(&sums->difference), sums->worst);
}

static struct json *history_options(void)
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
    json_put(history, "seed", json_make_int((int64_t)budget->seed));
    return history;
}

int main(int argc, char **argv)
{
    struct sums sums = {0};
    int rc = EX_OK;

    options_parse(&program, argc, argv);
    dtype_parse(dtype_float_names[options.dtype], &options.how.dtype);
    options.how.budget.seed = common_options.seed;
    if (options.plan_file && (rc = plan_read(&options.plan, options.plan_file)))
        return rc;
    rc = filter_run(&(struct filter){.program = program.name, .doing = "decomposing",
                                     .options = history_options(), .wants = wants, .change = change, .context = &sums});
    if (!rc)
        report(&sums);
    plan_free(&options.plan);
    return rc;
}
