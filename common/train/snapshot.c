/* snapshot.c - the state of a training, written and read. */
#include "train/snapshot.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VALUES = 1, ALL = 3 };     /* parts: values, mean, square */
enum { HEAD = 16, SUM = 8, TEXT_MOST = 1 << 24 };

static const char magic[] = "LAPSNAP1";

/* All numbers of a parameter: values; mean, square, which are [floats] of all parameters. */
static float *part_of(const struct parameters *p, const struct parameter *one, int part)
{
    return part == 0 ? one->trainable.values : (part == 1 ? p->mean : p->square) + one->first;
}

static struct json *steps_of(const struct trainer *t, const struct json *about, const struct json *position)
{
    struct json *text = json_make_object();

    json_put(text, "about", json_clone(about));
    json_put(text, "device", json_make_string(t->parameters->device->name));
    json_put(text, "floats", json_make_int(parameters_count(t->parameters, ~0u)));
    json_put(text, "step", json_make_int(t->step));
    json_put(text, "updates", json_make_int(t->updates));
    json_put(text, "position", json_clone(position));
    return text;
}

/* Bytes to the file and to its sum. */
static int put(struct output *output, struct hash *hash, const void *data, size_t size)
{
    hash_update(hash, data, size);
    return output_write(output, data, size);
}

static int put_numbers(struct output *output, struct hash *hash, const struct parameters *p, int parts)
{
    int rc = EX_OK;

    for (int part = 0; part < parts; part++)
        for (int i = 0; i < p->count && !rc; i++) {
            size_t bytes = (size_t)p->list[i].trainable.count * sizeof(float);
            float *host = xaligned(bytes, 1);

            p->device->download(host, part_of(p, &p->list[i], part), bytes);
            rc = put(output, hash, host, bytes);
            free(host);
        }
    return rc;
}

static int write_parts(const char *path, const struct trainer *t, const struct json *about,
                       const struct json *position, int parts)
{
    struct json *tree = steps_of(t, about, position);
    char *text = json_write(tree, 0);
    struct hash *hash = hash_new();
    uint64_t length = strlen(text), sum;
    struct output output;
    int rc = output_open(&output, path, true);

    if (parts == ALL)
        parameters_moments(t->parameters);
    if (!rc && !(rc = put(&output, hash, magic, 8)) && !(rc = put(&output, hash, &length, sizeof length))
        && !(rc = put(&output, hash, text, length)) && !(rc = put_numbers(&output, hash, t->parameters, parts))) {
        sum = hash_value(hash);
        if (!(rc = output_write(&output, &sum, sizeof sum)))
            rc = output_commit(&output);
    }
    output_close(&output);
    hash_free(hash);
    free(text);
    json_drop(tree);
    return rc;
}

int snapshot_write(const char *path, const struct trainer *t, const struct json *about, const struct json *position)
{
    return write_parts(path, t, about, position, ALL);
}

int snapshot_write_done(const char *path, const struct trainer *t, const struct json *about,
                        const struct json *position)
{
    return write_parts(path, t, about, position, VALUES);
}

/* The JSON text of an open file of this size whose sum is right, and where numbers begin; NULL after a message. */
static struct json *read_text(int fd, const char *path, int64_t size, int64_t *at)
{
    unsigned char head[HEAD];
    struct json *tree;
    uint64_t length;
    char *text;

    if (size < HEAD + SUM || file_read_at(fd, path, head, HEAD, 0))
        return fail(EX_DATAERR, "'%s': too short for the state of a training", path), NULL;
    memcpy(&length, head + 8, sizeof length);
    if (memcmp(head, magic, 8) || length > TEXT_MOST || (int64_t)length > size - HEAD - SUM)
        return fail(EX_DATAERR, "'%s': not the state of a training", path), NULL;
    text = xmalloc(length + 1);
    tree = file_read_at(fd, path, text, length, HEAD) ? NULL : json_parse(text, length, path);
    free(text);
    *at = HEAD + (int64_t)length;
    return tree;
}

static int check_sum(int fd, const char *path, int64_t size)
{
    enum { PIECE = 1 << 20 };
    unsigned char *piece = xmalloc(PIECE);
    struct hash *hash = hash_new();
    uint64_t sum = 0;
    int rc = EX_OK;

    for (int64_t at = 0; at < size - SUM && !rc; at += PIECE) {
        size_t bytes = (size_t)(size - SUM - at < PIECE ? size - SUM - at : PIECE);

        if (!(rc = file_read_at(fd, path, piece, bytes, at)))
            hash_update(hash, piece, bytes);
    }
    if (!rc && !(rc = file_read_at(fd, path, &sum, SUM, size - SUM)) && sum != hash_value(hash))
        rc = fail(EX_DATAERR, "'%s': its checksum is %016llx, that of its bytes %016llx", path,
                  (unsigned long long)sum, (unsigned long long)hash_value(hash));
    hash_free(hash);
    free(piece);
    return rc;
}

static int take_numbers(int fd, const char *path, int64_t at, struct parameters *p, int parts)
{
    int rc = EX_OK;

    if (parts == ALL)
        parameters_moments(p);
    for (int part = 0; part < parts; part++)
        for (int i = 0; i < p->count && !rc; i++) {
            size_t bytes = (size_t)p->list[i].trainable.count * sizeof(float);
            float *host = xaligned(bytes, 1);

            if (!(rc = file_read_at(fd, path, host, bytes, at)))
                p->device->upload(part_of(p, &p->list[i], part), host, bytes);
            at += (int64_t)bytes;
            free(host);
        }
    return rc;
}

static int check_about(const char *path, const struct json *tree, const struct device *device, const struct json *about)
{
    if (json_same(json_at(tree, "about"), about)
        && !strcmp(json_as_string(json_at(tree, "device"), ""), device->name))
        return EX_OK;
    return fail(EX_USAGE, "'%s' belongs to a training of another model, text or other options: finish that one, or "
                "remove it, or take another --work", path);
}

static int check_text(const char *path, const struct json *tree, const struct trainer *t, const struct json *about,
                      int64_t bytes, int parts)
{
    int64_t floats = parameters_count(t->parameters, ~0u);
    int rc = check_about(path, tree, t->parameters->device, about);

    if (rc)
        return rc;
    if (json_as_int(json_at(tree, "floats"), -1) != floats || bytes != floats * parts * (int64_t)sizeof(float))
        return fail(EX_DATAERR, "'%s': %lld bytes of numbers, expected those of %lld numbers%s", path,
                    (long long)bytes, (long long)floats, parts == ALL ? " and their moments" : "");
    if (json_as_int(json_at(tree, "step"), -1) < 0 || json_as_int(json_at(tree, "updates"), -1) < 0)
        return fail(EX_DATAERR, "'%s': no \"step\" and \"updates\"", path);
    return EX_OK;
}

static int read_parts(const char *path, struct trainer *t, const struct json *about, struct json **position, int parts)
{
    int64_t size, at = 0;
    struct json *tree = NULL;
    int fd, rc = file_open(path, &fd, &size);

    if (rc)
        return rc;
    if (size >= HEAD + SUM && (rc = check_sum(fd, path, size))) {
        close(fd);
        return rc;
    }
    if (!(tree = read_text(fd, path, size, &at)))
        rc = EX_DATAERR;
    if (!rc && !(rc = check_text(path, tree, t, about, size - SUM - at, parts))
        && !(rc = take_numbers(fd, path, at, t->parameters, parts))) {
        t->step = json_as_int(json_at(tree, "step"), 0);
        t->updates = json_as_int(json_at(tree, "updates"), 0);
        *position = json_keep(json_at(tree, "position"));
    }
    json_drop(tree);
    close(fd);
    return rc;
}

int snapshot_read(const char *path, struct trainer *t, const struct json *about, struct json **position)
{
    return read_parts(path, t, about, position, ALL);
}

int snapshot_read_done(const char *path, struct trainer *t, const struct json *about, struct json **position)
{
    return read_parts(path, t, about, position, VALUES);
}

int snapshot_belongs(const char *path, const struct device *device, const struct json *about)
{
    int64_t size, at = 0;
    struct json *tree = NULL;
    int fd, rc = file_open(path, &fd, &size);

    if (rc)
        return rc;
    if (size >= HEAD + SUM && (tree = read_text(fd, path, size, &at)))
        rc = check_about(path, tree, device, about);
    json_drop(tree);
    close(fd);
    return rc;
}
