/* tokenizer_source.c - finds tokenizer.json among what a model is made of. */
#include "text/tokenizer_source.h"
#include "base/file.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int open_record(struct source *source, const struct record *record, struct tokenizer **tokenizer)
{
    struct tensor content = {0};
    int rc = source_load(source, record, &content);

    if (!rc)
        rc = tokenizer_open((const char *)content.data, (size_t)record->bytes, source->name, tokenizer);
    tensor_free(&content);
    return rc;
}

int tokenizer_from_source(struct source *source, struct tokenizer **tokenizer)
{
    int rc = EX_OK;
    bool more = true;

    *tokenizer = NULL;
    while (more && !rc && !*tokenizer) {
        struct record record;

        if ((rc = source_next(source, &record)))
            break;
        more = record.kind == RECORD_FILE;
        if (more && !strcmp(record.name, "tokenizer.json"))
            rc = open_record(source, &record, tokenizer);
        record_free(&record);
    }
    if (!rc && !*tokenizer)
        rc = fail(EX_DATAERR, "'%s': no tokenizer: it holds no file 'tokenizer.json'", source->name);
    return rc;
}

/* A regular file whose first character is a brace. */
static bool is_json(const char *path)
{
    struct stat about;
    FILE *file;
    int c;

    if (file_is_stdin(path) || stat(path, &about) || !S_ISREG(about.st_mode) || !(file = fopen(path, "rbe")))
        return false;
    do
        c = getc(file);
    while (isspace(c));
    fclose(file);
    return c == '{';
}

int tokenizer_from_path(const char *path, struct tokenizer **tokenizer)
{
    struct source source = {0};
    struct text json = {0};
    int rc;

    *tokenizer = NULL;
    if (is_json(path)) {
        rc = file_read(path, (size_t)1 << 30, &json);
        if (!rc)
            rc = tokenizer_open(json.data, json.length, path, tokenizer);
        text_free(&json);
        return rc;
    }
    if (!(rc = source_open(&source, path)))
        rc = tokenizer_from_source(&source, tokenizer);
    source_close(&source);
    return rc;
}
