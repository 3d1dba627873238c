/* source.c - one sequence of records from a model on disk or from a stream. */
#include "files/source.h"
#include "base/hash.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

/* A directory or a GGUF file; whatever else it is, the stream reader says what is wrong with it. */
static bool is_model(const char *path)
{
    unsigned char first[8];
    struct stat about;
    int fd;
    ssize_t got;

    if (file_is_stdin(path) || stat(path, &about))
        return false;
    if (S_ISDIR(about.st_mode))
        return true;
    if (!S_ISREG(about.st_mode) || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return false;
    got = read(fd, first, sizeof first);
    close(fd);
    return got > 0 && gguf_recognises(first, (size_t)got);
}

int source_open(struct source *source, const char *path)
{
    int rc;

    *source = (struct source){.is_model = is_model(path), .reader.fd = -1};
    if (source->is_model) {
        rc = model_open(&source->model, path);
        source->config = source->model.config;
        source->history = source->model.history;
        source->name = source->model.name;
    } else {
        rc = reader_open(&source->reader, path);
        source->config = source->reader.config;
        source->history = source->reader.history;
        source->name = source->reader.where;
    }
    return rc;
}

int source_next(struct source *source, struct record *record)
{
    if (!source->is_model)
        return reader_next(&source->reader, record);
    if (source->next == source->model.n_item)
        *record = (struct record){.kind = RECORD_END};
    else
        *record = record_copy(&source->model.item[source->next++].record);
    return EX_OK;
}

struct json *source_history(const struct source *source)
{
    struct json *history = json_clone(source->history), *entry;
    char identity[HASH_TEXT];

    if (!source->is_model || json_count(history))
        return history;
    entry = json_make_object();
    json_put(entry, "model", json_make_string(source->name));
    json_put(entry, "identity", json_make_string(hash_text(source->model.identity, identity)));
    json_append(history, history_entry("extract-layer", entry));
    return history;
}

const struct item *source_item(const struct source *source)
{
    return source->is_model && source->next ? &source->model.item[source->next - 1] : NULL;
}

static int read_item(const struct source *source, int64_t from, size_t size, void *to)
{
    const struct item *item = source_item(source);

    return source->model.container->read(&source->model, item, from, size, to);
}

int source_load(struct source *source, const struct record *record, struct tensor *tensor)
{
    int rc;

    if (!source->is_model)
        return reader_load(&source->reader, record, tensor);
    *tensor = tensor_new(record->dtype, record->rank, record->shape);
    if ((rc = read_item(source, 0, (size_t)tensor->bytes, tensor->data)))
        tensor_free(tensor);
    return rc;
}

static int each_piece(struct source *source, const struct record *record,
                      int (*take)(void *context, const void *data, size_t size), void *context)
{
    unsigned char *piece = xaligned(PIECE, 1);
    int rc = EX_OK;

    for (int64_t from = 0; from < record->bytes && !rc; from += PIECE) {
        size_t size = record->bytes - from < PIECE ? (size_t)(record->bytes - from) : PIECE;

        if (!(rc = read_item(source, from, size, piece)))
            rc = take(context, piece, size);
    }
    free(piece);
    return rc;
}

int source_each(struct source *source, const struct record *record,
                int (*take)(void *context, const void *data, size_t size), void *context)
{
    const unsigned char *data;
    size_t size;
    int rc;

    if (source->is_model)
        return each_piece(source, record, take, context);
    while (!(rc = reader_piece(&source->reader, &data, &size)) && size)
        if ((rc = take(context, data, size)))
            break;
    return rc;
}

static int add_piece(void *context, const void *data, size_t size)
{
    return writer_add(context, data, size);
}

int source_pass(struct source *source, struct record *record, struct writer *writer)
{
    int rc;

    if (!source->is_model)
        return reader_pass(&source->reader, record, writer);
    if ((rc = writer_begin(writer, record)) || (rc = each_piece(source, record, add_piece, writer)))
        return rc;
    return writer_finish(writer);
}

void source_close(struct source *source)
{
    if (source->is_model)
        model_close(&source->model);
    else
        reader_close(&source->reader);
    *source = (struct source){.reader.fd = -1};
}
