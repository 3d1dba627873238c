/* allot - one setting per matrix, from error curves, under a budget: a plan. */
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "fit/allot.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_BUDGET = 1, KEY_WHOLE, KEY_SENSITIVITY, KEY_WEIGHT, KEY_FLOOR, KEY_CEILING, KEY_PLAN, KEY_SETTING,
       KEY_JSON };

/* The CompactifAI seed's fixed tiers: pipelines/plans/seed.plan. */
static const char seed[] =
    "# The seed strategy: MLP at chi 100, queries and outputs at 50, keys and values at 32; embeddings stay as they "
    "are.\n"
    "*.mlp.*_proj.weight           chi=100\n"
    "*.self_attn.[qo]_proj.weight  chi=50\n"
    "*.self_attn.[kv]_proj.weight  chi=32\n";

static const char *const plans[] = {"least", "deeper-first", "seed", NULL};
enum { LEAST, DEEPER_FIRST, SEED };

static const char *const weights[] = {"relative", "size", NULL};
enum { RELATIVE, SIZE };

static struct {
    struct allot_budget budget;
    const char *budget_text, *sensitivity, *setting, *json;
    int plan, weight;
    bool weighted;
    struct allot_rule *rule;
    int n_rule;
    const char **curves;
    int n_curves;
} options;

static const struct argp_option table[] = {
    {"budget", KEY_BUDGET, "LIMIT", 0, "bits of payload per parameter of the original (2.5bpw), numbers stored per "
     "parameter (30%), or bytes of payload (60MB; B, KB, MB, GB, KiB, MiB, GiB): never exceeded", 0},
    {"whole", KEY_WHOLE, NULL, 0, "the limit is for all tensors in the curves, not only for the matrices that have "
     "settings", 0},
    {"sensitivity", KEY_SENSITIVITY, "FILE", 0, "weigh the error of each matrix by the KL divergence that `evaluate "
     "sensitivity` measured for it", 0},
    {"weight", KEY_WEIGHT, "KIND", 0, "weigh the relative error of each matrix alike (relative, the default) or by its "
     "number of parameters (size)", 0},
    {"floor", KEY_FLOOR, "GLOB=LEAST", 0, "matrices that match get at least this: 2.5bpw, 30%, or a value of a plan's "
     "key that has an order, as in 'GLOB=bits=3' and 'GLOB=rotate=full'; repeatable", 0},
    {"ceiling", KEY_CEILING, "GLOB=MOST", 0, "and at most this; repeatable", 0},
    {"plan", KEY_PLAN, "NAME", 0, "least (the default): least error; deeper-first: matrices get their smallest setting "
     "from the last block backwards until the limit holds; seed: fixed tiers of chi, needs neither curves nor budget",
     0},
    {"setting", KEY_SETTING, "PLAN", 0, "with deeper-first: this setting instead of the smallest: 'bits=3 group=64'",
     0},
    {"json", KEY_JSON, "FILE", 0, "write the totals there, too", 0},
    {0},
};

static void add_rule(const char *value, bool ceiling)
{
    options.rule = xreallocarray(options.rule, (size_t)options.n_rule + 1, sizeof *options.rule);
    if (!allot_rule_parse(value, ceiling, &options.rule[options.n_rule++]))
        die(EX_USAGE, "%s: '%s' is not GLOB=2.5bpw, GLOB=30%% or GLOB=KEY=VALUE with a number of a plan's key",
            ceiling ? "--ceiling" : "--floor", value);
}

static bool curves_are_stdin(void)
{
    bool are = !options.n_curves;

    for (int i = 0; i < options.n_curves; i++)
        are = are || file_is_stdin(options.curves[i]);
    return are;
}

static void check_files(void)
{
    if (options.n_curves > 1 && curves_are_stdin())
        die(EX_USAGE, "standard input is read once, and here with other files");
    if (options.sensitivity && file_is_stdin(options.sensitivity) && curves_are_stdin())
        die(EX_USAGE, "the curves and --sensitivity can't both be standard input");
    if (options.json && file_same(options.json, common_options.output))
        die(EX_USAGE, "--json and the plan can't both be written to %s",
            file_is_stdin(options.json) ? "standard output" : options.json);
}

static void check_together(void)
{
    if (options.plan == SEED) {
        if (options.budget_text || options.n_curves || options.n_rule || options.weighted || options.sensitivity
            || options.setting || options.json || options.budget.whole)
            die(EX_USAGE, "--plan seed is always the same: it goes with --output only");
        return;
    }
    if (!options.budget_text)
        die(EX_USAGE, "--budget is missing: 2.5bpw, 30%% or 60MB, say");
    if (options.setting && options.plan != DEEPER_FIRST)
        die(EX_USAGE, "--setting goes with --plan deeper-first only");
    if (options.plan == DEEPER_FIRST && (options.weighted || options.sensitivity))
        die(EX_USAGE, "--plan deeper-first looks at no error: it goes with no --weight or --sensitivity");
    if (options.weighted && options.sensitivity)
        die(EX_USAGE, "--weight and --sensitivity exclude each other");
    check_files();
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case KEY_BUDGET:
        options.budget_text = value;
        if (!allot_budget_parse(value, &options.budget))
            die(EX_USAGE, "--budget: '%s' is not like 2.5bpw, 30%% or 60MB (B, KB, MB, GB, KiB, MiB, GiB)", value);
        return 0;
    case KEY_WHOLE:
        return options.budget.whole = true, 0;
    case KEY_SENSITIVITY:
        return options.sensitivity = value, 0;
    case KEY_WEIGHT:
        options.weight = option_word("--weight", value, weights);
        return options.weighted = true, 0;
    case KEY_FLOOR:
    case KEY_CEILING:
        return add_rule(value, key == KEY_CEILING), 0;
    case KEY_PLAN:
        return options.plan = option_word("--plan", value, plans), 0;
    case KEY_SETTING:
        return options.setting = value, 0;
    case KEY_JSON:
        return options.json = value, 0;
    case ARGP_KEY_ARG:
        options.curves = xreallocarray(options.curves, (size_t)options.n_curves + 1, sizeof *options.curves);
        options.curves[options.n_curves++] = value;
        return 0;
    case ARGP_KEY_END:
        return check_together(), 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "allot",
    .operands = "[CURVES...]",
    .purpose = "Choose one setting for each matrix, from error curves, under a budget: a plan.",
    .details = "CURVES are what mpo-decompose --curves and quantize --curves write; several files are taken together, "
               "standard input where there is none. The sum over all matrices of weight * -log(1 - error / norm) becomes "
               "as small as the budget allows. The plan goes to mpo-decompose --plan and quantize --plan.",
    .example = "  quantize model --curves --bits 2,3,4 --group 32,64 -o curves\n"
               "  allot --budget 3bpw curves -o plan\n"
               "  quantize model --plan plan -o packed.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT,
};

/* How many matrices got a setting. */
struct count {
    const char *plan;
    int matrices;
};

static int by_plan(const void *a, const void *b)
{
    return strcmp(((const struct count *)a)->plan, ((const struct count *)b)->plan);
}

static int by_matrices(const void *a, const void *b)
{
    const struct count *x = a, *y = b;

    return x->matrices != y->matrices ? y->matrices - x->matrices : strcmp(x->plan, y->plan);
}

/* The settings, most frequent first; the caller frees. */
static struct count *count_settings(const struct allotment *a, int *n)
{
    struct count *count = xmallocarray((size_t)a->n_matrix, sizeof *count);

    for (int m = 0; m < a->n_matrix; m++)
        count[m] = (struct count){a->matrix[m].point[a->matrix[m].chosen].plan, 1};
    qsort(count, (size_t)a->n_matrix, sizeof *count, by_plan);
    *n = 0;
    for (int m = 0; m < a->n_matrix; m++)
        if (*n && !strcmp(count[*n - 1].plan, count[m].plan))
            count[*n - 1].matrices++;
        else
            count[(*n)++] = count[m];
    qsort(count, (size_t)*n, sizeof *count, by_matrices);
    return count;
}

enum { TOLD = 10 };              /* settings that are told of without --verbose */

static void tell(const struct allotment *a)
{
    struct allot_totals totals = allot_totals(a);
    struct text text = {0};
    int n, told;
    struct count *count = count_settings(a, &n);

    told = error_verbosity < VERBOSE && n > TOLD ? TOLD : n;
    note("%lld bytes, %.4f bpw, %lld numbers (%.2f%%), sum of relative squared errors %.5g%s",
         (long long)totals.bytes, totals.bpw, (long long)totals.parameters, totals.percent, totals.error,
         a->budget.whole ? ", of the whole model" : "");
    for (int i = 0; i < told; i++)
        text_format(&text, "%s%d x %s", i ? ", " : "", count[i].matrices,
                    *count[i].plan ? count[i].plan : "as it is");
    if (told < n)
        text_format(&text, ", and %d other settings", n - told);
    note("%s", text.data);
    text_free(&text);
    free(count);
}

static int write_totals(const struct allotment *a)
{
    struct allot_totals totals = allot_totals(a);
    struct json *json = json_make_object(), *settings = json_make_object();
    struct output output;
    int n, rc = output_open(&output, options.json, false);
    struct count *count = count_settings(a, &n);
    char *text;

    json_put(json, "budget", json_make_string(options.budget_text));
    json_put(json, "whole", json_make_bool(a->budget.whole));
    json_put(json, "matrices", json_make_int(a->n_matrix));
    json_put(json, "parameters", json_make_int(a->original));
    json_put(json, "stored_parameters", json_make_int(totals.parameters));
    json_put(json, "bytes", json_make_int(totals.bytes));
    json_put(json, "bpw", json_make_real(totals.bpw));
    json_put(json, "error", json_make_number(totals.error));
    json_put(json, "weighted_error", json_make_number(totals.weighted));
    for (int i = 0; i < n; i++)
        json_put(settings, count[i].plan, json_make_int(count[i].matrices));
    json_put(json, "settings", settings);
    text = json_document(json);
    if (!rc && !(rc = output_write(&output, text, strlen(text))))
        rc = output_commit(&output);
    output_close(&output);
    free(text);
    free(count);
    json_drop(json);
    return rc;
}

static void weigh_by_size(struct allotment *a)
{
    for (int m = 0; m < a->n_matrix; m++)
        a->matrix[m].weight = (double)a->n_matrix * (double)a->matrix[m].curve->original / (double)a->original;
}

static int choose(const struct curves *curves, struct text *plan)
{
    struct allotment a;
    int rc = allotment_begin(&a, curves, &options.budget, options.rule, options.n_rule);

    if (!rc && options.weight == SIZE)
        weigh_by_size(&a);
    if (!rc && options.sensitivity)
        rc = allot_weigh(&a, options.sensitivity);
    if (!rc)
        rc = options.plan == DEEPER_FIRST ? allot_deeper_first(&a, options.setting) : allot_least(&a);
    if (!rc && !(rc = allot_print(&a, plan))) {
        tell(&a);
        if (options.json)
            rc = write_totals(&a);
    }
    allotment_free(&a);
    return rc;
}

static int make_plan(struct text *plan)
{
    struct curves curves = {0};
    int rc = EX_OK;

    if (options.plan == SEED) {
        text_append(plan, seed, strlen(seed));
        return EX_OK;
    }
    for (int i = 0; i < options.n_curves && !rc; i++)
        rc = curves_read(&curves, options.curves[i]);
    if (!options.n_curves)
        rc = curves_read(&curves, NULL);
    if (!rc)
        rc = choose(&curves, plan);
    curves_free(&curves);
    return rc;
}

int main(int argc, char **argv)
{
    struct output output = {.fd = -1};
    struct text plan = {0};
    int rc;

    options_parse(&program, argc, argv);
    if (!(rc = make_plan(&plan)) && !(rc = output_open(&output, common_options.output, false))
        && !(rc = output_write(&output, plan.data, plan.length)))
        rc = output_commit(&output);
    output_close(&output);
    text_free(&plan);
    for (int i = 0; i < options.n_rule; i++)
        allot_rule_free(&options.rule[i]);
    free(options.rule);
    free(options.curves);
    return rc;
}
