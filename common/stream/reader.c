/* reader.c - takes a stream apart and verifies all of it. */
#include "stream/reader.h"
#include "base/hash.h"
#include "stream/pack.h"
#include "stream/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER = 256 << 10 };
enum { STATE_MAP, STATE_PAYLOAD, STATE_END };

static int bad(const struct reader *reader, const char *format, ...) PRINTF_LIKE(2, 3);

/* One line for whatever is wrong, with the record and the byte where it was noticed. */
static int bad(const struct reader *reader, const char *format, ...)
{
    char *where = xasprintf("cannot read '%s': record %lld, byte %lld", reader->where, (long long)reader->count,
                            (long long)reader->offset);
    va_list args;

    va_start(args, format);
    fail_in(EX_DATAERR, where, format, args);
    va_end(args);
    return EX_DATAERR;
}

/* Reads up to size bytes from the input; 0 at its end, negative after a message. */
static ssize_t take_some(struct reader *reader, void *to, size_t size)
{
    ssize_t got;

    do
        got = read(reader->fd, to, size);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        fail(EX_IOERR, "cannot read '%s':", reader->where);
    return got;
}

static size_t buffered(const struct reader *reader)
{
    return reader->filled - reader->at;
}

/* Makes at least need bytes stand in the buffer (need <= BUFFER). EX_DATAERR where the input ends before. */
static int fill(struct reader *reader, size_t need)
{
    if (buffered(reader) >= need)
        return EX_OK;
    memmove(reader->buffer, reader->buffer + reader->at, buffered(reader));
    reader->filled -= reader->at;
    reader->at = 0;
    while (reader->filled < need) {
        ssize_t got = take_some(reader, reader->buffer + reader->filled, BUFFER - reader->filled);

        if (got < 0)
            return EX_IOERR;
        if (got == 0)
            return bad(reader, "the stream is cut short");
        reader->filled += (size_t)got;
    }
    return EX_OK;
}

static void skip(struct reader *reader, size_t size)
{
    reader->at += size;
    reader->offset += (int64_t)size;
}

/* Takes one map: its bytes into *packed, the caller's. Larger maps than the buffer are rare and grow a block of
 * their own. */
static int take_map(struct reader *reader, struct text *packed)
{
    struct pack_scan scan = {0};
    enum pack_state state;

    while ((state = pack_scan(&scan, (const unsigned char *)packed->data, packed->length)) == PACK_MORE) {
        size_t ahead = scan.at + 1 > packed->length ? scan.at + 1 - packed->length : 1;
        int rc = fill(reader, 1);

        if (rc)
            return rc;
        if (ahead > buffered(reader))
            ahead = buffered(reader);
        text_append(packed, reader->buffer + reader->at, ahead);
        skip(reader, ahead);
    }
    return state == PACK_DONE ? EX_OK : bad(reader, "not a map, or one too large or too deep");
}

static int take_checksum(struct reader *reader, uint64_t expected)
{
    unsigned char little[8];
    int rc = fill(reader, WIRE_CHECKSUM);
    uint64_t found;

    if (rc)
        return rc;
    if (reader->buffer[reader->at] != WIRE_UINT64)
        return bad(reader, "no checksum where one is due");
    found = wire_get(reader->buffer + reader->at + 1, 8);
    if (found != expected)
        return bad(reader, "checksum %016llx, expected %016llx", (unsigned long long)found,
                   (unsigned long long)expected);
    skip(reader, WIRE_CHECKSUM);
    wire_little(little, found);
    hash_update(reader->stream_hash, little, sizeof little);
    reader->checksum = found;
    return EX_OK;
}

static int take_chunk_head(struct reader *reader)
{
    int rc = fill(reader, WIRE_BIN_HEAD);
    int64_t expected = reader->left < WIRE_CHUNK ? reader->left : WIRE_CHUNK;
    const unsigned char *head = reader->buffer + reader->at;

    if (rc)
        return rc;
    if (head[0] != WIRE_BIN32 || (int64_t)wire_get(head + 1, 4) != expected)
        return bad(reader, "no bin of %lld bytes where one is due", (long long)expected);
    skip(reader, WIRE_BIN_HEAD);
    reader->chunk_left = expected;
    return EX_OK;
}

/* The pad behind a record's map, and the head of its payload. */
static int take_pad(struct reader *reader)
{
    size_t pad = (size_t)wire_pad(reader->offset);
    int rc = fill(reader, 2 + pad);
    const unsigned char *at = reader->buffer + reader->at;

    if (rc)
        return rc;
    if (at[0] != WIRE_BIN8 || at[1] != pad)
        return bad(reader, "no pad of %zu bytes where one is due", pad);
    for (size_t i = 0; i < pad; i++)
        if (at[2 + i])
            return bad(reader, "a pad that is not zero");
    skip(reader, 2 + pad);
    return take_chunk_head(reader);
}

static int parse_header(struct reader *reader, struct json *map)
{
    int64_t version = json_as_int(json_at(map, "version"), -1);

    if (strcmp(json_as_string(json_at(map, "kind"), ""), WIRE_MAGIC))
        return bad(reader, "not a tensor stream");
    if (version != WIRE_VERSION)
        return bad(reader, "version %lld of the tensor stream, expected %d", (long long)version, WIRE_VERSION);
    if (!history_good(json_at(map, "history")))
        return bad(reader, "the history is not an array of {program, version, options}");
    reader->history = json_keep(json_at(map, "history"));
    if (json_kind(json_at(map, "config")) == JSON_KIND_OBJECT)
        reader->config = json_keep(json_at(map, "config"));
    else if (json_kind(json_at(map, "config")) != JSON_KIND_NULL)
        return bad(reader, "the configuration is neither a map nor nil");
    return EX_OK;
}

/* A header is a map of four members, the first of them the magic. */
static bool recognises(const unsigned char *first, size_t size)
{
    static const char start[] = "\x84\xa4kind\xaf" WIRE_MAGIC;
    size_t known = sizeof start - 1 < size ? sizeof start - 1 : size;

    return known > 0 && !memcmp(first, start, known);
}

static int take_header(struct reader *reader)
{
    struct text packed = {0};
    const char *reason = NULL;
    struct json *map = NULL;
    int rc = fill(reader, 1);

    if (rc)
        return rc;
    if (!recognises(reader->buffer + reader->at, buffered(reader)))
        return bad(reader, "not a tensor stream");
    rc = take_map(reader, &packed);
    if (!rc)
        rc = take_checksum(reader, hash_of(packed.data, packed.length));
    if (!rc && !(map = pack_read(packed.data, packed.length, &reason)))
        rc = bad(reader, "header: %s", reason);
    if (!rc)
        rc = parse_header(reader, map);
    json_drop(map);
    text_free(&packed);
    return rc;
}

int reader_open(struct reader *reader, const char *path)
{
    bool standard = file_is_stdin(path);
    int rc = EX_OK;

    *reader = (struct reader){.fd = STDIN_FILENO, .size = -1, .where = xstrdup(file_input_name(path))};
    reader->record_hash = hash_new();
    reader->stream_hash = hash_new();
    reader->buffer = xaligned(BUFFER, 1);
    if (standard && isatty(STDIN_FILENO))
        return fail(EX_USAGE, "a tensor stream is not read from a terminal: give a pipe or a model");
    if (!standard)
        rc = file_open(path, &reader->fd, &reader->size);
    if (rc)
        return rc;
    wire_widen(reader->fd);
    return take_header(reader);
}

static int check_order(struct reader *reader, const struct record *record)
{
    const char *trouble = record_after(&reader->last, record);

    if (trouble)
        return bad(reader, "'%s': %s", record ? record->name : reader->last.name, trouble);
    if (record)
        record_remember(&reader->last, record);
    return EX_OK;
}

/* The end: it counts the records, all chains are whole, and nothing follows. */
static int take_end(struct reader *reader, const struct json *map, const struct text *packed)
{
    int64_t count = json_as_int(json_at(map, "count"), -1);
    unsigned char more;
    int rc;

    if (count != reader->count)
        return bad(reader, "the end record counts %lld records, expected %lld", (long long)count,
                   (long long)reader->count);
    hash_update(reader->stream_hash, packed->data, packed->length);
    if ((rc = take_checksum(reader, hash_value(reader->stream_hash))) || (rc = check_order(reader, NULL)))
        return rc;
    reader->state = STATE_END;
    if (buffered(reader) || take_some(reader, &more, 1) != 0)
        return bad(reader, "bytes follow the end record");
    return EX_OK;
}

/* What is left of the current record's payload, verified. */
static int drain(struct reader *reader)
{
    const unsigned char *data;
    size_t size = 1;
    int rc = EX_OK;

    while (!rc && size && reader->state == STATE_PAYLOAD)
        rc = reader_piece(reader, &data, &size);
    return rc;
}

static int parse_record(struct reader *reader, struct text *packed, struct record *record)
{
    const char *trouble = NULL;
    char *reason = NULL;
    int64_t begin = reader->offset - (int64_t)packed->length;
    struct json *map = pack_read(packed->data, packed->length, &trouble);
    int rc;

    if (!map)
        return bad(reader, "%s", trouble);
    if (!strcmp(json_as_string(json_at(map, "kind"), ""), "end")) {
        record->kind = RECORD_END;
        rc = take_end(reader, map, packed);
        json_drop(map);
        return rc;
    }
    rc = record_parse(map, record, &reason);
    if (rc)
        rc = bad(reader, "'%.200s': %s", record->name ? record->name : "?", reason);
    free(reason);
    if (rc || (rc = check_order(reader, record)))
        return rc;
    if (reader->size >= 0 && record->bytes > reader->size - reader->offset)
        return bad(reader, "'%s': %lld bytes, but the file ends %lld bytes on", record->name, (long long)record->bytes,
                   (long long)(reader->size - reader->offset));
    record->index = reader->count;
    record->offset = begin;
    reader->left = record->bytes;
    hash_reset(reader->record_hash);
    hash_update(reader->record_hash, packed->data, packed->length);
    reader->state = STATE_PAYLOAD;
    return take_pad(reader);
}

int reader_next(struct reader *reader, struct record *record)
{
    struct text packed = {0};
    int rc;

    *record = (struct record){.kind = RECORD_END};
    if ((rc = drain(reader)))
        return rc;
    if (reader->state == STATE_END)
        return EX_OK;
    rc = take_map(reader, &packed);
    if (!rc)
        rc = parse_record(reader, &packed, record);
    if (rc)
        record_free(record);
    if (rc || record->kind == RECORD_END) {
        text_free(&packed);
        return rc;
    }
    record->packed = packed.data;
    record->packed_size = packed.length;
    return EX_OK;
}

/* Where the payload is all there: its checksum, and the next map may come. */
static int finish_payload(struct reader *reader)
{
    int rc = take_checksum(reader, hash_value(reader->record_hash));

    reader->state = STATE_MAP;
    reader->count++;
    return rc;
}

int reader_piece(struct reader *reader, const unsigned char **data, size_t *size)
{
    int rc;

    *size = 0;
    if (reader->state != STATE_PAYLOAD)
        return EX_OK;
    if (reader->left == 0)
        return finish_payload(reader);
    if (reader->chunk_left == 0 && (rc = take_chunk_head(reader)))
        return rc;
    if ((rc = fill(reader, 1)))
        return rc;
    *data = reader->buffer + reader->at;
    *size = (int64_t)buffered(reader) < reader->chunk_left ? buffered(reader) : (size_t)reader->chunk_left;
    hash_update(reader->record_hash, *data, *size);
    skip(reader, *size);
    reader->left -= (int64_t)*size;
    reader->chunk_left -= (int64_t)*size;
    return EX_OK;
}

/* Straight from the input into its place, but for what was read ahead. */
static int load_chunk(struct reader *reader, unsigned char *to, int64_t size)
{
    while (size) {
        size_t ahead = buffered(reader);
        ssize_t got;

        if (ahead) {
            got = (int64_t)ahead < size ? (ssize_t)ahead : (ssize_t)size;
            memcpy(to, reader->buffer + reader->at, (size_t)got);
            reader->at += (size_t)got;
        } else if ((got = take_some(reader, to, size < BUFFER ? (size_t)size : BUFFER)) <= 0)
            return got < 0 ? EX_IOERR : bad(reader, "the stream is cut short");
        hash_update(reader->record_hash, to, (size_t)got);
        reader->offset += got;
        to += got;
        size -= got;
    }
    return EX_OK;
}

/* Pages that no byte has reached cost nothing; beyond this size even address space is asked for only as the bytes
 * come in. */
#define TRUSTED ((int64_t)1 << 30)

static int load_payload(struct reader *reader, struct tensor *tensor)
{
    int64_t room = tensor->bytes < TRUSTED || reader->size >= 0 ? tensor->bytes : TRUSTED, at = 0;
    int rc = EX_OK;

    tensor->data = room == tensor->bytes ? xaligned((size_t)room, 1) : xmalloc((size_t)room);
    while (reader->left && !rc) {
        int64_t step;

        if (reader->chunk_left == 0 && (rc = take_chunk_head(reader)))
            break;
        if (at == room) {
            room = room > tensor->bytes / 2 ? tensor->bytes : 2 * room;
            tensor->data = xreallocarray(tensor->data, (size_t)room, 1);
        }
        step = room - at < reader->chunk_left ? room - at : reader->chunk_left;
        if ((rc = load_chunk(reader, tensor->data + at, step)))
            break;
        at += step;
        reader->left -= step;
        reader->chunk_left -= step;
    }
    return rc ? rc : finish_payload(reader);
}

int reader_load(struct reader *reader, const struct record *record, struct tensor *tensor)
{
    int rc;

    *tensor = (struct tensor){.dtype = record->dtype, .rank = record->rank, .bytes = record->bytes};
    memcpy(tensor->shape, record->shape, sizeof tensor->shape);
    if ((rc = load_payload(reader, tensor)))
        tensor_free(tensor);
    return rc;
}

int reader_pass(struct reader *reader, struct record *record, struct writer *writer)
{
    const unsigned char *data;
    size_t size;
    int rc = writer_forward(writer, record);

    while (!rc) {
        if ((rc = reader_piece(reader, &data, &size)) || !size)
            break;
        rc = writer_add(writer, data, size);
    }
    return rc ? rc : writer_forwarded(writer, reader->checksum);
}

void reader_close(struct reader *reader)
{
    if (reader->fd > STDIN_FILENO)
        close(reader->fd);
    hash_free(reader->record_hash);
    hash_free(reader->stream_hash);
    free(reader->buffer);
    free(reader->where);
    free(reader->last.name);
    json_drop(reader->config);
    json_drop(reader->history);
    *reader = (struct reader){.fd = -1};
}
