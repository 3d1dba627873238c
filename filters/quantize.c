/* quantize - round matrices and cores to packed codes, in groups with a scale or along a trellis, or back. */
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "fit/curve.h"
#include "fit/plan.h"
#include "fit/quantize.h"
#include "model/config.h"
#include "operator/filter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_GROUP = 1, KEY_ZERO, KEY_PLAN, KEY_INVERSE, KEY_DTYPE, KEY_EMBEDDING, KEY_MOMENTS, KEY_SCALE, KEY_ROTATE,
       KEY_FOLD, KEY_RESIDUAL, KEY_RESIDUAL_BITS, KEY_ALTERNATIONS, KEY_CURVES, KEY_CODE, KEY_RATE, KEY_STATE };

enum { KEEP = 0 };                       /* bits of what is left as it is */

/* The first is the fastest to change: turns take the most time to make. */
enum { CODE, RATE, STATE, BITS, GROUP, ZERO, SCALE_BITS, RESIDUAL_CHI, RESIDUAL_BITS, ROTATE, LISTS };

static struct {
    const char *plan_file, *moments_file;
    struct setting_list list[LISTS];     /* of one value each, unless there are curves; empty: not of the code */
    struct plan_line line;               /* the first value of each */
    struct plan_line edges;              /* the same of scalar codes, for embedding and head */
    int embedding_bits, dtype, alternations;
    bool inverse, curves, fold, shaped, typed, refined, scalar_only, trellis_only;
    struct plan plan;
} options = {.list = {{"code", {"scalar"}, 1}, {"rate", {"2"}, 1}, {"state", {"12"}, 1}, {"bits", {"4"}, 1},
                      {"group", {"64"}, 1}, {"zero", {"min"}, 1}, {"scale_bits", {"0"}, 1},
                      {"residual_chi", {"0"}, 1}, {"residual_bits", {"8"}, 1}, {"rotate", {"0"}, 1}},
             .embedding_bits = 8, .alternations = 4};

static const struct argp_option table[] = {
    {"code", KEY_CODE, "KIND", 0, "scalar (the default): each weight by itself, in groups that share a scale; trellis: "
     "16 x 16 weights at a time along a trellis, best behind --rotate=full", 0},
    {"rate", KEY_RATE, "N", 0, "with --code trellis: bits per weight: 1, 1.5, 2, 2.5, 3, 3.5 or 4 (default: 2)", 0},
    {"state", KEY_STATE, "N", 0, "with --code trellis: bits of a state, 8 to 16 (default: 12): each one more halves "
     "the speed of the search and lowers the error by 2 to 4 percent", 0},
    {"bits", 'b', "N", 0, "bits per code: 2, 3, 4, 5, 6 or 8 (default: 4)", 0},
    {"group", KEY_GROUP, "N|row", 0, "codes that share a scale: 32, 64, 128 or any other number, or a row "
     "(default: 64)", 0},
    {"zero", KEY_ZERO, "KIND", 0,
     "offset of a group: none (symmetric), int (an integer zero point), min (a minimum; the default)", 0},
    {"scale-bits", KEY_SCALE, "N", 0, "scales and minima as integers of 6 or 8 bits, super-blocks of 8 groups sharing "
     "f16 factors (default: 0, f16 each)", 0},
    {"moments", KEY_MOMENTS, "FILE", 0, "what the layers see, from calibrate: scales by weighted error, codes that "
     "make up for each other's rounding, so that outputs change least", 0},
    {"rotate", KEY_ROTATE, "BLOCK|full", OPTION_ARG_OPTIONAL, "turn the inputs of the blocks' matrices by random signs "
     "and Hadamard matrices of the largest size up to BLOCK (a power of two; default: 64) that fits; full: inputs and "
     "outputs over their whole width; stored with the weight", 0},
    {"fold", KEY_FOLD, NULL, 0, "with --rotate, where the model allows it, fold the turn of o_proj's input into "
     "v_proj: nothing is stored, and both differ from the original by an orthogonal turn", 0},
    {"residual-chi", KEY_RESIDUAL, "R", 0, "a low-rank term of rank R beside the codes, fitted with them (default: 0)",
     0},
    {"residual-bits", KEY_RESIDUAL_BITS, "N", 0, "bits of its cores (default: 8; 16: f16)", 0},
    {"alternations", KEY_ALTERNATIONS, "N", 0, "fits of codes and residual in turn, at most (default: 4)", 0},
    {"embedding-bits", KEY_EMBEDDING, "N|keep", 0, "bits of the embedding and the head, which are rounded to nearest "
     "(default: 8)", 0},
    {"plan", KEY_PLAN, "FILE", 0, "these per weight, from lines `GLOB bits=.. group=.. zero=.. scale_bits=.. rotate=.. "
     "residual_chi=.. residual_bits=..`, or with `code=trellis rate=.. state=..` for bits to scale_bits; what no line "
     "gives bits or that is left alone", 0},
    {"curves", KEY_CURVES, NULL, 0, "write what each setting would cost and give instead, as JSON lines for allot; "
     "--bits, --group, --scale-bits, --rate, --state, --rotate and --residual-chi may then be lists like 2,3,4", 0},
    {"inverse", KEY_INVERSE, NULL, 0, "unpack instead: codes become numbers again, cores stay cores", 0},
    {"dtype", 'd', "TYPE", 0, "with --inverse: f32 (the default), f16, bf16", 0},
    {0},
};

/* "2,3,4", each a value that a plan could give, and at most once. */
static void parse_list(struct setting_list *list, char *values)
{
    char *item;

    list->count = 0;
    while ((item = strsep(&values, ","))) {
        struct plan_line unused = {0};
        const char *expected = plan_set(&unused, list->key, item);

        if (expected)
            die(EX_USAGE, "%s: '%s' is not %s", list->key, item, expected);
        for (int i = 0; i < list->count; i++)
            if (!strcmp(list->value[i], item))
                die(EX_USAGE, "%s: %s stands twice", list->key, item);
        if (list->count == SETTINGS)
            die(EX_USAGE, "%s: more than %d values", list->key, SETTINGS);
        list->value[list->count++] = item;
    }
}

static int parse_embedding(const char *value)
{
    struct plan_line line = {0};
    const char *expected;

    if (!strcmp(value, "keep"))
        return KEEP;
    if ((expected = plan_set(&line, "bits", value)))
        die(EX_USAGE, "--embedding-bits: '%s' is not keep, %s", value, expected);
    return line.bits;
}

/* Whether any value is not "0". */
static bool is_used(const struct setting_list *list)
{
    return options.plan_file || list->count > 1 || strcmp(list->value[0], "0") != 0;
}

/* Leaves the lists of the code that was chosen. */
static void choose_code(void)
{
    bool trellis = !strcmp(options.list[CODE].value[0], "trellis");

    if (options.list[CODE].count > 1)
        die(EX_USAGE, "--code: one of scalar and trellis at a time");
    if (options.trellis_only && !trellis)
        die(EX_USAGE, "--rate and --state go with --code trellis, and the code is scalar");
    if (options.scalar_only && trellis)
        die(EX_USAGE, "--bits, --group, --zero and --scale-bits go with --code scalar, and the code is trellis: it "
            "has a --rate and a --state");
    for (int i = BITS; i < LISTS; i++)
        plan_set(&options.edges, options.list[i].key, options.list[i].value[0]);
    for (int i = BITS; i <= SCALE_BITS && trellis; i++)
        options.list[i].count = 0;
    for (int i = CODE; i <= STATE && !trellis; i++)
        options.list[i].count = 0;
}

/* Standard input is read once. */
static void check_inputs(void)
{
    if (file_is_stdin(common_options.input) + (options.moments_file && file_is_stdin(options.moments_file))
        + (options.plan_file && file_is_stdin(options.plan_file)) > 1)
        die(EX_USAGE, "only one of the input, --moments and --plan can be standard input");
}

static void check_together(void)
{
    bool lists = false;

    choose_code();
    for (int i = 0; i < LISTS; i++) {
        lists = lists || options.list[i].count > 1;
        if (options.list[i].count)
            plan_set(&options.line, options.list[i].key, options.list[i].value[0]);
    }
    if (options.inverse && (options.shaped || options.plan_file || options.moments_file || options.curves
                            || options.fold || options.refined))
        die(EX_USAGE, "--inverse goes with --dtype and --match only");
    if (options.typed && !options.inverse)
        die(EX_USAGE, "--dtype goes with --inverse only");
    if (options.plan_file && options.shaped)
        die(EX_USAGE, "--plan says it all: it goes with no --code, --rate, --state, --bits, --group, --zero, "
            "--scale-bits, --rotate, --residual-chi, --residual-bits or --embedding-bits");
    if (options.curves && (options.plan_file || options.fold))
        die(EX_USAGE, "--curves tries what the options list: it goes with no --plan or --fold");
    if (lists && !options.curves)
        die(EX_USAGE, "lists of settings go with --curves only");
    if (options.fold && !is_used(&options.list[ROTATE]))
        die(EX_USAGE, "--fold goes with --rotate or --plan only");
    if (common_options.seed && !is_used(&options.list[ROTATE]))
        die(EX_USAGE, "--seed goes with --rotate or --plan only");
    if (options.refined && !is_used(&options.list[RESIDUAL_CHI]))
        die(EX_USAGE, "--residual-bits and --alternations go with --residual-chi only");
    check_inputs();
}

static error_t parse_more(int key, char *value)
{
    switch (key) {
    case KEY_MOMENTS:
        options.moments_file = value;
        return 0;
    case KEY_PLAN:
        options.plan_file = value;
        return 0;
    case KEY_FOLD:
        options.fold = true;
        return 0;
    case KEY_ALTERNATIONS:
        options.alternations = (int)option_int("--alternations", value, 1, 100);
        options.refined = true;
        return 0;
    case KEY_CURVES:
        options.curves = true;
        return 0;
    case KEY_INVERSE:
        options.inverse = true;
        return 0;
    case 'd':
        options.dtype = option_word("--dtype", value, dtype_float_names);
        options.typed = true;
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
    static const int lists[] = {[KEY_CODE] = CODE + 1, [KEY_RATE] = RATE + 1, [KEY_STATE] = STATE + 1, ['b'] = BITS + 1,
                                [KEY_GROUP] = GROUP + 1, [KEY_ZERO] = ZERO + 1,
                                [KEY_SCALE] = SCALE_BITS + 1, [KEY_ROTATE] = ROTATE + 1,
                                [KEY_RESIDUAL] = RESIDUAL_CHI + 1, [KEY_RESIDUAL_BITS] = RESIDUAL_BITS + 1};
    int list = key > 0 && key < (int)(sizeof lists / sizeof *lists) ? lists[key] : 0;

    (void)state;
    if (!list && key != KEY_EMBEDDING)
        return parse_more(key, value);
    options.shaped = true;
    options.refined = options.refined || key == KEY_RESIDUAL_BITS;
    options.trellis_only = options.trellis_only || key == KEY_RATE || key == KEY_STATE;
    options.scalar_only = options.scalar_only || (list - 1 >= BITS && list - 1 <= SCALE_BITS);
    if (key == KEY_EMBEDDING)
        options.embedding_bits = parse_embedding(value);
    else if (value)
        parse_list(&options.list[list - 1], value);
    else
        options.list[ROTATE] = (struct setting_list){"rotate", {"64"}, 1};
    return 0;
}

static const struct program program = {
    .name = "quantize",
    .operands = "[MODEL]",
    .purpose = "Round matrices and cores of a tensor stream to packed codes.",
    .details = "Reads MODEL (a directory, a GGUF file or a stream) or standard input. Rounds all matrices and all "
               "cores: to nearest, or with --moments so that what the layers give changes least; embedding and head to "
               "nearest at 8 bits, neither turned nor with a residual. What is packed already, and what would not get "
               "smaller, stays as it is.",
    .example = "  extract-layer model | quantize --bits 4 --group 32 -o packed.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_SEED | OPTION_INPUT | OPTION_MATCH,
};

/* What became of all weights, and what is between them. */
struct work {
    struct moments_file *moments;
    struct views *views;
    struct output output;                /* of curves */
    struct fold fold;
    struct difference difference;
    double error, norm;                  /* of the matrices with moments */
    int64_t weights, packed, sequential, before, after;
};

static bool is_edge(enum section section)
{
    return section == SECTION_EMBEDDING || section == SECTION_HEAD;
}

/* What a weight is to get; false where it is to be left as it is. */
static bool how_for(const char *name, struct quantization *how)
{
    int64_t block;
    bool edge = is_edge(record_section(name, &block));
    const struct plan_line *line = options.plan_file ? plan_find(&options.plan, name) : NULL;

    *how = (struct quantization){.dtype.kind = DTYPE_GROUP, .seed = common_options.seed,
                                 .alternations = options.alternations};
    quantization_set(how, edge || line ? &options.edges : &options.line);
    if (edge) {
        how->dtype.bits = options.embedding_bits;
        how->dtype.scale_bits = 0;
    }
    if (options.plan_file && (!line || (!line->bits && !line->trellis)))
        return false;
    if (line)
        quantization_set(how, line);
    if (edge)
        how->rotate = how->residual_chi = 0;
    return how->dtype.bits != KEEP && globs_match(&common_options.match, name);
}

static bool wants(void *context, const struct record *record)
{
    struct quantization how;
    int64_t block;

    (void)context;
    if (options.inverse)
        return globs_match(&common_options.match, record->name)
               && (record->kind == RECORD_CORE || dtype_is_packed(record->dtype));
    return how_for(record->name, &how) && !(options.curves && is_edge(record_section(record->name, &block)));
}

static bool is_wanted(const char *name)
{
    struct quantization unused;

    return how_for(name, &unused);
}

static int pack(struct work *work, struct operator *op)
{
    struct quantization how;
    struct quantized result;
    int64_t block;
    int rc = EX_OK;

    how_for(op->name, &how);
    if (work->moments && record_section(op->name, &block) == SECTION_BLOCKS)
        rc = moments_find(work->moments, op->name, op->in, &how.moments);
    if (!rc && options.curves)
        return quantize_curves(op, &how, options.list, LISTS, work->views, &work->output);
    if (!rc && options.fold)
        rc = fold_prepare(&work->fold, op, is_wanted, &how);
    if (rc || (rc = quantize_operator(op, &how, work->views, &result)))
        return rc;
    fold_note(&work->fold, &how, &result);
    difference_join(&work->difference, &result.difference);
    work->sequential += result.sequential;
    if (how.moments) {
        work->error += result.error;
        work->norm += result.norm;
    }
    return EX_OK;
}

static int change(void *context, struct operator *op)
{
    struct work *work = context;
    int64_t before = operator_bytes(op);
    struct dtype dtype = {.kind = (enum dtype_kind)options.dtype};
    int rc = options.inverse ? quantize_inverse(op, dtype) : pack(work, op);

    work->weights++;
    work->packed += operator_bytes(op) != before;
    work->before += before;
    work->after += operator_bytes(op);
    return rc;
}

/* A tensor or core that no setting is for, as it will be: the embedding and the head packed. */
static int leave(void *context, const struct record *record)
{
    struct work *work = context;
    struct record stored = *record;
    struct quantization how;
    int64_t block, bytes;

    if ((record->kind == RECORD_CORE || record->rank == 2) && dtype_is_real(record->dtype)
        && !dtype_is_packed(record->dtype) && is_edge(record_section(record->name, &block))
        && how_for(record->name, &how)
        && (bytes = dtype_payload(how.dtype, record->rank, record->shape)) < record->bytes)
        stored.bytes = bytes;
    return curve_write_fixed(&work->output, &stored);
}

static void report(const struct work *work)
{
    struct text more = {0};

    if (!work->weights)
        note("no weight matches: nothing was %s", options.inverse ? "unpacked" : options.curves ? "tried" : "packed");
    else if (options.inverse)
        note("%lld of %lld weights unpacked, %lld bytes of %lld", (long long)work->packed, (long long)work->weights,
             (long long)work->after, (long long)work->before);
    else if (!options.curves) {
        if (work->norm > 0)
            text_format(&more, ", of the layers' outputs %.4f", sqrt(work->error / work->norm));
        if (work->sequential)
            text_format(&more, ", %lld by the sequential target", (long long)work->sequential);
        if (work->fold.done)
            text_format(&more, ", %lld turns folded", (long long)work->fold.done);
        note("%lld of %lld weights packed%s, %lld bytes of %lld, relative error %.4f%s", (long long)work->packed,
             (long long)work->weights, options.plan_file || options.embedding_bits != 8 ? ""
             : ", embedding and head at 8 bits (--embedding-bits)", (long long)work->after, (long long)work->before,
             difference_error(&work->difference), more.data ? more.data : "");
    }
    text_free(&more);
}

static struct json *history_options(const struct work *work)
{
    struct json *history = json_make_object();

    if (options.inverse) {
        json_put(history, "inverse", json_make_bool(true));
        json_put(history, "dtype", json_make_string(dtype_float_names[options.dtype]));
        return history;
    }
    if (options.plan_file)
        json_put(history, "plan", plan_history(&options.plan));
    else {
        quantization_history(history, &options.line);
        json_put(history, "embedding_bits", options.embedding_bits == KEEP ? json_make_string("keep")
                                                                           : json_make_int(options.embedding_bits));
    }
    if (is_used(&options.list[ROTATE]))
        json_put(history, "seed", json_make_int((int64_t)common_options.seed));
    if (is_used(&options.list[RESIDUAL_CHI]))
        json_put(history, "alternations", json_make_int(options.alternations));
    if (options.fold)
        json_put(history, "fold", json_make_bool(true));
    if (work->moments)
        json_put(history, "moments", moments_history(work->moments));
    return history;
}

/* The configuration says where heads begin; a bias of the values would have to be turned as well. */
static int begin(void *context, const struct source *source)
{
    struct work *work = context;
    struct config config;
    int rc;

    if (!options.fold)
        return EX_OK;
    if (!source->config)
        return fail(EX_DATAERR, "'%s' has no configuration that tells the size of heads (--fold)", source->name);
    if (!(rc = config_read(source->config, source->name, &config)) && !config.qkv_bias)
        work->fold = (struct fold){.head_dim = config.head_dim, .width = config.n_head * config.head_dim};
    return rc;
}

static int end(void *context)
{
    const struct work *work = context;

    return fold_end(&work->fold);
}

static int run(struct work *work)
{
    struct filter filter = {.program = program.name, .doing = options.curves ? "trying" : "packing", .wants = wants,
                            .change = change, .leave = options.curves ? leave : NULL, .begin = begin,
                            .end = end, .context = work};
    int rc = EX_OK;

    if (options.plan_file)
        rc = plan_read(&options.plan, options.plan_file);
    if (!rc && options.moments_file)
        rc = moments_open(&work->moments, options.moments_file);
    if (!rc && options.curves)
        rc = output_open(&work->output, common_options.output, false);
    if (!rc) {
        work->views = views_new();
        filter.options = history_options(work);
        rc = filter_run(&filter);
    }
    if (!rc && options.curves)
        rc = output_commit(&work->output);
    output_close(&work->output);
    return rc;
}

int main(int argc, char **argv)
{
    struct work work = {.output.fd = -1};
    int rc;

    options_parse(&program, argc, argv);
    rc = run(&work);
    if (!rc)
        report(&work);
    fold_free(&work.fold);
    views_free(work.views);
    moments_close(work.moments);
    plan_free(&options.plan);
    return rc;
}
