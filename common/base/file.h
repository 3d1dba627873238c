/* file.h - whole reads and writes, and output files that appear whole or not at all. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* True for what stands for standard input: NULL or "-". */
bool file_is_stdin(const char *path);

/* Whether both are the same path, or both stand for standard input (of outputs: standard output). */
bool file_same(const char *a, const char *b);

/* The path, or "standard input", for messages and reports. */
const char *file_input_name(const char *path);

/* Appends a file's or standard input's bytes to text; more than limit is refused. EX_NOINPUT, EX_DATAERR, EX_IOERR. */
int file_read(const char *path, size_t limit, struct text *text);

/* Reads exactly size bytes at an offset of fd. EX_DATAERR where the file is shorter (path names it), EX_IOERR. */
int file_read_at(int fd, const char *path, void *data, size_t size, int64_t offset);

/* Opens for reading and gives the size. EX_NOINPUT after a message; a directory is refused. */
int file_open(const char *path, int *fd, int64_t *size);

/* The part of a path behind its last '/' (trailing ones ignored); the caller frees. */
char *file_basename(const char *path);

/* The directory that a path lies in; the caller frees. */
char *file_directory(const char *path);

/* Joins with '/'; the caller frees. */
char *file_join(const char *directory, const char *name);

/* An output: standard output (path NULL or "-"), something that isn't a regular file (a device, a pipe; written in
 * place), or a file. A file is written as the sibling `.NAME.part`, locked against a second writer, and gets its
 * name only in output_commit(). */
struct output {
    int fd;
    char *path, *part;       /* part is NULL where the output is written in place */
};

/* EX_CANTCREAT after a message. A link is followed: what it points to is replaced. Binary output to a terminal is
 * refused where binary is set (EX_USAGE). */
int output_open(struct output *output, const char *path, bool binary);

/* Whether output_open() would do, before what is to be written is made; leaves nothing, and doesn't open what is no
 * file (a pipe would see its end). */
int output_try(const char *path, bool binary);

/* Writes all. EX_IOERR after a message. */
int output_write(struct output *output, const void *data, size_t size);

/* Writes all of it to fd; path is for the message. EX_IOERR. */
int file_write(int fd, const char *path, const void *data, size_t size);

/* A file, or a directory of files, that is to vanish if the program is stopped by a signal (INT, TERM, HUP, QUIT,
 * PIPE) before file_lasting() takes it off the list. Paths are copied. */
void file_fleeting(const char *path);
void file_lasting(const char *path);

/* Flushes to the disk (fsync), renames into place, closes. EX_IOERR, EX_CANTCREAT after a message: then nothing is
 * left, unless only the sync of the directory failed. */
int output_commit(struct output *output);

/* Closes; removes what was not committed. */
void output_close(struct output *output);

/* fsync of a directory, so that a rename in it survives a crash. */
int directory_sync(const char *path);

/* Removes the plain files in a directory; absent is fine. EX_CANTCREAT after a message. */
int directory_empty(const char *path);

/* The same, and the directory. */
int directory_remove(const char *path);

#endif
