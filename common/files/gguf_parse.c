/* gguf_parse.c - the header of a GGUF file: keys and tensor entries. Every length is checked before it is used. */
#include "files/gguf_internal.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds that no real file comes near; they keep a hostile one from taking the memory. */
enum { KEYS_MOST = 1 << 16, TENSORS_MOST = 1 << 20, NAME_MOST = 1024 };
#define HEADER_MOST ((int64_t)1 << 29)

static const int type_size[GGUF_TYPES] = {
    [GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4,
    [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* ---- the cursor ---- */

/* Makes sure that size bytes from the cursor on are in memory. part says what they belong to. */
static int need(struct gguf *g, uint64_t size, const char *part)
{
    char block[65536];

    if (size > (uint64_t)(g->size - g->at))
        return gguf_fail(g, "%s: found %lld bytes from byte %lld to the end of the file, expected %llu", part,
                         (long long)(g->size - g->at), (long long)g->at, (unsigned long long)size);
    if (size > (uint64_t)(HEADER_MOST - g->at))
        return gguf_fail(g, "%s: found a header that goes on to byte %llu, expected %lld bytes at most", part,
                         (unsigned long long)g->at + size, (long long)HEADER_MOST);
    while ((int64_t)g->header.length < g->at + (int64_t)size) {
        int64_t left = g->size - (int64_t)g->header.length;
        size_t take = left < (int64_t)sizeof block ? (size_t)left : sizeof block;
        int rc = file_read_at(g->fd, g->path, block, take, (int64_t)g->header.length);

        if (rc)
            return rc;
        text_append(&g->header, block, take);
    }
    return EX_OK;
}

uint64_t gguf_number(const struct gguf *g, int64_t at, int bytes)
{
    uint64_t value = 0;

    for (int i = bytes; i-- > 0;)
        value = value << 8 | (unsigned char)g->header.data[at + i];
    return value;
}

static int take_number(struct gguf *g, int bytes, const char *part, uint64_t *value)
{
    int rc = need(g, (uint64_t)bytes, part);

    if (rc)
        return rc;
    *value = gguf_number(g, g->at, bytes);
    g->at += bytes;
    return EX_OK;
}

/* A length and as many bytes; *at and *length say where they lie. */
static int take_string(struct gguf *g, const char *part, int64_t *at, int64_t *length)
{
    uint64_t size = 0;
    int rc = take_number(g, 8, part, &size);

    if (rc || (rc = need(g, size, part)))
        return rc;
    *at = g->at;
    *length = (int64_t)size;
    g->at += (int64_t)size;
    return EX_OK;
}

/* A name: printable ASCII, so that it can stand in messages and be a C string. */
static int take_name(struct gguf *g, const char *part, char **name)
{
    int64_t at = 0, length = 0, start = g->at;
    int rc = take_string(g, part, &at, &length);

    if (rc)
        return rc;
    if (length < 1 || length > NAME_MOST)
        return gguf_fail(g, "%s at byte %lld: found a name of %lld bytes, expected 1 to %d", part, (long long)start,
                         (long long)length, NAME_MOST);
    for (int64_t i = 0; i < length; i++)
        if (g->header.data[at + i] < ' ' || g->header.data[at + i] > '~')
            return gguf_fail(g, "%s at byte %lld: found byte 0x%02x in its name, expected printable ASCII", part,
                             (long long)start, (unsigned)(unsigned char)g->header.data[at + i]);
    *name = xstrndup(g->header.data + at, (size_t)length);
    return EX_OK;
}

/* ---- keys ---- */

static int take_array(struct gguf *g, struct gguf_key *key, const char *part)
{
    uint64_t item = 0, count = 0;
    int64_t bytes = 0, at = 0, length = 0;
    int rc = take_number(g, 4, part, &item);

    if (rc || (rc = take_number(g, 8, part, &count)))
        return rc;
    if (item >= GGUF_TYPES || item == GGUF_ARRAY)
        return gguf_fail(g, "%s at byte %lld: found an array of %s, expected scalars or strings", part,
                         (long long)g->at - 12, item == GGUF_ARRAY ? "arrays" : "an unknown type");
    /* An item takes at least a byte: so the count is bounded by the file. */
    if (count > (uint64_t)(g->size - g->at))
        return gguf_fail(g, "%s at byte %lld: found %llu items, expected at most %lld, the bytes that are left", part,
                         (long long)g->at - 8, (unsigned long long)count, (long long)(g->size - g->at));
    key->item = (enum gguf_type)item;
    key->count = (int64_t)count;
    key->at = g->at;
    if (item == GGUF_STRING) {
        for (uint64_t i = 0; i < count && !rc; i++)
            rc = take_string(g, part, &at, &length);
        return rc;
    }
    if (!size_multiply(key->count, type_size[item], &bytes))
        return gguf_fail(g, "%s: found %llu items, too many", part, (unsigned long long)count);
    if ((rc = need(g, (uint64_t)bytes, part)))
        return rc;
    g->at += bytes;
    return EX_OK;
}

static int take_value(struct gguf *g, struct gguf_key *key, const char *part)
{
    uint64_t type = 0, value = 0;
    int rc = take_number(g, 4, part, &type);

    if (rc)
        return rc;
    if (type >= GGUF_TYPES)
        return gguf_fail(g, "%s at byte %lld: found value type %llu, expected 0 to %d", part, (long long)g->at - 4,
                         (unsigned long long)type, GGUF_TYPES - 1);
    key->type = (enum gguf_type)type;
    key->count = 1;
    key->at = g->at;
    if (type == GGUF_STRING)
        return take_string(g, part, &key->at, &key->count);
    if (type == GGUF_ARRAY)
        return take_array(g, key, part);
    if (!(rc = take_number(g, type_size[type], part, &value)) && type == GGUF_BOOL && value > 1)
        return gguf_fail(g, "%s at byte %lld: found %llu, expected a bool, 0 or 1", part, (long long)g->at - 1,
                         (unsigned long long)value);
    return rc;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

static int take_keys(struct gguf *g, int64_t count)
{
    char part[NAME_MOST + 32];
    int rc = EX_OK;

    g->key = xcalloc((size_t)count, sizeof *g->key);
    for (int64_t i = 0; i < count; i++) {
        snprintf(part, sizeof part, "key %lld of %lld", (long long)i + 1, (long long)count);
        if ((rc = take_name(g, part, &g->key[i].name)))
            return rc;
        g->n_key = i + 1;
        snprintf(part, sizeof part, "key '%s'", g->key[i].name);
        if ((rc = take_value(g, &g->key[i], part)))
            return rc;
    }
    qsort(g->key, (size_t)count, sizeof *g->key, compare_keys);
    for (int64_t i = 1; i < count; i++)
        if (!compare_keys(&g->key[i - 1], &g->key[i]))
            return gguf_fail(g, "key '%s' stands twice", g->key[i].name);
    return EX_OK;
}

/* ---- tensor entries ---- */

static int take_shape(struct gguf *g, struct gguf_tensor *tensor, const char *part)
{
    uint64_t rank = 0, dim = 0;
    int64_t count = 1;
    int rc = take_number(g, 4, part, &rank);

    if (rc)
        return rc;
    if (rank < 1 || rank > 4)
        return gguf_fail(g, "%s at byte %lld: found %llu dimensions, expected 1 to 4", part, (long long)g->at - 4,
                         (unsigned long long)rank);
    tensor->rank = (int)rank;
    for (int axis = (int)rank - 1; axis >= 0; axis--) {
        if ((rc = take_number(g, 8, part, &dim)))
            return rc;
        if (dim < 1 || dim > INT64_MAX || !size_multiply(count, (int64_t)dim, &count) || count > INT64_MAX / 8)
            return gguf_fail(g, "%s at byte %lld: found a dimension of %llu, expected 1 or more and a small product",
                             part, (long long)g->at - 8, (unsigned long long)dim);
        tensor->shape[axis] = (int64_t)dim;
    }
    return EX_OK;
}

/* The format and with it the bytes of the payload. */
static int take_format(struct gguf *g, struct gguf_tensor *tensor, const char *part)
{
    uint64_t id = 0;
    int64_t blocks = 1, row = tensor->shape[tensor->rank - 1];
    const struct gguf_format *format;
    int rc = take_number(g, 4, part, &id);

    if (rc)
        return rc;
    if (!(format = gguf_format((uint32_t)id)))
        return gguf_fail(g, "%s at byte %lld: found element type %llu, which is unknown", part, (long long)g->at - 4,
                         (unsigned long long)id);
    if (!format->elements)
        return gguf_fail(g, "%s: its element type %s is not supported", part, format->name);
    if (row % format->elements)
        return gguf_fail(g, "%s: found rows of %lld elements, expected a multiple of %d for %s", part, (long long)row,
                         format->elements, format->name);
    for (int axis = 0; axis < tensor->rank; axis++)
        blocks *= tensor->shape[axis];       /* the product fits: take_shape() */
    blocks /= format->elements;
    if (!size_multiply(blocks, format->bytes, &tensor->bytes))
        return gguf_fail(g, "%s: too large", part);
    tensor->format = format;
    return EX_OK;
}

/* Its offset, relative to the data section, which starts behind the last entry. */
static int take_offset(struct gguf *g, struct gguf_tensor *tensor, const char *part)
{
    uint64_t offset = 0;
    int rc = take_number(g, 8, part, &offset);

    if (rc)
        return rc;
    if (offset % (uint64_t)g->alignment || offset > (uint64_t)g->size)
        return gguf_fail(g, "%s at byte %lld: found offset %llu, expected a multiple of %lld up to %lld", part,
                         (long long)g->at - 8, (unsigned long long)offset, (long long)g->alignment, (long long)g->size);
    tensor->offset = (int64_t)offset;
    return EX_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct gguf_tensor *s = a, *t = b;

    return s->offset != t->offset ? (s->offset < t->offset ? -1 : 1) : compare_names(a, b);
}

/* Makes offsets absolute; all must lie in the file and none in another. */
static int place_tensors(struct gguf *g)
{
    int64_t data = (g->at + g->alignment - 1) / g->alignment * g->alignment, end = 0;

    qsort(g->tensor, (size_t)g->n_tensor, sizeof *g->tensor, compare_offsets);
    for (int64_t i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *tensor = &g->tensor[i];

        if (!size_add(data, tensor->offset, &tensor->offset) || !size_add(tensor->offset, tensor->bytes, &end) ||
            end > g->size)
            return gguf_fail(g, "tensor '%s': found %lld bytes in the file, expected %lld more from byte %lld on",
                             tensor->name, (long long)g->size, (long long)tensor->bytes, (long long)tensor->offset);
        if (i && tensor[-1].offset + tensor[-1].bytes > tensor->offset)
            return gguf_fail(g, "tensor '%s' starts at byte %lld, within tensor '%s'", tensor->name,
                             (long long)tensor->offset, tensor[-1].name);
    }
    qsort(g->tensor, (size_t)g->n_tensor, sizeof *g->tensor, compare_names);
    for (int64_t i = 1; i < g->n_tensor; i++)
        if (!compare_names(&g->tensor[i - 1], &g->tensor[i]))
            return gguf_fail(g, "tensor '%s' stands twice", g->tensor[i].name);
    return EX_OK;
}

static int take_tensors(struct gguf *g, int64_t count)
{
    char part[NAME_MOST + 32];
    int rc = EX_OK;

    g->tensor = xcalloc((size_t)count, sizeof *g->tensor);
    for (int64_t i = 0; i < count; i++) {
        struct gguf_tensor *tensor = &g->tensor[i];

        snprintf(part, sizeof part, "tensor %lld of %lld", (long long)i + 1, (long long)count);
        if ((rc = take_name(g, part, &tensor->name)))
            return rc;
        g->n_tensor = i + 1;
        snprintf(part, sizeof part, "tensor '%s'", tensor->name);
        if ((rc = take_shape(g, tensor, part)) || (rc = take_format(g, tensor, part)) ||
            (rc = take_offset(g, tensor, part)))
            return rc;
    }
    return place_tensors(g);
}

/* ---- the whole ---- */

bool gguf_recognises(const unsigned char *first, size_t size)
{
    return size >= 4 && !memcmp(first, "GGUF", 4);
}

/* The keys that say how the rest has to be read. */
static int check_layout(struct gguf *g)
{
    int64_t parts = 1;
    int rc;

    g->alignment = 32;
    if ((rc = gguf_int(g, "general.alignment", 1, 1 << 20, &g->alignment)) ||
        (rc = gguf_int(g, "split.count", 0, UINT16_MAX, &parts)))
        return rc;
    if (g->alignment & (g->alignment - 1))
        return gguf_fail(g, "key 'general.alignment': found %lld, expected a power of two", (long long)g->alignment);
    if (parts > 1)
        return gguf_fail(g, "it is one of %lld parts of a split model: join them first (llama-gguf-split --merge)",
                         (long long)parts);
    return EX_OK;
}

int gguf_parse(struct gguf *g)
{
    uint64_t version = 0, tensors = 0, keys = 0;
    int rc = need(g, g->size < 4 ? (uint64_t)g->size : 4, "magic");

    if (rc)
        return rc;
    if (!gguf_recognises((const unsigned char *)g->header.data, g->header.length))
        return gguf_fail(g, "it is no GGUF file (and no directory)");
    g->at = 4;
    if ((rc = take_number(g, 4, "version", &version)))
        return rc;
    if (version & 0xffff0000u && !(version & 0xffffu))
        return gguf_fail(g, "it is big-endian, expected little-endian");
    if (version != 2 && version != 3)
        return gguf_fail(g, "found version %llu, expected 2 or 3", (unsigned long long)version);
    if ((rc = take_number(g, 8, "number of tensors", &tensors)) || (rc = take_number(g, 8, "number of keys", &keys)))
        return rc;
    if (tensors > TENSORS_MOST || tensors > (uint64_t)g->size / 32)     /* an entry takes 33 bytes or more */
        return gguf_fail(g, "found %llu tensors, more than fit", (unsigned long long)tensors);
    if (keys > KEYS_MOST || keys > (uint64_t)g->size / 14)              /* a key takes 14 bytes or more */
        return gguf_fail(g, "found %llu keys, more than fit", (unsigned long long)keys);
    if ((rc = take_keys(g, (int64_t)keys)) || (rc = check_layout(g)))
        return rc;
    return take_tensors(g, (int64_t)tensors);
}

void gguf_free(struct gguf *g)
{
    for (int64_t i = 0; i < g->n_key; i++)
        free(g->key[i].name);
    for (int64_t i = 0; i < g->n_tensor; i++)
        free(g->tensor[i].name);
    text_free(&g->header);
    free(g->key);
    free(g->tensor);
    g->key = NULL;
    g->tensor = NULL;
    g->n_key = g->n_tensor = 0;
}
