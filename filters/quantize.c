/* quantize - round matrices and cores to groups of packed codes, or back. */
#include "base/error.h"
#include "base/json.h"
#include "base/options.h"
#include "fit/plan.h"
#include "fit/round.h"
#include "operator/filter.h"

#include <string.h>

enum { KEY_GROUP = 1, KEY_ZERO, KEY_PLAN, KEY_INVERSE, KEY_DTYPE, KEY_EMBEDDING };

enum { KEEP = 0 };                       /* bits of what is left as it is */

static struct {
    const char *plan_file;
    int bits, embedding_bits, group, dtype;
    enum dtype_zero zero;
    bool inverse, shaped, typed;
    struct plan plan;
} options = {.bits = 4, .embedding_bits = 8, .group = 64, .zero = ZERO_MIN};

static const struct argp_option table[] = {
    {"bits", 'b', "N", 0, "bits per code: 2, 3, 4, 5, 6 or 8 (default: 4)", 0},
    {"group", KEY_GROUP, "N|row", 0, "codes that share a scale: 32, 64, 128 or any other number, or a row "
     "(default: 64)", 0},
    {"zero", KEY_ZERO, "KIND", 0,
     "offset of a group: none (symmetric), int (an integer zero point), min (an f16 minimum; the default)", 0},
    {"embedding-bits", KEY_EMBEDDING, "N|keep", 0, "bits of the embedding and the head (default: 8)", 0},
    {"plan", KEY_PLAN, "FILE", 0, "bits, group and zero per weight, from lines `GLOB bits=.. group=.. zero=..`; "
     "what no line gives bits is left alone", 0},
    {"inverse", KEY_INVERSE, NULL, 0, "unpack instead: codes become numbers again, cores stay cores", 0},
    {"dtype", 'd', "TYPE", 0, "with --inverse: f32 (the default), f16, bf16", 0},
    {0},
};

static int parse_bits(const char *option, const char *value)
{
    int64_t bits = option_int(option, value, 2, 8);

    if (bits == 7)
        die(EX_USAGE, "%s: 7 is not one of 2, 3, 4, 5, 6, 8", option);
    return (int)bits;
}

static void check_together(void)
{
    if (options.inverse && (options.shaped || options.plan_file))
        die(EX_USAGE, "--inverse goes with --dtype and --match only");
    if (options.typed && !options.inverse)
        die(EX_USAGE, "--dtype goes with --inverse only");
    if (options.plan_file && (options.shaped || common_options.match.count))
        die(EX_USAGE, "--plan says it all: it goes with no --bits, --group, --zero, --embedding-bits or --match");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    options.shaped = options.shaped || key == 'b' || key == KEY_GROUP || key == KEY_ZERO || key == KEY_EMBEDDING;
    switch (key) {
    case 'b':
        options.bits = parse_bits("--bits", value);
        return 0;
    case KEY_EMBEDDING:
        options.embedding_bits = strcmp(value, "keep") ? parse_bits("--embedding-bits", value) : KEEP;
        return 0;
    case KEY_GROUP:
        options.group = strcmp(value, "row") ? (int)option_int("--group", value, 1, 1 << 20) : GROUP_ROW;
        return 0;
    case KEY_ZERO:
        options.zero = (enum dtype_zero)option_word("--zero", value, dtype_zero_names);
        return 0;
    case KEY_PLAN:
        options.plan_file = value;
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

static const struct program program = {
    .name = "quantize",
    .operands = "[MODEL]",
    .purpose = "Round matrices and cores of a tensor stream to groups of packed codes.",
    .details = "Reads MODEL (a directory, a GGUF file or a stream) or standard input. Rounds to nearest; all matrices "
               "and all cores by default, embedding and head at 8 bits. What is packed already, and what would not "
               "get smaller, stays as it is.",
    .example = "  extract-layer model | quantize --bits 4 --group 32 -o packed.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_INPUT | OPTION_MATCH,
};

/* The format that a weight is to get; false where it is to be left as it is. */
static bool format_of(const char *name, struct dtype *dtype)
{
    int64_t block;
    enum section section = record_section(name, &block);
    bool edge = section == SECTION_EMBEDDING || section == SECTION_HEAD;

    *dtype = (struct dtype){DTYPE_GROUP, edge ? options.embedding_bits : options.bits, options.group, options.zero};
    if (options.plan_file) {
        const struct plan_line *line = plan_find(&options.plan, name);

        if (!line || !line->bits)
            return false;
        dtype->bits = line->bits;
        if (line->has_group)
            dtype->group = line->group;
        if (line->has_zero)
            dtype->zero = line->zero;
    }
    return dtype->bits != KEEP;
}

static bool wants(void *context, const struct record *record)
{
    struct dtype dtype;

    (void)context;
    if (!globs_match(&common_options.match, record->name))
        return false;
    return options.inverse ? record->kind == RECORD_CORE || record->dtype.kind == DTYPE_GROUP
                           : format_of(record->name, &dtype);
}

/* What became of all weights. */
static struct {
    struct difference difference;
    int64_t weights, packed, before, after;
} sums;

static int pack_core(struct tensor *core, struct dtype dtype, const char *name)
{
    int64_t bytes = dtype_payload(dtype, core->rank, core->shape);

    if (core->dtype.kind == DTYPE_GROUP) {
        inform("'%s': packed already, kept", name);
        return EX_OK;
    }
    if (bytes >= core->bytes) {
        inform("'%s': %lld bytes packed against %lld, kept", name, (long long)bytes, (long long)core->bytes);
        return EX_OK;
    }
    return round_nearest(core, dtype, name, &sums.difference);
}

static int change(void *context, struct operator *op)
{
    int64_t before = operator_bytes(op);
    struct dtype dtype;
    int rc = EX_OK;

    (void)context;
    if (options.inverse)
        dtype_parse(dtype_float_names[options.dtype], &dtype);
    else
        format_of(op->name, &dtype);
    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site && !rc; s++) {
            struct tensor *core = &op->term[t].core[s];

            if (!options.inverse)
                rc = pack_core(core, dtype, op->name);
            else if (core->dtype.kind == DTYPE_GROUP)
                rc = round_inverse(core, dtype, op->name);
        }
    sums.weights++;
    sums.packed += operator_bytes(op) != before;
    sums.before += before;
    sums.after += operator_bytes(op);
    return rc;
}

static void report(void)
{
    if (!sums.weights)
        note("no weight matches: nothing was %s", options.inverse ? "unpacked" : "packed");
    else if (options.inverse)
        note("%lld of %lld weights unpacked, %lld bytes of %lld", (long long)sums.packed, (long long)sums.weights,
             (long long)sums.after, (long long)sums.before);
    else
        note("%lld of %lld weights packed%s, %lld bytes of %lld, relative error %.4f", (long long)sums.packed,
             (long long)sums.weights, options.plan_file || options.embedding_bits != 8 ? ""
             : ", embedding and head at 8 bits (--embedding-bits)", (long long)sums.after, (long long)sums.before,
             difference_error(&sums.difference));
}

static struct json *history_options(void)
{
    struct json *history = json_make_object();

    if (options.inverse) {
        json_put(history, "inverse", json_make_bool(true));
        json_put(history, "dtype", json_make_string(dtype_float_names[options.dtype]));
    } else if (options.plan_file)
        json_put(history, "plan", plan_history(&options.plan));
    else {
        json_put(history, "bits", json_make_int(options.bits));
        json_put(history, "group", options.group == GROUP_ROW ? json_make_string("row") : json_make_int(options.group));
        json_put(history, "zero", json_make_string(dtype_zero_names[options.zero]));
        json_put(history, "embedding_bits", options.embedding_bits == KEEP ? json_make_string("keep")
                                                                           : json_make_int(options.embedding_bits));
    }
    return history;
}

int main(int argc, char **argv)
{
    int rc = EX_OK;

    options_parse(&program, argc, argv);
    if (options.plan_file && (rc = plan_read(&options.plan, options.plan_file)))
        return rc;
    rc = filter_run(&(struct filter){.program = program.name, .doing = "packing",
                                     .options = history_options(), .wants = wants, .change = change});
    if (!rc)
        report();
    plan_free(&options.plan);
    return rc;
}
