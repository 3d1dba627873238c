/* extract-layer - turn a model into a tensor stream, whole or in part. */
#include "base/error.h"
#include "base/options.h"
#include "base/progress.h"
#include "files/source.h"
#include "model/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LAYER_MOST = 4096 };      /* as config_read() has it */

static struct {
    bool some;                   /* --layer was given: */
    bool rest, layer[LAYER_MOST];
} options;

static const struct argp_option table[] = {
    {"layer", 'l', "LIST", 0, "only these: numbers and ranges of layers, as 3 or 0,3,8-15, and \"rest\" for everything "
     "outside the layers: companion files, embedding, final norm, head", 0},
    {0},
};

static void parse_range(const char *part)
{
    char *dash = strchr(part, '-');
    int64_t first, last;

    if (!strcmp(part, "rest")) {
        options.rest = true;
        return;
    }
    if (dash)
        *dash = '\0';
    first = option_int("--layer", part, 0, LAYER_MOST - 1);
    last = dash ? option_int("--layer", dash + 1, first, LAYER_MOST - 1) : first;
    for (int64_t i = first; i <= last; i++)
        options.layer[i] = true;
}

static void parse_layers(const char *list)
{
    char *copy = xstrdup(list), *next = copy, *part;

    while ((part = strsep(&next, ",")))
        parse_range(part);
    free(copy);
    options.some = true;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case 'l':
        parse_layers(value);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "extract-layer",
    .operands = "[MODEL]",
    .purpose = "Turn a model into a tensor stream, whole or in part.",
    .details = "MODEL is a directory with safetensors, a GGUF file, a tensor stream, or '-' for a stream on standard "
               "input (the default). assemble puts streams of different layers of one model together, in any order.",
    .example = "  extract-layer model | assemble -o copy",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_INPUT | OPTION_MATCH,
};

/* Layers that the configuration doesn't know are misuse. Without a configuration, the records tell. */
static int check_layers(const struct json *json, const char *where)
{
    struct config config;
    int rc;

    if (!json)
        return EX_OK;
    if ((rc = config_read(json, where, &config)))
        return rc;
    for (int64_t i = config.n_layer; i < LAYER_MOST; i++)
        if (options.layer[i])
            return fail(EX_USAGE, "--layer: %" PRId64 " is outside 0..%" PRId64, i, config.n_layer - 1);
    return EX_OK;
}

/* True where the record was asked for. *block is its layer, or -1. */
static bool wanted(const struct record *record, int64_t *block)
{
    *block = -1;
    if (record->kind != RECORD_FILE)
        record_section(record->name, block);
    if (options.some && (*block < 0 ? !options.rest : *block >= LAYER_MOST || !options.layer[*block]))
        return false;
    return globs_match(&common_options.match, record->name);
}

/* What was asked for and didn't come: a stream may hold a part of its model. */
static int check_found(const struct source *source, const bool *found, int64_t passed)
{
    for (int64_t i = 0; i < LAYER_MOST && !common_options.match.count; i++)
        if (options.layer[i] && !found[i])
            return fail(EX_DATAERR, "'%s': layer %" PRId64 " is not in it", source->name, i);
    if (!passed && (options.some || common_options.match.count))
        return fail(EX_DATAERR, "'%s': nothing in it was asked for", source->name);
    return EX_OK;
}

static int pass_records(struct source *source, struct writer *writer)
{
    static bool found[LAYER_MOST];
    struct record record = {0};
    int64_t block, passed = 0;
    int rc;

    while (!(rc = source_next(source, &record)) && record.kind != RECORD_END) {
        if (wanted(&record, &block)) {
            progress_step(record.name);
            passed++;
            if (block >= 0 && block < LAYER_MOST)
                found[block] = true;
            rc = source_pass(source, &record, writer);
        }
        record_free(&record);
        if (rc)
            return rc;
    }
    if (!rc)
        rc = check_found(source, found, passed);
    return rc ? rc : writer_end(writer);
}

int main(int argc, char **argv)
{
    struct source source = {.reader.fd = -1};
    struct writer writer = {.output.fd = -1};
    struct json *history = NULL;
    int rc;

    options_parse(&program, argc, argv);
    if ((rc = source_open(&source, common_options.input)) || (rc = check_layers(source.config, source.name)))
        goto done;
    history = source_history(&source);
    if (!(rc = writer_open(&writer, common_options.output, source.config, history))) {
        progress_start("extracting", source.is_model ? (int64_t)source.model.n_item : 0);
        rc = pass_records(&source, &writer);
        progress_stop();
    }
done:
    json_drop(history);
    writer_close(&writer);
    source_close(&source);
    return rc;
}
