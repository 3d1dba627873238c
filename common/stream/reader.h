/* reader.h - reads a tensor stream (stream/FORMAT) from standard input or a file, and believes nothing in it.
 *
 * Every checksum is verified, always. A stream that is cut short, altered, out of order or followed by other bytes
 * ends with EX_DATAERR and one message that names record and offset. */
#ifndef STREAM_READER_H
#define STREAM_READER_H

#include "stream/record.h"
#include "stream/writer.h"

struct reader {
    int fd;
    char *where;                     /* the input's name for messages */
    int64_t size;                    /* of a regular file; -1 for a pipe */
    unsigned char *buffer;           /* bytes read ahead: buffer[at..filled-1] */
    size_t at, filled;
    int64_t offset;                  /* of the next byte to be taken */
    int64_t count;                   /* records taken */
    int64_t left, chunk_left;        /* payload of the current record not yet taken */
    int state;                       /* private: what comes next */
    struct hash *record_hash, *stream_hash;
    struct record last;              /* of the record before, to hold the order */
    uint64_t checksum;               /* of the last verified record */
    struct json *config, *history;   /* from the header; history is an array, config may be NULL; owned */
};

/* Opens (NULL or "-": standard input) and reads the header. EX_NOINPUT, EX_DATAERR, EX_USAGE (a terminal),
 * EX_IOERR. */
int reader_open(struct reader *reader, const char *path);

/* The next record, without its payload (an unread rest of the one before is read over and verified). At the
 * verified end of the stream record->kind is RECORD_END. *record is overwritten without being freed; the caller
 * frees it. */
int reader_next(struct reader *reader, struct record *record);

/* Reads the whole payload into tensor (allocated here, owned by the caller) and verifies it. The tensor takes the
 * record's dtype and shape. Memory grows with the bytes that really come, so a lying length costs nothing. */
int reader_load(struct reader *reader, const struct record *record, struct tensor *tensor);

/* Sends the record on to a writer, payload and all, in pieces that stay in the cache; verified on the way. */
int reader_pass(struct reader *reader, struct record *record, struct writer *writer);

/* Takes the next piece of the payload: *data points into the reader's buffer, valid until the next call; *size is
 * 0 once all was taken and verified. */
int reader_piece(struct reader *reader, const unsigned char **data, size_t *size);

void reader_close(struct reader *reader);

#endif
