/* safetensors_writer.c - data first, then the header slipped in front of it. */
#include "files/safetensors.h"
#include "base/error.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096 };           /* extents move by whole blocks of the file system; nearly all have this size */

int safetensors_create(struct safetensors_writer *writer, const char *path)
{
    *writer = (struct safetensors_writer){.fd = -1, .path = xstrdup(path), .fillers = writer->fillers};
    writer->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return writer->fd < 0 ? fail(EX_CANTCREAT, "cannot create '%s':", path) : EX_OK;
}

/* Appends "name":{...} to the header's members. */
static void add_entry(struct safetensors_writer *writer, const char *name, struct dtype dtype, int rank,
                      const int64_t *shape)
{
    struct json *key = json_make_string(name);
    char *quoted = json_write(key, 0);

    text_format(&writer->entries, "%s%s:{\"dtype\":\"%s\",\"shape\":[", writer->entries.length ? "," : "", quoted,
                safetensors_dtype_name(dtype));
    for (int axis = 0; axis < rank; axis++)
        text_format(&writer->entries, "%s%lld", axis ? "," : "", (long long)shape[axis]);
    writer->left = dtype_payload(dtype, rank, shape);
    text_format(&writer->entries, "],\"data_offsets\":[%lld,%lld]}", (long long)writer->bytes,
                (long long)(writer->bytes + writer->left));
    free(quoted);
    json_drop(key);
}

static int add_filler(struct safetensors_writer *writer, int64_t size)
{
    static const unsigned char zeros[8];
    char name[48];

    snprintf(name, sizeof name, SAFETENSORS_FILLER "%lld", (long long)writer->fillers++);
    add_entry(writer, name, DTYPE(U8), 1, &size);
    return safetensors_add(writer, zeros, (size_t)size);
}

int safetensors_begin(struct safetensors_writer *writer, const char *name, struct dtype dtype, int rank,
                      const int64_t *shape)
{
    int64_t over = writer->bytes % dtype_size(dtype);
    int rc = over ? add_filler(writer, dtype_size(dtype) - over) : EX_OK;

    if (!rc)
        add_entry(writer, name, dtype, rank, shape);
    return rc;
}

int safetensors_add(struct safetensors_writer *writer, const void *data, size_t size)
{
    if ((int64_t)size > writer->left)
        return fail(EX_SOFTWARE, "'%s': %zu bytes written, expected %lld", writer->path, size, (long long)writer->left);
    writer->left -= (int64_t)size;
    writer->bytes += (int64_t)size;
    return file_write(writer->fd, writer->path, data, size);
}

/* The whole header with its length field, a multiple of BLOCK. */
static struct text make_header(const struct safetensors_writer *writer, const struct json *metadata)
{
    struct text header = {0};
    char *described = json_write(metadata, 0);
    uint64_t length;

    text_format(&header, "%8s{\"__metadata__\":%s%s", "", described, writer->entries.length ? "," : "");
    text_append(&header, writer->entries.data, writer->entries.length);
    text_append(&header, "}", 1);
    while (header.length % BLOCK)
        text_append(&header, " ", 1);
    length = header.length - 8;
    for (int i = 0; i < 8; i++)
        header.data[i] = (char)(length >> 8 * i & 0xff);
    free(described);
    return header;
}

/* All bytes of one file behind those of another. Whole blocks come first: they may be shared. */
static int copy_data(int from, int to, const char *path, int64_t bytes)
{
    enum { PIECE = 1 << 20 };
    char *piece;
    ssize_t got = 1;
    int rc = EX_OK;

    if (lseek(from, 0, SEEK_SET) < 0)
        return fail(EX_IOERR, "cannot read '%s':", path);
    while (bytes && (got = copy_file_range(from, NULL, to, NULL, (size_t)bytes, 0)) > 0)
        bytes -= got;
    if (!bytes)
        return EX_OK;
    piece = xmalloc(PIECE);
    while (!rc && (got = read(from, piece, PIECE)) > 0) {
        rc = file_write(to, path, piece, (size_t)got);
        bytes -= got;
    }
    if (!rc && (got < 0 || bytes))
        rc = fail(EX_IOERR, "cannot read '%s':", path);
    free(piece);
    return rc;
}

/* Where extents can't move: a second file takes header and data, then the name. */
static int copy_behind(struct safetensors_writer *writer, const struct text *header)
{
    char *path = xasprintf("%s.copy", writer->path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = fd < 0 ? fail(EX_CANTCREAT, "cannot create '%s':", path) : EX_OK;

    if (!rc)
        rc = file_write(fd, path, header->data, header->length);
    if (!rc)
        rc = copy_data(writer->fd, fd, path, writer->bytes);
    if (!rc && rename(path, writer->path))
        rc = fail(EX_CANTCREAT, "cannot rename '%s':", path);
    if (fd >= 0) {
        close(writer->fd);
        writer->fd = fd;
    }
    free(path);
    return rc;
}

static int put_header(struct safetensors_writer *writer, const struct text *header)
{
    if (writer->bytes && fallocate(writer->fd, FALLOC_FL_INSERT_RANGE, 0, (off_t)header->length))
        return copy_behind(writer, header);
    if (lseek(writer->fd, 0, SEEK_SET) < 0)
        return fail(EX_IOERR, "cannot write '%s':", writer->path);
    return file_write(writer->fd, writer->path, header->data, header->length);
}

int safetensors_finish(struct safetensors_writer *writer, const struct json *metadata)
{
    struct text header = make_header(writer, metadata);
    int rc = EX_OK;

    if (writer->left)
        rc = fail(EX_SOFTWARE, "'%s': %lld bytes of a tensor are missing", writer->path, (long long)writer->left);
    else if (header.length > SAFETENSORS_HEADER)
        rc = fail(EX_DATAERR, "cannot write '%s': a header of %zu bytes, expected %d at most: choose smaller shards",
                  writer->path, header.length, SAFETENSORS_HEADER);
    if (!rc)
        rc = put_header(writer, &header);
    if (!rc && fsync(writer->fd))
        rc = fail(EX_IOERR, "cannot write '%s':", writer->path);
    if (!rc) {
        rc = close(writer->fd) ? fail(EX_IOERR, "cannot write '%s':", writer->path) : EX_OK;
        writer->fd = -1;
    }
    text_free(&header);
    safetensors_close(writer);
    return rc;
}

void safetensors_close(struct safetensors_writer *writer)
{
    if (writer->path && writer->fd >= 0)
        close(writer->fd);
    free(writer->path);
    text_free(&writer->entries);
    *writer = (struct safetensors_writer){.fd = -1, .fillers = writer->fillers};
}
