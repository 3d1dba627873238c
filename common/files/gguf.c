/* gguf.c - a GGUF file as a model: opens it, and gives the payloads of its tensors in the order and dtype of their
 * records.
 *
 * The header lives in memory only while the file is opened. Payloads are read by pread and decoded block by block
 * through a small buffer, so any range of any tensor takes the same few kilobytes. */
#include "files/gguf_internal.h"
#include "base/file.h"
#include "base/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The container's state: what read needs after the header is gone. */
struct gguf_state {
    int fd;
};

/* Part of a tensor whose bytes in the file follow each other as its elements do. */
struct run {
    int fd;
    const char *path;
    const struct gguf_format *format;
    int64_t offset;              /* in the file */
};

/* Whole blocks first..first+count-1 of a run into out. */
static int decode_blocks(const struct run *run, int64_t first, int64_t count, float *out)
{
    unsigned char block[128 * GGUF_BLOCK_BYTES];
    const struct gguf_format *format = run->format;
    int64_t most = (int64_t)sizeof block / format->bytes;

    while (count) {
        int64_t take = count < most ? count : most;
        int rc = file_read_at(run->fd, run->path, block, (size_t)(take * format->bytes),
                              run->offset + first * format->bytes);

        if (rc)
            return rc;
        format->decode(block, take, out);
        out += take * format->elements;
        first += take;
        count -= take;
    }
    return EX_OK;
}

/* Bytes [from, from + size) of a run's payload. Blocks that are wanted in part, and a destination where floats can't
 * lie, go through a block of their own. */
static int read_run(const struct run *run, int64_t from, int64_t size, unsigned char *to)
{
    float whole[GGUF_BLOCK_ELEMENTS];
    int64_t bytes = (int64_t)sizeof *whole * run->format->elements;
    int rc = EX_OK;

    if (!run->format->decode)
        return file_read_at(run->fd, run->path, to, (size_t)size, run->offset + from);
    while (size && !rc) {
        int64_t first = from / bytes, skip = from % bytes, take = bytes - skip < size ? bytes - skip : size;

        if (take == bytes && (uintptr_t)to % _Alignof(float) == 0) {
            take = size / bytes * bytes;
            rc = decode_blocks(run, first, take / bytes, (float *)(void *)to);
        } else if (!(rc = decode_blocks(run, first, 1, whole)))
            memcpy(to, (char *)whole + skip, (size_t)take);
        from += take;
        size -= take;
        to += take;
    }
    return rc;
}

/* The row in the file that is row `row` of the payload: within a head the file has the two halves interleaved. */
static int64_t file_row(int64_t row, int64_t head_dim)
{
    int64_t within = row % head_dim, half = head_dim / 2;

    return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

static int gguf_read(const struct model *model, const struct item *item, int64_t from, size_t size, void *to)
{
    const struct gguf_state *state = model->state;
    struct run run = {.fd = state->fd, .path = model->path, .offset = item->place[0]};
    int64_t rows = item->record.shape[0], row_bytes, left = (int64_t)size;
    int rc = EX_OK;

    assert(from >= 0 && left >= 0 && left <= item->record.bytes - from);
    if (item->file < 0) {
        memcpy(to, (const char *)item->detail + from, size);
        return EX_OK;
    }
    run.format = gguf_format((uint32_t)item->place[1]);
    if (!item->place[2])
        return read_run(&run, from, left, to);
    row_bytes = item->record.bytes / rows;
    for (unsigned char *out = to; left && !rc;) {
        int64_t row = from / row_bytes, skip = from % row_bytes;
        int64_t take = row_bytes - skip < left ? row_bytes - skip : left;

        run.offset = item->place[0] + file_row(row, item->place[2]) * (item->stored_bytes / rows);
        rc = read_run(&run, skip, take, out);
        from += take;
        left -= take;
        out += take;
    }
    return rc;
}

static void gguf_close(struct model *model)
{
    struct gguf_state *state = model->state;

    for (size_t i = 0; i < model->n_item; i++) {
        free(model->item[i].detail);
        model->item[i].detail = NULL;
    }
    close(state->fd);
    free(state);
    model->state = NULL;
    model->container = NULL;
}

static const struct container container = {.format = "gguf", .read = gguf_read, .close = gguf_close};

/* The hash of the header's bytes and the file's size. */
static uint64_t identity(const struct gguf *g)
{
    struct hash *hash = hash_new();
    uint64_t value;

    hash_update(hash, g->header.data, (size_t)g->at);
    hash_update(hash, &g->size, sizeof g->size);
    value = hash_value(hash);
    hash_free(hash);
    return value;
}

int gguf_open(struct model *model, const char *path)
{
    struct gguf gguf = {.fd = -1, .path = path};
    struct gguf_plan plan = {0};
    struct gguf_state *state;
    int rc = file_open(path, &gguf.fd, &gguf.size);

    if (rc)
        return rc;
    state = xmalloc(sizeof *state);
    state->fd = gguf.fd;
    model->state = state;
    model->container = &container;
    if (gguf.size < 0)
        rc = gguf_fail(&gguf, "it is no regular file");
    if (!rc && !(rc = gguf_parse(&gguf)) && !(rc = gguf_plan(&gguf, &plan)) &&
        !(rc = gguf_config(&gguf, &plan, model)) && !(rc = gguf_tensors(&gguf, &plan, model)) &&
        !(rc = gguf_tokenizer(&gguf, &plan, model))) {
        model->identity = identity(&gguf);
        model->file_bytes = gguf.size;
    }
    gguf_free(&gguf);
    if (rc)
        gguf_close(model);
    return rc;
}
