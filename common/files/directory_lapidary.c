/* directory_lapidary.c - the records that plain safetensors can't describe: cores of operators, packed matrices. */
#include "files/directory.h"
#include "base/error.h"
#include "base/file.h"
#include "stream/writer.h"
#include "tensor/trellis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct plane plane_of(const char *base, const char *suffix, struct dtype dtype, int64_t rows, int64_t columns)
{
    struct plane plane = {.dtype = dtype, .rank = 2, .shape = {rows, columns}};

    snprintf(plane.name, sizeof plane.name, "%s%s", base, suffix);
    plane.bytes = dtype_payload(dtype, 2, plane.shape);
    return plane;
}

static struct plane plane_at(int64_t at, struct plane plane)
{
    plane.at = at;
    return plane;
}

static int group_planes(const struct record *record, const char *base, struct plane planes[GROUP_PLANES])
{
    struct group_layout l;
    bool integers = record->dtype.scale_bits;
    struct dtype number = integers ? DTYPE(U8) : DTYPE(F16);
    int count = 0;

    if (!group_layout(record->dtype, record->rank, record->shape, &l))
        die(EX_SOFTWARE, "'%s': sizes were not checked", record->name);
    planes[count++] = plane_of(base, ".codes", DTYPE(U8), l.rows, l.code_bytes);
    planes[count++] = plane_at(l.scale, plane_of(base, ".scale", number, l.rows, integers ? l.scale_bytes : l.groups));
    if (record->dtype.zero == ZERO_INT)
        planes[count++] = plane_at(l.zero, plane_of(base, ".zero_point", DTYPE(U8), l.rows, l.zero_bytes));
    else if (record->dtype.zero == ZERO_MIN)
        planes[count++] = plane_at(l.zero, plane_of(base, ".minimum", number, l.rows,
                                                    integers ? l.zero_bytes : l.groups));
    if (integers)
        planes[count++] = plane_at(l.scale_factor, plane_of(base, ".scale_factor", DTYPE(F16), l.rows, l.supers));
    if (integers && record->dtype.zero == ZERO_MIN)
        planes[count++] = plane_at(l.minimum_factor, plane_of(base, ".minimum_factor", DTYPE(F16), l.rows,
                                                              l.minimum_supers));
    return count;
}

static int trellis_planes(const struct record *record, const char *base, struct plane planes[GROUP_PLANES])
{
    struct trellis_layout l;

    if (!trellis_layout(record->dtype, record->rank, record->shape, &l))
        die(EX_SOFTWARE, "'%s': sizes were not checked", record->name);
    planes[0] = plane_of(base, ".codes", DTYPE(U8), l.codes, 1);
    planes[1] = plane_at(l.scale, plane_of(base, ".scale", DTYPE(F16), l.rows, 1));
    planes[0].rank = planes[1].rank = 1;
    return 2;
}

int directory_planes(const struct record *record, struct plane planes[GROUP_PLANES])
{
    char *base = record->kind == RECORD_CORE ? xasprintf("%s.%d.%d", record->name, record->term, record->site)
                                             : xstrdup(record->name);
    int count = 1;

    if (record->kind != RECORD_OTHER && record->dtype.kind == DTYPE_TRELLIS)
        count = trellis_planes(record, base, planes);
    else if (record->kind != RECORD_OTHER && record->dtype.kind == DTYPE_GROUP)
        count = group_planes(record, base, planes);
    else if (record->kind == RECORD_OTHER || !dtype_size(record->dtype)) {
        planes[0] = plane_of(base, "", DTYPE(U8), record->bytes, 1);
        planes[0].rank = 1;
    } else {
        planes[0] = (struct plane){.dtype = record->dtype, .rank = record->rank, .bytes = record->bytes};
        snprintf(planes[0].name, sizeof planes[0].name, "%s", base);
        memcpy(planes[0].shape, record->shape, sizeof record->shape);
    }
    free(base);
    return count;
}

/* Exactly the members that record_tensor() makes. */
bool directory_is_plain(const struct record *record)
{
    enum { MEMBERS = 5 };        /* kind, name, dtype, shape, bytes */

    return record->kind == RECORD_TENSOR && dtype_size(record->dtype) && json_count(record->map) == MEMBERS;
}

int directory_lapidary_config(struct model *model, const struct json *config)
{
    struct json *original = json_at(config, "original_config"), *history = json_at(config, "history");
    const struct json *bytes = json_at(config, "original_config_text");
    int64_t version = json_as_int(json_at(config, "lapidary_version"), -1);
    char *text;
    size_t length;

    if (version != DIRECTORY_VERSION)
        return fail(EX_DATAERR, "cannot read '%s': lapidary_version is %lld, expected %d", model->path,
                    (long long)version,
                    DIRECTORY_VERSION);
    if (json_kind(original) != JSON_KIND_OBJECT || !history_good(history))
        return fail(EX_DATAERR, "cannot read '%s': original_config or a history is missing from its config.json",
                    model->path);
    json_drop(model->history);
    model->history = json_keep(history);
    model->config = json_keep(original);
    text = bytes ? xstrndup(json_as_string(bytes, ""), json_as_length(bytes)) : json_document(original);
    length = strlen(text);
    model_add_memory(model, DIRECTORY_CONFIG, text, length);
    return EX_OK;
}

static int bad_record(const struct open_file *shard, const char *name, const char *reason)
{
    return fail(EX_DATAERR, "cannot read '%s': record '%.200s': %s", shard->path, name ? name : "?", reason);
}

/* The weight that holds a plane; NULL after a message. */
static struct weight *find_plane(struct directory *directory, const struct open_file *shard, const struct plane *plane)
{
    struct weight *weight = directory_find(directory, plane->name);
    const struct safetensors_entry *entry = weight ? weight->entry : NULL;

    if (!entry || &directory->file[weight->file] != shard)
        bad_record(shard, plane->name, "its tensor is not in this file");
    else if (weight->used)
        bad_record(shard, plane->name, "its tensor belongs to another record too");
    else if (!entry->known || !dtype_same(entry->dtype, plane->dtype) || entry->rank != plane->rank
             || memcmp(entry->shape, plane->shape, (size_t)plane->rank * sizeof *plane->shape))
        bad_record(shard, plane->name, "its tensor has another dtype or shape than the record asks for");
    else
        return weight;
    return NULL;
}

/* Adds one record; it moves into the model, or is the caller's to free. */
static int add_record(struct model *model, struct directory *directory, const struct open_file *shard,
                      struct record *record)
{
    struct plane planes[GROUP_PLANES];
    struct weight *weight[GROUP_PLANES] = {0};
    struct item *item;
    char name[DTYPE_NAME];
    int count;

    if (record->kind == RECORD_FILE)
        return bad_record(shard, record->name, "a companion file");
    count = directory_planes(record, planes);
    for (int p = 0; p < count; p++) {
        if (!(weight[p] = find_plane(directory, shard, &planes[p])))
            return EX_DATAERR;
        weight[p]->used = true;
    }
    item = model_add(model, record);
    item->file = weight[0]->file;
    item->stored_bytes = 0;
    for (int p = 0; p < count; p++) {
        item->place[p] = weight[p]->entry->at;
        item->stored_bytes += weight[p]->entry->bytes;
    }
    snprintf(item->stored, sizeof item->stored, "%s", dtype_name(item->record.dtype, name));
    return EX_OK;
}

int directory_lapidary_records(struct model *model, struct directory *directory, const struct open_file *shard)
{
    const struct json *text = json_at(shard->shard.metadata, DIRECTORY_LAPIDARY);
    struct json *maps;
    int rc = EX_OK;

    if (!text)
        return EX_OK;
    if (!(maps = json_parse(json_as_string(text, ""), json_as_length(text), shard->path)))
        return EX_DATAERR;
    if (json_kind(maps) != JSON_KIND_ARRAY)
        rc = bad_record(shard, DIRECTORY_LAPIDARY, "not an array of records");
    for (size_t i = 0; i < json_count(maps) && !rc; i++) {
        struct record record = {0};
        char *reason = NULL;

        if (record_parse(json_keep(json_item(maps, i)), &record, &reason))
            rc = bad_record(shard, record.name, reason);
        else
            rc = add_record(model, directory, shard, &record);
        free(reason);
        record_free(&record);
    }
    json_drop(maps);
    return rc;
}

int directory_read_planes(const struct open_file *file, const struct item *item, int64_t from, size_t size, void *to)
{
    struct plane planes[GROUP_PLANES];
    int count = directory_planes(&item->record, planes), rc = EX_OK;
    int64_t end = from + (int64_t)size;

    memset(to, 0, size);                 /* between planes lies padding */
    for (int p = 0; p < count && !rc; p++) {
        int64_t first = planes[p].at > from ? planes[p].at : from;
        int64_t last = planes[p].at + planes[p].bytes < end ? planes[p].at + planes[p].bytes : end;

        if (first < last)
            rc = file_read_at(file->fd, file->path, (char *)to + (first - from), (size_t)(last - first),
                              item->place[p] + (first - planes[p].at));
    }
    return rc;
}
