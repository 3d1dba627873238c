/* file.c - reads and writes that are whole, and outputs that get their name only when they are. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int file_open(const char *path, int *fd, int64_t *size)
{
    struct stat about;

    if ((*fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return fail(EX_NOINPUT, "cannot open '%s':", path);
    if (fstat(*fd, &about) == 0 && S_ISDIR(about.st_mode))
        errno = EISDIR;
    else if (fstat(*fd, &about) == 0) {
        *size = S_ISREG(about.st_mode) ? about.st_size : -1;
        return EX_OK;
    }
    fail(EX_NOINPUT, "cannot open '%s':", path);
    close(*fd);
    *fd = -1;
    return EX_NOINPUT;
}

int file_read(const char *path, size_t limit, struct text *text)
{
    int fd = -1;
    int64_t size = 0;
    char block[65536];
    ssize_t got = 0;
    int rc = file_open(path, &fd, &size);

    if (rc)
        return rc;
    text_append(text, "", 0);
    while ((got = read(fd, block, sizeof block)) > 0 || (got < 0 && errno == EINTR)) {
        if (got > 0)
            text_append(text, block, (size_t)got);
        if (text->length > limit) {
            rc = fail(EX_DATAERR, "'%s': longer than %zu bytes", path, limit);
            break;
        }
    }
    if (got < 0)
        rc = fail(EX_IOERR, "cannot read '%s':", path);
    close(fd);
    return rc;
}

int file_read_at(int fd, const char *path, void *data, size_t size, int64_t offset)
{
    unsigned char *to = data;

    while (size) {
        ssize_t got = pread(fd, to, size, offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(EX_IOERR, "cannot read '%s':", path);
        if (got == 0)
            return fail(EX_DATAERR, "'%s': ends at byte %lld, %zu bytes too early", path, (long long)offset, size);
        to += got;
        size -= (size_t)got;
        offset += got;
    }
    return EX_OK;
}

char *file_basename(const char *path)
{
    char *copy = xstrdup(path), *name = xstrdup(basename(copy));

    free(copy);
    return name;
}

char *file_join(const char *directory, const char *name)
{
    return xasprintf("%s/%s", directory, name);
}

static char *directory_of(const char *path)
{
    char *copy = xstrdup(path), *name = xstrdup(dirname(copy));

    free(copy);
    return name;
}

static int open_part(struct output *output)
{
    char *directory = directory_of(output->path), *name = file_basename(output->path);
    int rc = EX_OK;

    output->part = xasprintf("%s/.%s.part", directory, name);
    output->fd = open(output->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (output->fd < 0)
        rc = fail(EX_CANTCREAT, "cannot create '%s':", output->path);
    else if (flock(output->fd, LOCK_EX | LOCK_NB)) {
        rc = fail(EX_CANTCREAT, "cannot create '%s': another process is writing it", output->path);
        close(output->fd);       /* not ours to remove */
        output->fd = -1;
    } else if (ftruncate(output->fd, 0))
        rc = fail(EX_IOERR, "cannot write '%s':", output->path);
    free(directory);
    free(name);
    return rc;
}

int output_open(struct output *output, const char *path, bool binary)
{
    struct stat about;

    *output = (struct output){.fd = -1};
    if (!path || !strcmp(path, "-")) {
        if (binary && isatty(STDOUT_FILENO))
            return fail(EX_USAGE, "binary data is not written to a terminal: use a pipe or -o FILE");
        output->fd = STDOUT_FILENO;
        return EX_OK;
    }
    output->path = xstrdup(path);
    if (stat(path, &about) || S_ISREG(about.st_mode))
        return open_part(output);
    output->fd = open(path, O_WRONLY | O_CLOEXEC);
    return output->fd < 0 ? fail(EX_CANTCREAT, "cannot open '%s':", path) : EX_OK;
}

static const char *output_name(const struct output *output)
{
    return output->path ? output->path : "standard output";
}

int output_write(struct output *output, const void *data, size_t size)
{
    const char *from = data;

    while (size) {
        ssize_t put = write(output->fd, from, size);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(EX_IOERR, "cannot write '%s':", output_name(output));
        from += put;
        size -= (size_t)put;
        output->written += put;
    }
    return EX_OK;
}

int stdout_close(void)
{
    bool bad = ferror(stdout);

    return fclose(stdout) || bad ? fail(EX_IOERR, "cannot write 'standard output':") : EX_OK;
}

int directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || (fsync(fd) && errno != EINVAL) ? fail(EX_IOERR, "cannot sync '%s':", path) : EX_OK;

    if (fd >= 0)
        close(fd);
    return rc;
}

int output_commit(struct output *output)
{
    char *directory = NULL;
    int rc = EX_OK, fd = output->fd;

    if (output->part && fsync(fd))
        return fail(EX_IOERR, "cannot write '%s':", output->path);
    if (output->part && rename(output->part, output->path))
        return fail(EX_CANTCREAT, "cannot rename '%s' to '%s':", output->part, output->path);
    if (output->part) {
        directory = directory_of(output->path);
        rc = directory_sync(directory);
        free(directory);
        free(output->part);
        output->part = NULL;
    }
    output->fd = -1;
    if (close(fd))
        rc = fail(EX_IOERR, "cannot write '%s':", output_name(output));
    return rc;
}

void output_close(struct output *output)
{
    if (output->fd >= 0 && output->part)
        unlink(output->part);
    if (output->fd >= 0 && output->path)
        close(output->fd);
    free(output->part);
    free(output->path);
    *output = (struct output){.fd = -1};
}

int directory_remove(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;

    if (!directory)
        return errno == ENOENT ? EX_OK : fail(EX_CANTCREAT, "cannot remove '%s':", path);
    while ((entry = readdir(directory)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
    return rmdir(path) ? fail(EX_CANTCREAT, "cannot remove '%s':", path) : EX_OK;
}
