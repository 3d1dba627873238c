/* safetensors.c - reads and checks headers of safetensors files. */
#include "files/safetensors.h"
#include "base/error.h"
#include "base/file.h"
#include "stream/record.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const dtype_names[] = {
    [DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16", [DTYPE_F64] = "F64", [DTYPE_U8] = "U8",
    [DTYPE_I8] = "I8", [DTYPE_I16] = "I16", [DTYPE_I32] = "I32", [DTYPE_I64] = "I64", [DTYPE_BOOL] = "BOOL",
};

const char *safetensors_dtype_name(struct dtype dtype)
{
    return dtype_names[dtype.kind];
}

static int bad_tensor(const char *path, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

static int bad_tensor(const char *path, const char *name, const char *format, ...)
{
    char *where = xasprintf("cannot read '%s': '%.200s'", path, name);
    va_list args;

    va_start(args, format);
    fail_in(EX_DATAERR, where, format, args);
    va_end(args);
    return EX_DATAERR;
}

static int read_shape(const struct json *shape, const char *path, struct safetensors_entry *entry)
{
    if (json_kind(shape) != JSON_KIND_ARRAY)
        return bad_tensor(path, entry->name, "no shape");
    if (json_count(shape) > TENSOR_RANK)
        return bad_tensor(path, entry->name, "%zu axes, expected %d at most", json_count(shape), TENSOR_RANK);
    entry->rank = (int)json_count(shape);
    for (int axis = 0; axis < entry->rank; axis++)
        if ((entry->shape[axis] = json_as_int(json_item(shape, (size_t)axis), -1)) < 0)
            return bad_tensor(path, entry->name, "axis %d of its shape is not a size", axis);
    return EX_OK;
}

static int read_entry(const struct json *value, const char *path, int64_t data, struct safetensors_entry *entry)
{
    const char *dtype = json_as_string(json_at(value, "dtype"), NULL);
    const struct json *offsets = json_at(value, "data_offsets");
    int64_t begin = json_as_int(json_item(offsets, 0), -1), end = json_as_int(json_item(offsets, 1), -1), bytes;
    int rc;

    if (record_name_trouble(entry->name))
        return bad_tensor(path, entry->name, "%s", record_name_trouble(entry->name));
    if (!dtype || !dtype[0] || strlen(dtype) >= sizeof entry->stored)
        return bad_tensor(path, entry->name, "no dtype");
    snprintf(entry->stored, sizeof entry->stored, "%s", dtype);
    if ((rc = read_shape(json_at(value, "shape"), path, entry)))
        return rc;
    if (json_count(offsets) != 2 || begin < 0 || end < begin || end > data)
        return bad_tensor(path, entry->name, "data_offsets [%lld, %lld] outside the %lld bytes of data",
                          (long long)begin,
                          (long long)end, (long long)data);
    entry->at = begin;
    entry->bytes = end - begin;
    for (int kind = 0; kind < DTYPE_GROUP; kind++)
        if (!strcmp(dtype, dtype_names[kind])) {
            entry->known = true;
            entry->dtype = (struct dtype){.kind = (enum dtype_kind)kind};
        }
    if (!entry->known)
        return EX_OK;
    bytes = dtype_payload(entry->dtype, entry->rank, entry->shape);
    if (bytes != entry->bytes)
        return bad_tensor(path, entry->name, "%lld bytes, expected %lld by its dtype and shape",
                          (long long)entry->bytes,
                          (long long)bytes);
    return EX_OK;
}

static int compare_places(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    if (x->bytes != y->bytes)                    /* empty ones lie before what begins at the same place */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors must cover the data, each byte once. */
static int check_places(const struct safetensors *file, const char *path, int64_t data)
{
    int64_t at = 0;

    for (size_t i = 0; i < file->n_entry; i++) {
        const struct safetensors_entry *entry = &file->entry[i];

        if (entry->at != at)
            return bad_tensor(path, entry->name, "begins at byte %lld of the data, expected %lld: tensors %s",
                              (long long)entry->at, (long long)at, entry->at < at ? "overlap" : "leave a hole");
        at += entry->bytes;
    }
    if (at != data)
        return fail(EX_DATAERR, "'%s': %lld bytes of data, expected %lld by its header", path, (long long)data,
                    (long long)at);
    return EX_OK;
}

static int check_metadata(const struct json *metadata, const char *path)
{
    if (json_kind(metadata) != JSON_KIND_OBJECT)
        return fail(EX_DATAERR, "cannot read '%s': its __metadata__ is not an object", path);
    for (void *m = json_first(metadata); m; m = json_following(metadata, m))
        if (json_kind(json_value(m)) != JSON_KIND_STRING)
            return fail(EX_DATAERR, "cannot read '%s': '%.200s' of its __metadata__ is not a text", path, json_key(m));
    return EX_OK;
}

/* data: bytes behind the header. */
static int read_entries(struct safetensors *file, const struct json *header, const char *path, int64_t data)
{
    int rc = EX_OK;

    if (json_kind(header) != JSON_KIND_OBJECT)
        return fail(EX_DATAERR, "cannot read '%s': its header is not a JSON object", path);
    file->entry = xcalloc(json_count(header) + 1, sizeof *file->entry);
    for (void *m = json_first(header); m && !rc; m = json_following(header, m)) {
        struct safetensors_entry *entry = &file->entry[file->n_entry];

        if (!strcmp(json_key(m), "__metadata__")) {
            file->metadata = json_keep(json_value(m));
            rc = check_metadata(file->metadata, path);
            continue;
        }
        file->n_entry++;
        entry->name = xstrdup(json_key(m));
        rc = read_entry(json_value(m), path, data, entry);
    }
    if (rc)
        return rc;
    qsort(file->entry, file->n_entry, sizeof *file->entry, compare_places);
    if ((rc = check_places(file, path, data)))
        return rc;
    for (size_t i = 0; i < file->n_entry; i++)
        file->entry[i].at += file->header;
    return EX_OK;
}

/* The length field, checked against the file; -1 after a message, with *rc the exit code. */
static int64_t header_length(int fd, const char *path, int64_t size, int *rc)
{
    unsigned char field[8];
    uint64_t length = 0;

    if (size < 0) {
        fail(EX_DATAERR, "cannot read '%s': not a regular file", path);
        return -1;
    }
    if (size < 8) {
        fail(EX_DATAERR, "cannot read '%s': %lld bytes, too few for a safetensors file", path, (long long)size);
        return -1;
    }
    if ((*rc = file_read_at(fd, path, field, sizeof field, 0)))
        return -1;
    *rc = EX_DATAERR;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | field[i];
    if (length < 2 || length > SAFETENSORS_HEADER) {
        fail(EX_DATAERR, "cannot read '%s': a header of %llu bytes, expected 2..%d: not a safetensors file", path,
             (unsigned long long)length, SAFETENSORS_HEADER);
        return -1;
    }
    if (length > (uint64_t)size - 8) {
        fail(EX_DATAERR, "cannot read '%s': %lld bytes, expected more than %llu by its header's length: truncated",
             path,
             (long long)size, (unsigned long long)length + 8);
        return -1;
    }
    return (int64_t)length;
}

int safetensors_read(struct safetensors *file, int fd, const char *path, int64_t size)
{
    int rc = EX_DATAERR;
    int64_t length = header_length(fd, path, size, &rc);
    struct json *header = NULL;
    char *text = NULL;

    *file = (struct safetensors){0};
    if (length < 0)
        return rc;
    text = xmalloc((size_t)length);
    if ((rc = file_read_at(fd, path, text, (size_t)length, 8)))
        goto done;
    rc = EX_DATAERR;
    if (text[0] != '{')
        fail(rc, "cannot read '%s': its header doesn't begin with '{': not a safetensors file", path);
    else if ((header = json_parse(text, (size_t)length, path))) {
        file->header = 8 + length;
        rc = read_entries(file, header, path, size - file->header);
    }
    if (rc)
        safetensors_free(file);
done:
    json_drop(header);
    free(text);
    return rc;
}

void safetensors_free(struct safetensors *file)
{
    for (size_t i = 0; i < file->n_entry; i++)
        free(file->entry[i].name);
    free(file->entry);
    json_drop(file->metadata);
    *file = (struct safetensors){0};
}
