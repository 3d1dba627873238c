/* tensor-info - list a model or stream: names, shapes, types, operators, bytes, history. */
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/progress.h"
#include "files/source.h"
#include "operator/summary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_JSON = 1, KEY_VERIFY, KEY_SUMMARY };

static struct {
    bool json, verify, summary;
} options;

static const struct argp_option table[] = {
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {"verify", KEY_VERIFY, NULL, 0, "read every payload, also of a model on disk, and refuse numbers that are "
     "not finite", 0},
    {"summary", KEY_SUMMARY, NULL, 0, "print the totals only", 0},
    {0},
};

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)value;
    (void)state;
    switch (key) {
    case KEY_JSON:
        options.json = true;
        return 0;
    case KEY_VERIFY:
        options.verify = true;
        return 0;
    case KEY_SUMMARY:
        options.summary = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "tensor-info",
    .operands = "[MODEL]",
    .purpose = "List the tensors of a model or a tensor stream: names, shapes, types, operators, bytes, history.",
    .details = "MODEL is a directory, a GGUF file or a stream; standard input otherwise. Every checksum of a stream is "
               "verified in any case.",
    .example = "  extract-layer model | quantize | tensor-info",
    .table = table,
    .parse = parse,
    .common = OPTION_THREADS | OPTION_INPUT,
};

static void print_text(const struct summary *summary)
{
    for (size_t i = 0; i < summary->n_weight && !options.summary; i++) {
        const struct weight *w = &summary->weight[i];
        struct text turns = {0};

        transform_print(w->input, " after ", &turns);
        transform_print(w->output, " before ", &turns);
        printf("%-56s %12lld B  %s%s%s%s\n", w->name, (long long)w->bytes, w->description, turns.data ? turns.data : "",
               w->stored[0] ? "  from " : "", w->stored);
        text_free(&turns);
    }
    for (size_t i = 0; i < json_count(summary->history) && !options.summary; i++) {
        struct json *entry = json_item(summary->history, i);
        char *settings = json_write(json_at(entry, "options"), 0);

        printf("made by %s %s %s\n", json_as_string(json_at(entry, "program"), "?"),
               json_as_string(json_at(entry, "version"), "?"), settings);
        free(settings);
    }
    printf("%s: %zu tensors, %lld parameters, %lld numbers stored, %lld bytes of payload, %lld bytes on disk%s\n",
           summary->format, summary->n_weight - summary->n_file, (long long)summary->parameters,
           (long long)summary->stored_parameters, (long long)summary->payload_bytes, (long long)summary->file_bytes,
           options.verify ? ", verified" : "");
}

int main(int argc, char **argv)
{
    struct source source = {0};
    struct summary summary = {0};
    int rc;

    options_parse(&program, argc, argv);
    if (!(rc = source_open(&source, common_options.input))) {
        progress_start(options.verify ? "verifying" : "reading", 0);
        rc = summary_take(&summary, &source, options.verify);
        progress_stop();
    }
    if (!rc) {
        if (options.json) {
            struct json *report = summary_json(&summary, options.summary);
            char *text = json_write(report, 1);

            puts(text);
            free(text);
            json_drop(report);
        } else
            print_text(&summary);
    }
    summary_free(&summary);
    source_close(&source);
    return rc;
}
