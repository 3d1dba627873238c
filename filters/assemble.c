/* assemble - put the streams of a model together into a model directory. */
#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/progress.h"
#include "files/checkpoint.h"
#include "files/source.h"
#include "model/config.h"
#include "model/config_inventory.h"
#include "operator/densify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char *const dtype_words[] = {"float32", "float16", "bfloat16"};     /* as config.json has them */

static struct {
    const char **input;
    size_t n_input;
    const char *output;
    bool dense, force;
    int dtype;                   /* -1: not given */
    int64_t shard_limit;
} options = {.dtype = -1, .shard_limit = 5000000000};

enum { KEY_DENSE = OPTION_KEYS, KEY_SHARD, KEY_FORCE };

static const struct argp_option table[] = {
    {"output", 'o', "DIR", 0, "the directory to write; it appears whole or not at all (required)", 0},
    {"force", KEY_FORCE, NULL, 0, "replace a model directory that stands there", 0},
    {"dense", KEY_DENSE, NULL, 0, "multiply cores out and unpack codes: a plain checkpoint that transformers loads", 0},
    {"dtype", 'd', "TYPE", 0, "with --dense: f32, f16 or bf16 for all weights (default: the configuration's for what "
     "becomes dense; what is dense already stays as it is)", 0},
    {"max-shard-size", KEY_SHARD, "SIZE", 0, "bytes in a file of weights, or with MB, GB (default: 5GB)", 0},
    {0},
};

/* "5GB", "300MB", "1048576"; powers of ten. */
static int64_t parse_size(const char *value)
{
    static const char *const suffixes[] = {"KB", "MB", "GB"};
    char *number = xstrdup(value), *suffix = number + strspn(number, "0123456789");
    int64_t unit = 1, scale = 1, size;

    for (int i = 0; i < 3 && unit == 1; i++) {
        scale *= 1000;
        unit = strcasecmp(suffix, suffixes[i]) ? 1 : scale;
    }
    if (unit > 1)
        *suffix = '\0';
    size = option_int("--max-shard-size", number, 1, 1000000000000000 / unit) * unit;
    free(number);
    return size;
}

static void check_options(void)
{
    int standard = 0;

    for (size_t i = 0; i < options.n_input; i++)
        standard += !strcmp(options.input[i], "-");
    if (standard > 1)
        die(EX_USAGE, "standard input can be one of the streams only");
    if (!options.output)
        die(EX_USAGE, "-o DIR is missing");
    if (!strcmp(options.output, "-"))
        die(EX_USAGE, "a directory can't go to standard output");
    if (options.dtype >= 0 && !options.dense)
        die(EX_USAGE, "--dtype means nothing without --dense");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case 'o':
        options.output = value;
        return 0;
    case 'd':
        options.dtype = option_word("--dtype", value, dtype_float_names);
        return 0;
    case KEY_FORCE:
        options.force = true;
        return 0;
    case KEY_DENSE:
        options.dense = true;
        return 0;
    case KEY_SHARD:
        options.shard_limit = parse_size(value);
        return 0;
    case ARGP_KEY_ARG:
        options.input = xreallocarray(options.input, options.n_input + 1, sizeof *options.input);
        options.input[options.n_input++] = value;
        return 0;
    case ARGP_KEY_END:
        check_options();
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "assemble",
    .operands = "[STREAM...]",
    .purpose = "Put the streams of a model together into a model directory.",
    .details = "Streams (files, '-' or nothing for standard input; models too) may hold any parts of one model, in any "
               "order. A model in which all is dense becomes a plain directory of safetensors; one with cores or "
               "packed matrices becomes a directory that this package's programs read.",
    .example = "  extract-layer model | assemble -o copy",
    .table = table,
    .parse = parse,
    .common = OPTION_THREADS,
};

struct input {
    struct source source;
    struct record head;          /* the record to come; RECORD_END behind the last */
};

struct job {
    struct input *input;
    size_t n_input;
    struct json *json, *history; /* configuration and history of what is written */
    struct config config;
    struct inventory inventory;
    struct checkpoint checkpoint;
};

/* The history of all inputs, each entry once. */
static void join_histories(struct job *job, const struct json *history)
{
    for (size_t i = 0; i < json_count(history); i++) {
        bool known = false;

        for (size_t k = 0; k < json_count(job->history) && !known; k++)
            known = json_same(json_item(job->history, k), json_item(history, i));
        if (!known)
            json_append(job->history, json_clone(json_item(history, i)));
    }
}

static int open_inputs(struct job *job)
{
    struct rlimit files;
    int rc = EX_OK;

    /* A file per layer is a common way to cut a model. */
    if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    job->n_input = options.n_input ? options.n_input : 1;
    job->input = xcalloc(job->n_input, sizeof *job->input);
    for (size_t i = 0; i < job->n_input; i++)
        job->input[i].source.reader.fd = -1;
    for (size_t i = 0; i < job->n_input && !rc; i++) {
        struct source *source = &job->input[i].source;

        if ((rc = source_open(source, options.n_input ? options.input[i] : NULL)))
            break;
        if (!source->config)
            return fail(EX_DATAERR, "'%s': no configuration in it", source->name);
        if (!json_same(source->config, job->input[0].source.config))
            return fail(EX_DATAERR, "'%s': another model than '%s': the configurations differ", source->name,
                        job->input[0].source.name);
        join_histories(job, source->history);
        rc = source_next(source, &job->input[i].head);
    }
    return rc;
}

/* The input whose record comes next, NULL behind the last; *rc where two inputs hold the same record. */
static struct input *next_input(struct job *job, int *rc)
{
    struct input *best = NULL;

    for (struct input *input = job->input; input < job->input + job->n_input; input++) {
        int order = best && input->head.kind != RECORD_END ? record_compare(&input->head, &best->head) : -1;

        if (input->head.kind == RECORD_END)
            continue;
        if (order == 0) {
            *rc = fail(EX_DATAERR, "'%s': in '%s' and in '%s'", best->head.name, best->source.name, input->source.name);
            return NULL;
        }
        if (order < 0)
            best = input;
    }
    return best;
}

static int take_piece(void *context, const void *data, size_t size)
{
    return checkpoint_add(context, data, size);
}

static int pass(struct job *job, struct input *input)
{
    int rc = checkpoint_begin(&job->checkpoint, &input->head);

    if (!rc)
        rc = source_each(&input->source, &input->head, take_piece, &job->checkpoint);
    return rc ? rc : checkpoint_finish(&job->checkpoint);
}

static bool becomes_dense(const struct job *job, const struct record *record)
{
    if (!options.dense || (record->kind != RECORD_TENSOR && record->kind != RECORD_CORE))
        return false;
    return record->kind == RECORD_CORE || dtype_is_packed(record->dtype)
        || (options.dtype >= 0 && dtype_is_real(record->dtype) && !dtype_same(record->dtype, job->config.dtype));
}

static int make_dense(struct job *job, struct input *input)
{
    struct record dense;
    int rc = densify(&input->source, &input->head, job->config.dtype, &job->checkpoint, &dense);

    if (!rc)
        rc = inventory_take(&job->inventory, &dense, input->source.name);
    record_free(&dense);
    return rc;
}

static int take_record(struct job *job, struct input *input)
{
    int rc = EX_OK;

    progress_step(input->head.name);
    /* With --dtype, config.json is written from the changed configuration instead. */
    if (options.dtype >= 0 && input->head.kind == RECORD_FILE && !strcmp(input->head.name, DIRECTORY_CONFIG))
        return rc;
    if (options.dense && input->head.kind == RECORD_OTHER)
        return fail(EX_DATAERR, "'%s': '%s': of a kind that this version can't make dense", input->source.name,
                    input->head.name);
    if (becomes_dense(job, &input->head))
        return make_dense(job, input);
    rc = inventory_take(&job->inventory, &input->head, input->source.name);
    return rc ? rc : pass(job, input);
}

static int merge(struct job *job)
{
    struct input *input;
    int rc = EX_OK;

    progress_start("assembling", 0);
    while (!rc && (input = next_input(job, &rc)))
        if (!(rc = take_record(job, input))) {
            record_free(&input->head);
            rc = source_next(&input->source, &input->head);
        }
    progress_stop();
    return rc ? rc : inventory_complete(&job->inventory);
}

/* The configuration of what is written: with --dtype it says so. */
static int settle_config(struct job *job)
{
    const char *where = job->input[0].source.name;
    int rc;

    job->json = json_clone(job->input[0].source.config);
    if (options.dtype >= 0) {
        const char *key = json_at(job->json, "torch_dtype") ? "torch_dtype" : "dtype";

        json_put(job->json, key, json_make_string(dtype_words[options.dtype]));
    }
    if ((rc = config_read(job->json, where, &job->config)))
        return rc;
    inventory_open(&job->inventory, &job->config);
    return checkpoint_open(&job->checkpoint, options.output,
                           &(struct checkpoint_options){job->json, job->history, options.shard_limit, options.force});
}

static void close_job(struct job *job)
{
    for (size_t i = 0; i < job->n_input; i++) {
        record_free(&job->input[i].head);
        source_close(&job->input[i].source);
    }
    checkpoint_close(&job->checkpoint);
    inventory_close(&job->inventory);
    json_drop(job->json);
    json_drop(job->history);
    free(job->input);
    free(options.input);
}

int main(int argc, char **argv)
{
    struct job job = {.history = json_make_array(), .checkpoint = CHECKPOINT_CLOSED};
    int rc;

    options_parse(&program, argc, argv);
    if (!(rc = open_inputs(&job)) && !(rc = settle_config(&job)) && !(rc = merge(&job))
        && !(rc = checkpoint_commit(&job.checkpoint)))
        note("'%s': %" PRId64 " tensors, %.1f MB, %" PRId64 " parameters", options.output, job.checkpoint.n_tensor,
             (double)job.checkpoint.bytes / 1e6, job.checkpoint.parameters);
    close_job(&job);
    return rc;
}
