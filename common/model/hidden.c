/* hidden.c - rows of hidden states, in memory or in a file without a name. */
#include "base/file.h"
#include "base/memory.h"
#include "model/pass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_unlinked(const char *directory)
{
    char *path;
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0)
        return fd;
    path = file_join(directory, "lapidary.XXXXXX");      /* not every file system knows O_TMPFILE */
    if ((fd = mkostemp(path, O_CLOEXEC)) >= 0)
        unlink(path);
    free(path);
    return fd;
}

int hidden_open(struct hidden *hidden, int64_t rows, int64_t width, int64_t memory)
{
    const char *directory = getenv("TMPDIR");
    int64_t bytes;

    *hidden = (struct hidden){.rows = rows, .width = width, .fd = -1};
    if (!size_multiply(rows, width * (int64_t)sizeof *hidden->data, &bytes))
        return fail(EX_DATAERR, "hidden states of %lld tokens: too many", (long long)rows);
    if (bytes <= memory) {
        hidden->data = xaligned((size_t)bytes, 1);
        return EX_OK;
    }
    directory = directory && *directory ? directory : "/tmp";
    if ((hidden->fd = open_unlinked(directory)) < 0)
        return fail(EX_CANTCREAT, "cannot create a file for hidden states in '%s':", directory);
    inform("hidden states: %lld bytes, kept in a file in '%s'", (long long)bytes, directory);
    return EX_OK;
}

static int64_t offset_of(const struct hidden *hidden, int64_t row)
{
    return row * hidden->width * (int64_t)sizeof *hidden->data;
}

int hidden_read(const struct hidden *hidden, int64_t first, int64_t n, float *x)
{
    size_t bytes = (size_t)offset_of(hidden, n);

    if (hidden->data) {
        memcpy(x, hidden->data + first * hidden->width, bytes);
        return EX_OK;
    }
    return file_read_at(hidden->fd, "hidden states", x, bytes, offset_of(hidden, first));
}

int hidden_write(struct hidden *hidden, int64_t first, int64_t n, const float *x)
{
    size_t bytes = (size_t)offset_of(hidden, n);
    int64_t offset = offset_of(hidden, first);
    const char *from = (const void *)x;

    if (hidden->data) {
        memcpy(hidden->data + first * hidden->width, x, bytes);
        return EX_OK;
    }
    while (bytes) {
        ssize_t put = pwrite(hidden->fd, from, bytes, offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(EX_IOERR, "cannot write hidden states:");
        from += put;
        offset += put;
        bytes -= (size_t)put;
    }
    return EX_OK;
}

void hidden_close(struct hidden *hidden)
{
    free(hidden->data);
    if (hidden->fd >= 0)
        close(hidden->fd);
    *hidden = (struct hidden){.fd = -1};
}
