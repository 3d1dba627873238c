/* snapshot.c - the state of a training, written and read. */
#include "train/snapshot.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VALUES = 1, ALL = 3 };     /* parts: values, mean, square */
enum { HEAD = 16, SUM = 8, TEXT_MOST = 1 << 24 };

static const char magic[] = "LAPSNAP1";

/* All numbers of a parameter: its values; its moments, mean or square, while they are in the places of gradients. */
static float *part_of(const struct parameters *p, const struct parameter *one, int part)
{
    return part == 0 ? one->trainable.values : p->gradient + one->first;
}

/* Moments of this rank between their own place and that of gradients, which are zero between steps. */
static void move_moments(const struct parameters *p, int part, bool back)
{
    float *moments = part == 1 ? p->mean : p->square;

    for (int i = 0; i < p->segments; i++) {
        const struct segment *s = &p->segment[i];
        float *own = moments + s->moments, *place = p->gradient + s->mine;

        parameters_copy(p->device, back ? own : place, back ? place : own, s->mine_count);
    }
}

/* Those of all ranks. */
static void gather_moments(const struct trainer *t, int part)
{
    const struct parameters *p = t->parameters;
    struct ranks *ranks = t->training.ranks;

    move_moments(p, part, false);
    for (int i = 0; i < p->segments && t->training.shard; i++)
        ranks->gather_start(ranks, p->gradient + p->segment[i].first, p->segment[i].count);
    ranks->wait(ranks);
}

static struct json *steps_of(const struct trainer *t, const struct json *about, const struct json *position)
{
    struct json *text = json_make_object();

    json_put(text, "about", json_clone(about));
    json_put(text, "device", json_make_string(t->parameters->device->name));
    json_put(text, "floats", json_make_int(parameters_count(t->parameters, ~0u)));
    json_put(text, "step", json_make_int(t->step));
    json_put(text, "updates", json_make_int(t->updates));
    json_put(text, "skipped", json_make_int(t->skipped));
    json_put(text, "position", json_clone(position));
    return text;
}

/* Bytes to the file and to its sum. */
static int put(struct output *output, struct hash *hash, const void *data, size_t size)
{
    hash_update(hash, data, size);
    return output_write(output, data, size);
}

/* Rank 0 writes. */
static int put_numbers(struct output *output, struct hash *hash, const struct trainer *t, int parts, int rc)
{
    struct parameters *p = t->parameters;
    bool writes = !t->training.ranks->rank;

    for (int part = 0; part < parts; part++) {
        if (part)
            gather_moments(t, part);
        for (int i = 0; i < p->count && !rc && writes; i++) {
            size_t bytes = (size_t)p->list[i].trainable.count * sizeof(float);
            float *host = xaligned(bytes, 1);

            p->device->download(host, part_of(p, &p->list[i], part), bytes);
            rc = put(output, hash, host, bytes);
            free(host);
        }
    }
    parameters_clear(p);
    return rc;
}

/* What comes before the numbers. */
static int put_text(struct output *output, struct hash *hash, const struct trainer *t, const struct json *about,
                    const struct json *position)
{
    struct json *tree = steps_of(t, about, position);
    char *text = json_write(tree, 0);
    uint64_t length = strlen(text);
    int rc;

    if (!(rc = put(output, hash, magic, 8)) && !(rc = put(output, hash, &length, sizeof length)))
        rc = put(output, hash, text, length);
    free(text);
    json_drop(tree);
    return rc;
}

static int write_parts(const char *path, const struct trainer *t, const struct json *about,
                       const struct json *position, int parts)
{
    bool writes = !t->training.ranks->rank;
    struct hash *hash = hash_new();
    struct output output = {.fd = -1};
    uint64_t sum;
    int rc = writes ? output_open(&output, path, true) : EX_OK;

    if (parts == ALL)
        parameters_moments(t->parameters);
    if (writes && !rc)
        rc = put_text(&output, hash, t, about, position);
    rc = put_numbers(&output, hash, t, parts, rc);
    sum = hash_value(hash);
    if (writes && !rc && !(rc = output_write(&output, &sum, sizeof sum)))
        rc = output_commit(&output);
    if (writes)
        output_close(&output);
    hash_free(hash);
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

    if (size < HEAD + SUM)
        return fail(EX_DATAERR, "'%s': %lld bytes are too few for the state of a training, expected %d or more", path,
                    (long long)size, HEAD + SUM), NULL;
    if (file_read_at(fd, path, head, HEAD, 0))
        return NULL;
    memcpy(&length, head + 8, sizeof length);
    if (memcmp(head, magic, 8))
        return fail(EX_DATAERR, "'%s': not the state of a training: it doesn't begin with \"%.8s\"", path, magic), NULL;
    if (length > TEXT_MOST || (int64_t)length > size - HEAD - SUM)
        return fail(EX_DATAERR, "'%s': %llu bytes of text, expected at most %lld", path, (unsigned long long)length,
                    (long long)least(TEXT_MOST, size - HEAD - SUM)), NULL;
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

/* Rank 0 reads. */
static int take_numbers(int fd, const char *path, int64_t at, struct trainer *t, int parts)
{
    struct parameters *p = t->parameters;
    struct ranks *ranks = t->training.ranks;
    int rc = EX_OK;

    if (parts == ALL)
        parameters_moments(p);
    for (int part = 0; part < parts; part++) {
        for (int i = 0; i < p->count; i++) {
            size_t bytes = (size_t)p->list[i].trainable.count * sizeof(float);
            float *host = xaligned(bytes, 1);

            if (!ranks->rank && !rc)
                rc = file_read_at(fd, path, host, bytes, at);
            ranks->broadcast(ranks, &rc, sizeof rc);
            if (!rc) {
                ranks->broadcast(ranks, host, bytes);
                p->device->upload(part_of(p, &p->list[i], part), host, bytes);
            }
            at += (int64_t)bytes;
            free(host);
        }
        if (part)
            move_moments(p, part, true);
    }
    parameters_clear(p);
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
    int64_t floats = parameters_count(t->parameters, ~0u), step = json_as_int(json_at(tree, "step"), -1);
    int rc = check_about(path, tree, t->parameters->device, about);

    if (rc)
        return rc;
    if (json_as_int(json_at(tree, "floats"), -1) != floats || bytes != floats * parts * (int64_t)sizeof(float))
        return fail(EX_DATAERR, "'%s': %lld bytes of numbers, expected those of %lld numbers%s", path,
                    (long long)bytes, (long long)floats, parts == ALL ? " and their moments" : "");
    if (step < 0 || step > t->training.steps)
        return fail(EX_DATAERR, "'%s': \"step\" is %lld, expected 0 to %lld", path, (long long)step,
                    (long long)t->training.steps);
    if (json_as_int(json_at(tree, "updates"), -1) < 0)
        return fail(EX_DATAERR, "'%s': no \"updates\"", path);
    return EX_OK;
}

/* Opens the file and reads its text. */
static int open_state(const char *path, const struct trainer *t, const struct json *about, int parts, int *fd,
                      int64_t *at, struct json **tree)
{
    int64_t size;
    int opened, rc = file_open(path, &opened, &size);

    if (rc)
        return rc;
    *fd = opened;
    if (size >= HEAD + SUM && (rc = check_sum(*fd, path, size)))
        return rc;
    if (!(*tree = read_text(*fd, path, size, at)))
        return EX_DATAERR;
    return check_text(path, *tree, t, about, size - SUM - *at, parts);
}

/* What rank 0 has read, for all. */
static void take_text(struct trainer *t, const struct json *tree, struct json **position)
{
    char *own = tree ? json_write(tree, 0) : NULL, *text = ranks_text(t->training.ranks, own);
    struct json *all = json_parse(text, strlen(text), "the state");

    t->step = json_as_int(json_at(all, "step"), 0);
    t->updates = json_as_int(json_at(all, "updates"), 0);
    t->skipped = json_as_int(json_at(all, "skipped"), 0);
    *position = json_keep(json_at(all, "position"));
    json_drop(all);
    free(own);
    free(text);
}

static int read_parts(const char *path, struct trainer *t, const struct json *about, struct json **position, int parts)
{
    struct ranks *ranks = t->training.ranks;
    struct json *tree = NULL;
    int fd = -1, rc = EX_OK;
    int64_t at = 0;

    if (!ranks->rank)
        rc = open_state(path, t, about, parts, &fd, &at, &tree);
    ranks->broadcast(ranks, &rc, sizeof rc);
    if (!rc && !(rc = take_numbers(fd, path, at, t, parts)))
        take_text(t, tree, position);
    json_drop(tree);
    if (fd >= 0)
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
