/* teacher_logits.c - reads a teacher's predictions window by window, in any order. */
#include "measure/teacher_logits.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"
#include "stream/reader.h"
#include "stream/wire.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How far rounding moves a sum of probabilities from 1: in f16 log p is off by 2^-12 of itself, and the mean of |log p|
 * is an entropy, at most some 12 nats. */
static const double SUM_OFF = 0.01;

static int64_t window_rows(const struct training_text *text, int64_t window)
{
    int64_t rows = 0;

    for (int64_t i = 0; i < training_text_tokens(text, window); i++)
        rows += text->counts[window * text->context + i] != 0;
    return rows;
}

/* ---- rows ---- */

/* The payloads of a window as they are in the file. */
struct stored {
    struct tensor ids, log_p, rest;
};

static void stored_free(struct stored *s)
{
    tensor_free(&s->ids);
    tensor_free(&s->log_p);
    tensor_free(&s->rest);
}

/* Row number `row`, checked and divided by its sum. */
static int take_row(const struct teacher_logits *l, const struct stored *s, int64_t window, int64_t row, int32_t *id,
                    float *log_p, float *rest)
{
    int64_t k = l->top.k;
    bool finite = true;
    double others, sum;

    memcpy(rest, s->rest.data + row * (int64_t)sizeof *rest, sizeof *rest);
    others = sum = (double)*rest;
    tensor_get_rows(&s->log_p, row, 1, log_p);
    for (int64_t j = 0; j < k; j++) {
        const void *at = s->ids.data + (row * k + j) * dtype_size(s->ids.dtype);

        id[j] = s->ids.dtype.kind == DTYPE_I16 ? *(const int16_t *)at : *(const int32_t *)at;
        if (id[j] < 0 || id[j] >= l->vocab_size || (j && id[j] <= id[j - 1]))
            return fail(EX_DATAERR, "'%s': window %lld, row %lld: id %ld where ascending ones below %lld are due",
                        l->path, (long long)window, (long long)row, (long)id[j], (long long)l->vocab_size);
        finite &= isfinite(log_p[j]);
        sum += exp((double)log_p[j]);
    }
    if (!finite || !(others >= 0 && fabs(sum - 1) <= SUM_OFF) || (k == l->vocab_size && others > 0))
        return fail(EX_DATAERR, "'%s': window %lld, row %lld: probabilities sum to %g, %g of it for other ids", l->path,
                    (long long)window, (long long)row, sum, others);
    *rest = (float)(others / sum);
    for (int64_t j = 0; j < k; j++)
        log_p[j] = (float)((double)log_p[j] - log(sum));
    return EX_OK;
}

/* ---- opening ---- */

static int about_differs(const struct teacher_logits *l, const struct json *options, const char *key, int64_t expected,
                         const char *what)
{
    int64_t found = json_as_int(json_at(options, key), -1);

    return found == expected ? EX_OK : fail(EX_DATAERR, "'%s': logits of %s %lld, expected %lld", l->path, what,
                                            (long long)found, (long long)expected);
}

/* That it holds logits at all, and of this text. */
static int check_about(struct teacher_logits *l, const struct reader *reader, const struct training_text *text)
{
    size_t entries = json_count(reader->history);
    const struct json *options = entries ? json_at(json_item(reader->history, entries - 1), "options") : NULL;
    struct config config;
    const char *hash = json_as_string(json_at(text->about, "hash"), "");
    int rc;

    l->top.k = json_as_int(json_at(options, "top"), -1);
    if (strcmp(json_as_string(json_at(options, "measure"), ""), "logits") || !reader->config)
        return fail(EX_DATAERR, "'%s': not a file of logits (evaluate logits)", l->path);
    if ((rc = config_read(reader->config, reader->where, &config)))
        return rc;
    if (config.vocab_size != l->vocab_size)
        return fail(EX_DATAERR, "'%s': logits of a vocabulary of %lld tokens, expected %lld", l->path,
                    (long long)config.vocab_size, (long long)l->vocab_size);
    if (l->top.k < 1 || l->top.k > l->vocab_size)
        return fail(EX_DATAERR, "'%s': the top %lld logits of %lld", l->path, (long long)l->top.k,
                    (long long)l->vocab_size);
    if ((rc = about_differs(l, options, "context", text->context, "windows of --context"))
        || (rc = about_differs(l, options, "tokens", (int64_t)text->ids.count, "a text whose tokens are")))
        return rc;
    if (strcmp(json_as_string(json_at(options, "hash"), ""), hash))
        return fail(EX_DATAERR, "'%s': logits of another text, or for another tokenizer, template or choice of answers "
                    "(%s, expected %s)", l->path, json_as_string(json_at(options, "hash"), "no hash"), hash);
    return EX_OK;
}

static bool fits(const struct record *record, const char *name, int rank, int64_t rows, int64_t k)
{
    return record->kind == RECORD_TENSOR && !strcmp(record->name, name) && record->rank == rank
           && record->shape[0] == rows && (rank == 1 || record->shape[1] == k);
}

/* The next tensor, whole; where its payload lies goes to *offset. */
static int take_tensor(struct teacher_logits *l, struct reader *reader, int64_t window, const char *part, int rank,
                       int64_t rows, struct tensor *tensor, int64_t *offset)
{
    char *name = xasprintf("window.%010lld.%s", (long long)window, part);
    struct record record;
    int rc = reader_next(reader, &record);

    if (!rc && (!fits(&record, name, rank, rows, l->top.k) || record.bytes > WIRE_CHUNK))
        rc = fail(EX_DATAERR, "'%s': '%s', %lld rows, where '%s' of %lld is due", l->path,
                  record.name ? record.name : "end", record.rank ? (long long)record.shape[0] : 0LL, name,
                  (long long)rows);
    *offset = reader->offset;
    if (!rc)
        rc = reader_load(reader, &record, tensor);
    record_free(&record);
    free(name);
    return rc;
}

static int check_dtypes(struct teacher_logits *l, const struct stored *s, int64_t window)
{
    enum dtype_kind ids = s->ids.dtype.kind, log_p = s->log_p.dtype.kind;

    if (window == 0) {
        l->id_dtype = s->ids.dtype;
        l->log_dtype = s->log_p.dtype;
    }
    if ((ids != DTYPE_I16 && ids != DTYPE_I32) || (log_p != DTYPE_F16 && log_p != DTYPE_F32)
        || s->rest.dtype.kind != DTYPE_F32 || !dtype_same(l->id_dtype, s->ids.dtype)
        || !dtype_same(l->log_dtype, s->log_p.dtype))
        return fail(EX_DATAERR, "'%s': window %lld has other dtypes than i16 or i32, f32 or f16, and f32, in all "
                    "windows the same", l->path, (long long)window);
    return EX_OK;
}

static int take_window(struct teacher_logits *l, struct reader *reader, const struct training_text *text,
                       int64_t window, struct hash *hash)
{
    int64_t rows = window_rows(text, window);
    struct stored s = {0};
    int rc = take_tensor(l, reader, window, "ids", 2, rows, &s.ids, &l->offset[window]);

    if (!rc)
        hash_update(hash, &reader->checksum, sizeof reader->checksum);
    if (!rc && !(rc = take_tensor(l, reader, window, "log_p", 2, rows, &s.log_p, &l->log_offset[window])))
        hash_update(hash, &reader->checksum, sizeof reader->checksum);
    if (!rc && !(rc = take_tensor(l, reader, window, "rest", 1, rows, &s.rest, &l->rest_offset[window])))
        hash_update(hash, &reader->checksum, sizeof reader->checksum);
    if (!rc)
        rc = check_dtypes(l, &s, window);
    for (int64_t row = 0; row < rows && !rc; row++)
        rc = take_row(l, &s, window, row, l->id, l->log_p, l->rest);
    stored_free(&s);
    return rc;
}

static void make_room(struct teacher_logits *l, int64_t rows)
{
    if (rows <= l->room)
        return;
    l->room = rows;
    l->id = xreallocarray(l->id, (size_t)(rows * l->top.k), sizeof *l->id);
    l->log_p = xreallocarray(l->log_p, (size_t)(rows * l->top.k), sizeof *l->log_p);
    l->rest = xreallocarray(l->rest, (size_t)rows, sizeof *l->rest);
    l->top = (struct loss_top){l->top.k, l->id, l->log_p, l->rest};
}

static int take_windows(struct teacher_logits *l, struct reader *reader, const struct training_text *text)
{
    struct hash *hash = hash_new();
    struct record record = {0};
    int rc = EX_OK;

    l->offset = xcalloc((size_t)text->windows, 3 * sizeof *l->offset);
    l->log_offset = l->offset + text->windows;
    l->rest_offset = l->log_offset + text->windows;
    make_room(l, 1);
    for (int64_t w = 0; w < text->windows && !rc; w++)
        rc = take_window(l, reader, text, w, hash);
    if (!rc && !(rc = reader_next(reader, &record)) && record.kind != RECORD_END)
        rc = fail(EX_DATAERR, "'%s': '%s' behind the last of %lld windows", l->path, record.name,
                  (long long)text->windows);
    record_free(&record);
    l->hash = hash_value(hash);
    hash_free(hash);
    return rc;
}

int teacher_logits_open(struct teacher_logits *logits, const char *path, const struct training_text *text,
                        int64_t vocab_size)
{
    struct reader reader;
    int rc = reader_open(&reader, path);

    *logits = (struct teacher_logits){.fd = -1, .path = xstrdup(file_input_name(path)), .vocab_size = vocab_size};
    if (!rc && reader.size < 0)
        rc = fail(EX_USAGE, "'%s': logits are read in any order, from a file only", logits->path);
    if (!rc && !(rc = check_about(logits, &reader, text)) && !(rc = take_windows(logits, &reader, text))
        && (logits->fd = fcntl(reader.fd, F_DUPFD_CLOEXEC, 0)) < 0)
        rc = fail(EX_OSERR, "cannot keep '%s' open:", logits->path);
    reader_close(&reader);
    return rc;
}

/* ---- reading ---- */

static int read_at(const struct teacher_logits *l, struct dtype dtype, int rank, int64_t rows, int64_t offset,
                   struct tensor *tensor)
{
    *tensor = tensor_new(dtype, rank, (int64_t[]){rows, l->top.k});
    return file_read_at(l->fd, l->path, tensor->data, (size_t)tensor->bytes, offset);
}

/* The rows of a window go to tokens from row `at` on. */
static int read_window(struct teacher_logits *l, const struct training_text *text, int64_t window, int64_t at)
{
    int64_t rows = window_rows(text, window), row = 0, k = l->top.k;
    struct stored s = {0};
    int rc = read_at(l, l->id_dtype, 2, rows, l->offset[window], &s.ids);

    if (!rc && !(rc = read_at(l, l->log_dtype, 2, rows, l->log_offset[window], &s.log_p)))
        rc = read_at(l, DTYPE(F32), 1, rows, l->rest_offset[window], &s.rest);
    for (int64_t i = 0; i < training_text_tokens(text, window) && !rc; i++)
        if (text->counts[window * text->context + i])
            rc = take_row(l, &s, window, row++, l->id + (at + i) * k, l->log_p + (at + i) * k, l->rest + at + i);
    stored_free(&s);
    return rc;
}

int teacher_logits_read(struct teacher_logits *logits, struct training_text *text, int64_t first, int64_t count)
{
    int64_t at = 0;
    int rc = EX_OK;

    make_room(logits, count * text->context);
    for (int64_t i = first; i < first + count && !rc; i++) {
        int64_t window = training_text_window(text, i);

        rc = read_window(logits, text, window, at);
        at += training_text_tokens(text, window);
    }
    return rc;
}

struct json *teacher_logits_about(const struct teacher_logits *logits)
{
    struct json *about = json_make_object();
    char *name = file_basename(logits->path), hash[HASH_TEXT];

    json_put(about, "name", json_make_string(name));
    json_put(about, "top", json_make_int(logits->top.k));
    json_put(about, "hash", json_make_string(hash_text(logits->hash, hash)));
    free(name);
    return about;
}

void teacher_logits_close(struct teacher_logits *logits)
{
    if (logits->fd >= 0)
        close(logits->fd);
    free(logits->path);
    free(logits->offset);
    free(logits->id);
    free(logits->log_p);
    free(logits->rest);
    *logits = (struct teacher_logits){.fd = -1};
}
