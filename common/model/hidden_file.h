/* hidden_file.h - hidden states between two blocks as a file: a tensor stream of the model's configuration with the
 * tensors "block" (i64 [1], the number of the block that they enter next), "hidden" (f32 [tokens, d_model]) and
 * "lengths" (i64 [sequences], tokens of each). The last entry of its history says what text they come from. */
#ifndef MODEL_HIDDEN_FILE_H
#define MODEL_HIDDEN_FILE_H

#include "model/pass.h"
#include "stream/writer.h"

struct hidden_file {
    struct hidden hidden;
    struct sequence *sequence;   /* without tokens; owned */
    int64_t count;
    struct json *history;        /* array; owned */
};

/* Reads and verifies the states that enter this block of a model of this configuration; memory is the most bytes of
 * them to keep in memory, otherwise they are copied into an unlinked file. EX_NOINPUT, EX_DATAERR (also where they
 * enter another block, or are of a model of other sizes), EX_IOERR, EX_CANTCREAT after a message. {.hidden.fd = -1} may
 * be closed, too. */
int hidden_file_read(struct hidden_file *file, const char *path, const struct config *config, int64_t block,
                     int64_t memory);
void hidden_file_close(struct hidden_file *file);

/* Writes the states of these sequences, which enter this block next, and all but the end of the stream: writer_end()
 * gives the file its name. EX_IOERR after a message. */
int hidden_file_write(struct writer *writer, const struct hidden *hidden, const struct sequence *sequence,
                      int64_t count, int64_t block);

#endif
