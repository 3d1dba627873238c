/* gguf_dump - writes what the library makes of a GGUF file, for tests/oracles/gguf_oracle.py and by hand.
 *
 *     gguf_dump MODEL DIRECTORY [PIECE]
 *
 * DIRECTORY (which exists) gets each payload under its index, read in pieces of PIECE bytes (1 MiB), and index.json.
 * With "-" for DIRECTORY the payloads are read and thrown away, for timing. */
#include "base/file.h"
#include "files/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int dump(const struct model *model, const struct item *item, FILE *to, size_t piece, void *buffer)
{
    for (int64_t from = 0; from < item->record.bytes; from += (int64_t)piece) {
        int64_t left = item->record.bytes - from;
        size_t take = left < (int64_t)piece ? (size_t)left : piece;
        int rc = model->container->read(model, item, from, take, buffer);

        if (rc)
            return rc;
        if (to && fwrite(buffer, 1, take, to) != take)
            return fail(EX_IOERR, "cannot write:");
    }
    return EX_OK;
}

static void describe(struct json *index, const struct item *item)
{
    struct json *entry = json_clone(item->record.map);

    json_put(entry, "stored", json_make_string(item->stored));
    json_put(entry, "stored_bytes", json_make_int(item->stored_bytes));
    json_append(index, entry);
}

static int dump_all(const struct model *model, const char *directory, size_t piece)
{
    struct json *index = json_make_array();
    void *buffer = xmalloc(piece);
    char *text;
    FILE *to;
    int rc = EX_OK;

    for (size_t i = 0; i < model->n_item && !rc; i++) {
        char *path = xasprintf("%s/%zu", directory, i);

        to = strcmp(directory, "-") ? fopen(path, "wb") : NULL;
        rc = dump(model, &model->item[i], to, piece, buffer);
        if (to && fclose(to))
            rc = fail(EX_IOERR, "cannot write '%s':", path);
        describe(index, &model->item[i]);
        free(path);
    }
    free(buffer);
    text = json_write(index, 1);
    if (!rc && strcmp(directory, "-")) {
        char *path = file_join(directory, "index.json");

        to = fopen(path, "w");
        if (!to || fputs(text, to) < 0 || fclose(to))
            rc = fail(EX_IOERR, "cannot write '%s':", path);
        free(path);
    }
    free(text);
    json_drop(index);
    return rc;
}

int main(int argc, char **argv)
{
    struct model model;
    int rc;

    error_program("gguf_dump");
    if (argc < 3)
        return fail(EX_USAGE, "usage: gguf_dump MODEL DIRECTORY [PIECE]");
    if ((rc = model_open(&model, argv[1])))
        return rc;
    rc = dump_all(&model, argv[2], argc > 3 ? strtoul(argv[3], NULL, 10) : 1 << 20);
    printf("%s %016llx %lld\n", model.container->format, (unsigned long long)model.identity,
           (long long)model.file_bytes);
    model_close(&model);
    return rc;
}
