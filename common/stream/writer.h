/* writer.h - writes a tensor stream (stream/FORMAT) to standard output or to a file that appears whole or not at
 * all. */
#ifndef STREAM_WRITER_H
#define STREAM_WRITER_H

#include "base/file.h"
#include "stream/record.h"

struct writer {
    struct output output;
    struct hash *record_hash, *stream_hash;
    struct record last;              /* name, kind, term, site of the record before, to hold the order */
    int64_t count;                   /* records so far */
    int64_t offset;                  /* bytes so far */
    int64_t left, chunk_left;        /* of the record being written */
    bool forwarding;                 /* the current record is not hashed here */
    char *where;                     /* the output's name for messages */
};

/* Opens the output (NULL or "-": standard output) and writes the header.
 *   config   the model's configuration (the content of config.json), or NULL
 *   history  an array of entries (history_entry()), or NULL
 * EX_CANTCREAT, EX_USAGE (a terminal), EX_IOERR. */
int writer_open(struct writer *writer, const char *path, const struct json *config, const struct json *history);

/* Writes a record with its payload (record->bytes bytes). EX_SOFTWARE where it breaks the fixed order. */
int writer_put(struct writer *writer, struct record *record, const void *payload);

/* The same in pieces: begin, any number of writes that sum up to record->bytes, end (which fails with EX_SOFTWARE on
 * another sum). Nothing is copied: each piece goes to the output as it is. */
int writer_begin(struct writer *writer, struct record *record);
int writer_add(struct writer *writer, const void *data, size_t size);
int writer_finish(struct writer *writer);

/* The same for a record that a reader verifies while its pieces go through: begun by forward, ended by the
 * checksum that the reader found good, and not hashed a second time. */
int writer_forward(struct writer *writer, struct record *record);
int writer_forwarded(struct writer *writer, uint64_t checksum);

/* Writes the end record and commits the file. Only a whole stream is ever ended. */
int writer_end(struct writer *writer);

/* Releases; an output that was not ended is removed (a file) or left without an end record (a pipe). */
void writer_close(struct writer *writer);

/* Whether a history is an array of entries as history_entry() makes them. */
bool history_good(const struct json *history);

/* One entry for a history: {program, version, options}; options is stolen, an object without paths, threads,
 * verbosity. */
struct json *history_entry(const char *program, struct json *options);

#endif
