/* writer.c - header, records, end record, in the fixed order. */
#include "stream/writer.h"
#include "base/hash.h"
#include "base/options.h"
#include "stream/pack.h"
#include "stream/wire.h"

#include <stdlib.h>
#include <string.h>

static int put(struct writer *writer, const void *data, size_t size)
{
    int rc = output_write(&writer->output, data, size);

    writer->offset += (int64_t)size;
    return rc;
}

/* Each checksum also goes into the hash of the whole stream. */
static int put_checksum(struct writer *writer, uint64_t checksum)
{
    unsigned char object[WIRE_CHECKSUM] = {WIRE_UINT64}, little[8];

    wire_put(object + 1, checksum, 8);
    wire_little(little, checksum);
    hash_update(writer->stream_hash, little, sizeof little);
    return put(writer, object, sizeof object);
}

/* A map that no payload follows: header and end. The end's checksum is that of all checksums before it, and its
 * map. */
static int put_bare(struct writer *writer, struct json *map, struct hash *hash)
{
    struct text packed = {0};
    int rc = pack_write(map, &packed);

    if (!rc)
        rc = put(writer, packed.data, packed.length);
    hash_update(hash, packed.data, packed.length);
    if (!rc)
        rc = put_checksum(writer, hash_value(hash));
    text_free(&packed);
    json_drop(map);
    return rc;
}

int writer_open(struct writer *writer, const char *path, const struct json *config, const struct json *history)
{
    struct json *map = json_make_object();
    int rc;

    *writer = (struct writer){.record_hash = hash_new(), .stream_hash = hash_new()};
    writer->where = xstrdup(path && strcmp(path, "-") ? path : "standard output");
    json_put(map, "kind", json_make_string(WIRE_MAGIC));
    json_put(map, "version", json_make_int(WIRE_VERSION));
    json_put(map, "config", config ? json_clone(config) : json_make_null());
    json_put(map, "history", history ? json_clone(history) : json_make_array());
    if ((rc = output_open(&writer->output, path, true))) {
        json_drop(map);
        return rc;
    }
    wire_widen(writer->output.fd);
    return put_bare(writer, map, writer->record_hash);
}

static int check_order(struct writer *writer, const struct record *record)
{
    const char *trouble = record_after(&writer->last, record);

    if (trouble)
        return fail(EX_SOFTWARE, "'%s': '%s': %s", writer->where, record ? record->name : "end", trouble);
    if (record)
        record_remember(&writer->last, record);
    return EX_OK;
}

static int put_chunk_head(struct writer *writer)
{
    unsigned char head[WIRE_BIN_HEAD] = {WIRE_BIN32};

    writer->chunk_left = writer->left < WIRE_CHUNK ? writer->left : WIRE_CHUNK;
    wire_put(head + 1, (uint64_t)writer->chunk_left, 4);
    return put(writer, head, sizeof head);
}

static int begin(struct writer *writer, struct record *record)
{
    static const unsigned char zeros[WIRE_ALIGN];
    unsigned char head[2 + WIRE_ALIGN] = {WIRE_BIN8};
    struct text packed = {0};
    int rc = check_order(writer, record);

    if (!rc && !record->packed) {
        rc = pack_write(record->map, &packed);
        record->packed = packed.data;
        record->packed_size = packed.length;
    }
    if (rc || (rc = put(writer, record->packed, record->packed_size)))
        return rc;
    hash_reset(writer->record_hash);
    hash_update(writer->record_hash, record->packed, record->packed_size);
    head[1] = (unsigned char)wire_pad(writer->offset);
    memcpy(head + 2, zeros, head[1]);
    if ((rc = put(writer, head, 2 + (size_t)head[1])))
        return rc;
    writer->left = record->bytes;
    return put_chunk_head(writer);
}

int writer_begin(struct writer *writer, struct record *record)
{
    writer->forwarding = false;
    return begin(writer, record);
}

int writer_forward(struct writer *writer, struct record *record)
{
    writer->forwarding = true;
    return begin(writer, record);
}

/* Pieces that the cache holds are hashed just before they are written, so memory is read once. */
enum { PIECE = 256 << 10 };

int writer_add(struct writer *writer, const void *data, size_t size)
{
    const unsigned char *from = data;
    int rc = EX_OK;

    if ((int64_t)size > writer->left)
        return fail(EX_SOFTWARE, "'%s': '%s': more bytes than announced", writer->where, writer->last.name);
    while (size && !rc) {
        size_t piece = size < PIECE ? size : PIECE;

        if (writer->chunk_left == 0 && (rc = put_chunk_head(writer)))
            break;
        if ((int64_t)piece > writer->chunk_left)
            piece = (size_t)writer->chunk_left;
        if (!writer->forwarding)
            hash_update(writer->record_hash, from, piece);
        rc = put(writer, from, piece);
        writer->left -= (int64_t)piece;
        writer->chunk_left -= (int64_t)piece;
        from += piece;
        size -= piece;
    }
    return rc;
}

static int finish(struct writer *writer, uint64_t checksum)
{
    if (writer->left)
        return fail(EX_SOFTWARE, "'%s': '%s': %lld bytes fewer than announced", writer->where, writer->last.name,
                    (long long)writer->left);
    writer->count++;
    return put_checksum(writer, checksum);
}

int writer_finish(struct writer *writer)
{
    return finish(writer, hash_value(writer->record_hash));
}

int writer_forwarded(struct writer *writer, uint64_t checksum)
{
    return finish(writer, checksum);
}

int writer_put(struct writer *writer, struct record *record, const void *payload)
{
    int rc = writer_begin(writer, record);

    if (!rc)
        rc = writer_add(writer, payload, (size_t)record->bytes);
    return rc ? rc : writer_finish(writer);
}

int writer_end(struct writer *writer)
{
    struct json *map;
    int rc = check_order(writer, NULL);

    if (rc)
        return rc;
    map = json_make_object();
    json_put(map, "kind", json_make_string("end"));
    json_put(map, "count", json_make_int(writer->count));
    rc = put_bare(writer, map, writer->stream_hash);
    return rc ? rc : output_commit(&writer->output);
}

void writer_close(struct writer *writer)
{
    output_close(&writer->output);
    hash_free(writer->record_hash);
    hash_free(writer->stream_hash);
    free(writer->last.name);
    free(writer->where);
    *writer = (struct writer){.output.fd = -1};
}

bool history_good(const struct json *history)
{
    for (size_t i = 0; i < json_count(history); i++) {
        const struct json *entry = json_item(history, i);

        if (json_kind(json_at(entry, "program")) != JSON_KIND_STRING
            || json_kind(json_at(entry, "version")) != JSON_KIND_STRING
            || json_kind(json_at(entry, "options")) != JSON_KIND_OBJECT)
            return false;
    }
    return json_kind(history) == JSON_KIND_ARRAY;
}

struct json *history_entry(const char *program, struct json *options)
{
    struct json *entry = json_make_object();

    json_put(entry, "program", json_make_string(program));
    json_put(entry, "version", json_make_string(LAPIDARY_VERSION));
    json_put(entry, "options", options);
    return entry;
}
