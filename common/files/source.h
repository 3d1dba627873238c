/* source.h - any model argument as a sequence of records in stream order: a directory, a GGUF file, a tensor
 * stream in a file or on standard input. What filters read from. */
#ifndef FILES_SOURCE_H
#define FILES_SOURCE_H

#include "files/model.h"
#include "stream/reader.h"
#include "stream/writer.h"

struct source {
    bool is_model;
    struct model model;          /* is_model */
    struct reader reader;        /* otherwise */
    size_t next;                 /* item to come, of a model */
    const struct json *config;   /* the model's configuration, or NULL; borrowed */
    const struct json *history;  /* array; borrowed */
    const char *name;            /* for messages */
};

/* Opens (NULL or "-": standard input). EX_NOINPUT, EX_DATAERR, EX_USAGE, EX_IOERR after a message. */
int source_open(struct source *source, const char *path);

/* The next record, without its payload; RECORD_END behind the last, once all is verified. The caller frees
 * *record. */
int source_next(struct source *source, struct record *record);

/* The payload of the record that came last, once: into a tensor of the caller's, */
int source_load(struct source *source, const struct record *record, struct tensor *tensor);

/* or on to a writer, in pieces, */
int source_pass(struct source *source, struct record *record, struct writer *writer);

/* or to a function, in pieces, EX_OK to go on. */
int source_each(struct source *source, const struct record *record,
                int (*take)(void *context, const void *data, size_t size), void *context);

/* The history of what is read. A foreign model begins one with the step of reading it, as extract-layer does (the
 * model's name and identity; which layers were asked for is left out), so that `quantize MODEL` and `extract-layer
 * MODEL | quantize` give the same, and streams of different layers of a model tell the same. The caller's. */
struct json *source_history(const struct source *source);

/* The item behind the record that came last, of a model on disk; NULL of a stream. */
const struct item *source_item(const struct source *source);

void source_close(struct source *source);

#endif
