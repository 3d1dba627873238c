/* hidden_file.c - hidden states as a tensor stream. */
#include "model/hidden_file.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "stream/reader.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 22 };        /* bytes of hidden states that are written together */

/* Reads the next record, which must be a tensor of this name, dtype and rank. */
static int expect(struct reader *reader, const char *name, enum dtype_kind kind, int rank, struct record *record)
{
    char found[DTYPE_NAME], due[DTYPE_NAME];
    int rc = reader_next(reader, record);

    if (rc)
        return rc;
    if (record->kind != RECORD_TENSOR || strcmp(record->name, name) || record->dtype.kind != kind
        || record->rank != rank) {
        rc = fail(EX_DATAERR, "'%s': no file of hidden states: '%s' (%d axes, %s) where '%s' (%d axes, %s) is due",
                  reader->where, record->name ? record->name : "end", record->rank, dtype_name(record->dtype, found),
                  name, rank, dtype_name((struct dtype){.kind = kind}, due));
        record_free(record);
    }
    return rc;
}

/* A list of whole numbers, the caller's; NULL where rc isn't EX_OK. */
static int64_t *take_numbers(struct reader *reader, const char *name, int64_t *count, int *rc)
{
    struct tensor tensor = {0};
    struct record record;
    int64_t *numbers;

    if ((*rc = expect(reader, name, DTYPE_I64, 1, &record)))
        return NULL;
    *rc = reader_load(reader, &record, &tensor);
    numbers = (int64_t *)(void *)tensor.data;
    *count = record.shape[0];
    record_free(&record);
    return numbers;
}

static int check_config(const struct reader *reader, const struct config *config)
{
    struct config own;
    int rc;

    if (!reader->config)
        return fail(EX_DATAERR, "'%s': no file of hidden states: no model's configuration", reader->where);
    if ((rc = config_read(reader->config, reader->where, &own)))
        return rc;
    return config_same_shapes(&own, config) ? EX_OK :
           fail(EX_DATAERR, "'%s': hidden states of a model of other sizes ('hidden_size' %lld, expected %lld, "
                "'num_hidden_layers' %lld, expected %lld)", reader->where, (long long)own.d_model,
                (long long)config->d_model, (long long)own.n_layer, (long long)config->n_layer);
}

static int take_block(struct reader *reader, int64_t block)
{
    int64_t count, *number;
    int rc;

    if (!(number = take_numbers(reader, "block", &count, &rc)))
        return rc;
    if (count != 1 || *number != block)
        rc = fail(EX_DATAERR, "'%s': hidden states that enter block %lld, expected block %lld", reader->where,
                  count == 1 ? (long long)*number : -1, (long long)block);
    free(number);
    return rc;
}

/* Pieces of the payload may end within a row. */
static int take_rows(struct reader *reader, struct hidden *hidden)
{
    int64_t row_bytes = hidden->width * (int64_t)sizeof(float), row = 0;
    unsigned char *one = xmalloc((size_t)row_bytes);
    const unsigned char *data;
    size_t size, filled = 0;
    int rc;

    while (!(rc = reader_piece(reader, &data, &size)) && size) {
        for (size_t at = 0, part; at < size && !rc; at += part) {
            part = (size_t)least((int64_t)(size - at), row_bytes - (int64_t)filled);
            memcpy(one + filled, data + at, part);
            if ((filled += part) == (size_t)row_bytes) {
                rc = hidden_write(hidden, row++, 1, (const float *)(void *)one);
                filled = 0;
            }
        }
        if (rc)
            break;
    }
    free(one);
    return rc;
}

static int take_hidden(struct reader *reader, int64_t width, int64_t memory, struct hidden *hidden)
{
    struct record record;
    int rc = expect(reader, "hidden", DTYPE_F32, 2, &record);

    if (rc)
        return rc;
    if (record.shape[1] != width || !record.shape[0])
        rc = fail(EX_DATAERR, "'%s': hidden states [%lld, %lld], expected [tokens, %lld]", reader->where,
                  (long long)record.shape[0], (long long)record.shape[1], (long long)width);
    /* From a pipe a lying size would ask for memory that no bytes stand behind. */
    if (!rc && !(rc = hidden_open(hidden, record.shape[0], width, reader->size < 0 ? 0 : memory)))
        rc = take_rows(reader, hidden);
    record_free(&record);
    return rc;
}

static int take_lengths(struct reader *reader, struct hidden_file *file)
{
    int64_t left = file->hidden.rows, *length;
    int rc;

    if (!(length = take_numbers(reader, "lengths", &file->count, &rc)))
        return rc;
    file->sequence = xcalloc((size_t)file->count, sizeof *file->sequence);
    for (int64_t s = 0; s < file->count && !rc; s++) {
        if (length[s] < 1 || length[s] > left)
            rc = fail(EX_DATAERR, "'%s': sequence %lld of %lld tokens, of which %lld are left", reader->where,
                      (long long)s, (long long)length[s], (long long)left);
        file->sequence[s] = (struct sequence){NULL, length[s], -1};
        left -= length[s];
    }
    if (!rc && left)
        rc = fail(EX_DATAERR, "'%s': %lld tokens belong to no sequence", reader->where, (long long)left);
    free(length);
    return rc;
}

static int take_end(struct reader *reader)
{
    struct record record;
    int rc = reader_next(reader, &record);

    if (!rc && record.kind != RECORD_END)
        rc = fail(EX_DATAERR, "'%s': '%s' behind the hidden states", reader->where, record.name);
    record_free(&record);
    return rc;
}

int hidden_file_read(struct hidden_file *file, const char *path, const struct config *config, int64_t block,
                     int64_t memory)
{
    struct reader reader;
    int rc = reader_open(&reader, path);

    *file = (struct hidden_file){.hidden.fd = -1};
    if (!rc && !(rc = check_config(&reader, config)) && !(rc = take_block(&reader, block))
        && !(rc = take_hidden(&reader, config->d_model, memory, &file->hidden))
        && !(rc = take_lengths(&reader, file)) && !(rc = take_end(&reader)))
        file->history = json_keep(reader.history);
    reader_close(&reader);
    if (rc)
        hidden_file_close(file);
    return rc;
}

void hidden_file_close(struct hidden_file *file)
{
    hidden_close(&file->hidden);
    free(file->sequence);
    json_drop(file->history);
    *file = (struct hidden_file){.hidden.fd = -1};
}

static int put_numbers(struct writer *writer, const char *name, const int64_t *number, int64_t count)
{
    struct record record = record_tensor(name, DTYPE(I64), 1, &count);
    int rc = writer_put(writer, &record, number);

    record_free(&record);
    return rc;
}

static int put_hidden(struct writer *writer, const struct hidden *hidden)
{
    int64_t shape[2] = {hidden->rows, hidden->width};
    int64_t step = most(PIECE / (hidden->width * (int64_t)sizeof(float)), 1);
    struct record record = record_tensor("hidden", DTYPE(F32), 2, shape);
    float *rows = xaligned((size_t)(step * hidden->width), sizeof *rows);
    int rc = writer_begin(writer, &record);

    for (int64_t first = 0; first < hidden->rows && !rc; first += step) {
        int64_t n = least(step, hidden->rows - first);

        if (!(rc = hidden_read(hidden, first, n, rows)))
            rc = writer_add(writer, rows, (size_t)(n * hidden->width) * sizeof *rows);
    }
    if (!rc)
        rc = writer_finish(writer);
    free(rows);
    record_free(&record);
    return rc;
}

int hidden_file_write(struct writer *writer, const struct hidden *hidden, const struct sequence *sequence,
                      int64_t count, int64_t block)
{
    int64_t *length = xmallocarray((size_t)count, sizeof *length);
    int rc = put_numbers(writer, "block", &block, 1);

    for (int64_t s = 0; s < count; s++)
        length[s] = sequence[s].n;
    if (!rc && !(rc = put_hidden(writer, hidden)))
        rc = put_numbers(writer, "lengths", length, count);
    free(length);
    return rc;
}
