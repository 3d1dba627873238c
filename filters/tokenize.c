/* tokenize - text to token ids and back, with a model's tokenizer. */
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "text/tokenizer.h"
#include "text/tokenizer_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_DECODE = 1, KEY_SKIP, KEY_PLAIN, KEY_COUNT, KEY_TOKENS, KEY_JSON, KEY_LINES, KEY_JSONL };

static struct {
    const char *model, *text;    /* text NULL: standard input */
    bool decode, skip_special, plain, count, tokens, json, lines, jsonl;
} options;

static const struct argp_option table[] = {
    {"decode", KEY_DECODE, NULL, 0, "read ids, separated by spaces, commas or brackets, and write their text", 1},
    {"skip-special", KEY_SKIP, NULL, 0, "with --decode: leave special tokens out", 1},
    {"plain", KEY_PLAIN, NULL, 0, "don't add the tokens that the model wants before or behind a text", 2},
    {"lines", KEY_LINES, NULL, 0, "take each line, without its line feed, as a text of its own", 3},
    {"jsonl", KEY_JSONL, NULL, 0, "take each line as a JSON string that holds a text", 3},
    {"count", KEY_COUNT, NULL, 0, "print the number of tokens only", 4},
    {"tokens", KEY_TOKENS, NULL, 0, "print one token a line: id, tab, as the vocabulary has it; an empty "
     "line behind each of several texts", 4},
    {"json", KEY_JSON, NULL, 0, "print a JSON list of ids, or with --decode a JSON string, for each text", 4},
    {0},
};

static void check_options(void)
{
    if (!options.model)
        die(EX_USAGE, "expected a model or a tokenizer.json");
    if (!options.text && !strcmp(options.model, "-"))
        die(EX_USAGE, "the model and the text can't both come from standard input");
    if (options.count + options.tokens + options.json > 1)
        die(EX_USAGE, "--count, --tokens and --json exclude each other");
    if (options.decode && (options.plain || options.count || options.tokens || options.jsonl))
        die(EX_USAGE, "--decode excludes --plain, --jsonl, --count and --tokens");
    if (options.skip_special && !options.decode)
        die(EX_USAGE, "--skip-special goes with --decode");
    if (options.lines && options.jsonl)
        die(EX_USAGE, "--lines and --jsonl exclude each other");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    bool *const flags[] = {[KEY_DECODE] = &options.decode, [KEY_SKIP] = &options.skip_special,
                           [KEY_PLAIN] = &options.plain, [KEY_COUNT] = &options.count, [KEY_TOKENS] = &options.tokens,
                           [KEY_JSON] = &options.json, [KEY_LINES] = &options.lines, [KEY_JSONL] = &options.jsonl};

    (void)state;
    if (key >= KEY_DECODE && key <= KEY_JSONL) {
        *flags[key] = true;
        return 0;
    }
    if (key == ARGP_KEY_END)
        check_options();
    else if (key == ARGP_KEY_ARG && !options.model)
        options.model = value;
    else if (key == ARGP_KEY_ARG && !options.text)
        options.text = value;
    else if (key == ARGP_KEY_ARG)
        die(EX_USAGE, "unexpected operand '%s'", value);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static const struct program program = {
    .name = "tokenize",
    .operands = "MODEL [FILE]",
    .purpose = "Turn text into the token ids of a model, or ids into text.",
    .details = "MODEL is a directory, a GGUF file, a stream or a tokenizer.json; FILE the text, standard input "
               "otherwise. Ids are written with spaces between them and a line feed behind. Special tokens in the text "
               "are recognised. Bytes that are not UTF-8 are read as U+FFFD.",
    .example = "  echo 'Once upon a time' | tokenize model | tokenize --decode model",
    .table = table,
    .parse = parse,
};

/* ---- one text ---- */

static const char *text_name(void)
{
    return file_input_name(options.text);
}

static struct text out;          /* collected, for few writes */

static void flush(void)
{
    if (out.length)
        fwrite(out.data, 1, out.length, stdout);
    out.length = 0;
}

static void put_int(int64_t number)
{
    char digits[24];
    int at = sizeof digits;

    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    text_append(&out, digits + at, sizeof digits - (size_t)at);
}

static void put_json(const char *data, size_t length)
{
    struct json *string = json_make_stringn(data, length);
    char *written = json_write(string, 0);

    text_append(&out, written, strlen(written));
    free(written);
    json_drop(string);
}

static void write_ids(const struct tokenizer *tokenizer, const struct ids *ids)
{
    if (options.count) {
        put_int((int64_t)ids->count);
        text_append(&out, "\n", 1);
        return;
    }
    text_append(&out, "[", options.json);
    for (size_t i = 0; i < ids->count; i++) {
        const char *token = tokenizer_token(tokenizer, ids->id[i]);

        if (i && !options.tokens)
            text_append(&out, options.json ? "," : " ", 1);
        put_int(ids->id[i]);
        if (options.tokens)
            text_format(&out, "\t%s\n", token ? token : "");
    }
    text_append(&out, "]", options.json);
    text_append(&out, "\n", !options.tokens || options.lines || options.jsonl);
}

static void encode(struct tokenizer *tokenizer, const char *text, size_t length, struct ids *ids)
{
    ids->count = 0;
    tokenizer_encode(tokenizer, text, length, options.plain ? TOKENIZE_PLAIN : TOKENIZE_TEMPLATE, ids);
    write_ids(tokenizer, ids);
}

static int encode_json(struct tokenizer *tokenizer, const char *text, size_t length, int64_t line, struct ids *ids)
{
    char *what = xasprintf("%s, line %lld", text_name(), (long long)line);
    struct json *string = json_parse(text, length, what);
    int rc = string ? EX_OK : EX_DATAERR;

    if (string && json_kind(string) != JSON_KIND_STRING)
        rc = fail(EX_DATAERR, "'%s': expected a JSON string, found '%.*s'", what, (int)(length < 60 ? length : 60),
                  text);
    else if (string)
        encode(tokenizer, json_as_string(string, ""), json_as_length(string), ids);
    free(what);
    json_drop(string);
    return rc;
}

static int read_ids(const struct tokenizer *tokenizer, const char *text, size_t length, struct ids *ids)
{
    const char *end = text + length;

    ids->count = 0;
    while (text < end) {
        int64_t id = 0;
        const char *from = text;

        if (*text && strchr(" \t\r\n,[]", *text)) {
            text++;
            continue;
        }
        for (; text < end && *text >= '0' && *text <= '9' && id < tokenizer_size(tokenizer); text++)
            id = id * 10 + (*text - '0');
        if (text == from || id >= tokenizer_size(tokenizer))
            return fail(EX_DATAERR, "expected an id from 0 to %d, found '%.*s'", tokenizer_size(tokenizer) - 1,
                        (int)(end - from < 20 ? end - from : 20), from);
        ids_append(ids, (int32_t)id);
    }
    return EX_OK;
}

static int decode(struct tokenizer *tokenizer, const char *text, size_t length, struct ids *ids)
{
    struct text made = {0};
    int rc = read_ids(tokenizer, text, length, ids);

    if (rc)
        return rc;
    text_append(&made, "", 0);
    tokenizer_decode(tokenizer, ids->id, ids->count, options.skip_special, &made);
    if (options.json)
        put_json(made.data, made.length);
    else
        text_append(&out, made.data, made.length);
    text_append(&out, "\n", options.lines || options.json);
    text_free(&made);
    return EX_OK;
}

/* ---- all texts ---- */

/* The next text: a line without its line feed, or all there is. False at the end. */
static bool next_text(FILE *file, char **text, size_t *capacity, size_t *length)
{
    const bool whole = !options.lines && !options.jsonl;
    ssize_t got;

    if (whole) {
        struct text all = {0};
        char piece[1 << 16];
        size_t size;

        text_append(&all, "", 0);
        while ((size = fread(piece, 1, sizeof piece, file)))
            text_append(&all, piece, size);
        *text = all.data;
        *length = all.length;
        return !ferror(file);
    }
    if ((got = getline(text, capacity, file)) < 0)
        return false;
    *length = (size_t)got - ((*text)[got - 1] == '\n');
    return true;
}

static int each_text(struct tokenizer *tokenizer, FILE *file)
{
    const bool whole = !options.lines && !options.jsonl;
    struct ids ids = {0};
    char *text = NULL;
    size_t capacity = 0, length;
    int64_t number = 0;
    int rc = EX_OK;

    while (!rc && next_text(file, &text, &capacity, &length)) {
        number++;
        if (options.decode)
            rc = decode(tokenizer, text, length, &ids);
        else if (options.jsonl)
            rc = encode_json(tokenizer, text, length, number, &ids);
        else
            encode(tokenizer, text, length, &ids);
        if (out.length > 1 << 16)
            flush();
        if (whole)
            break;
    }
    if (!rc && ferror(file))
        rc = fail(EX_IOERR, "cannot read '%s':", text_name());
    flush();
    free(text);
    ids_free(&ids);
    return rc;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    FILE *file = stdin;
    int rc;

    options_parse(&program, argc, argv);
    rc = tokenizer_from_path(options.model, &tokenizer);
    if (!rc && !file_is_stdin(options.text) && !(file = fopen(options.text, "rbe")))
        rc = fail(EX_NOINPUT, "cannot read '%s':", options.text);
    if (!rc)
        rc = each_text(tokenizer, file);
    if (file && file != stdin)
        fclose(file);
    text_free(&out);
    tokenizer_close(tokenizer);
    return rc;
}
