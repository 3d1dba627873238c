/* mpo-contract - multiply the cores of each operator out into a dense matrix. */
#include "base/options.h"
#include "base/error.h"
#include "operator/filter.h"

static struct {
    int dtype;
} options;

static const struct argp_option table[] = {
    {"dtype", 'd', "TYPE", 0, "type of the dense matrices: f32 (the default), f16, bf16", 0},
    {0},
};

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case 'd':
        options.dtype = option_word("--dtype", value, dtype_float_names);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "mpo-contract",
    .operands = "[MODEL]",
    .purpose = "Multiply the cores of each operator out into a dense matrix.",
    .details = "Reads a tensor stream from MODEL (a directory, a GGUF file or a stream) or standard input. Packed "
               "matrices become dense too; what is dense already passes unchanged.",
    .example = "  extract-layer model | mpo-decompose --chi 8 | mpo-contract -o dense.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_INPUT | OPTION_MATCH,
};

static bool wants(void *context, const struct record *record)
{
    (void)context;
    return (record->kind == RECORD_CORE || dtype_is_packed(record->dtype))
        && globs_match(&common_options.match, record->name);
}

static int change(void *context, struct operator *op)
{
    struct dtype dtype;

    (void)context;
    dtype_parse(dtype_float_names[options.dtype], &dtype);
    return operator_contract(op, dtype);
}

int main(int argc, char **argv)
{
    struct json *history = json_make_object();

    options_parse(&program, argc, argv);
    json_put(history, "dtype", json_make_string(dtype_float_names[options.dtype]));
    return filter_run(&(struct filter){.program = program.name, .doing = "contracting",
                                       .options = history, .wants = wants, .change = change});
}
