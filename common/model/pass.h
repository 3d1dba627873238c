/* pass.h - many sequences through a model layer by layer: one block's weights in memory at a time, read once in stream
 * order, and the hidden states of all tokens between the blocks. */
#ifndef MODEL_PASS_H
#define MODEL_PASS_H

#include "model/loader.h"

/* Tokens of a sequence, borrowed. With a parent (the index of an earlier sequence without one) they continue its
 * tokens: several continuations of one prefix run through it once. Children follow their parent directly. */
struct sequence {
    const int32_t *token;
    int64_t n;
    int64_t parent;              /* -1: none */
};

/* The hidden states [rows, d_model] f32 of all sequences one behind the other, in memory or, where they take more than
 * they may, in an unlinked file in $TMPDIR. */
struct hidden {
    int64_t rows, width;
    float *data;                 /* NULL: in the file */
    int fd;
};

/* Allocates for rows tokens; memory is the most bytes to keep in memory. EX_CANTCREAT, EX_IOERR after a message. */
int hidden_open(struct hidden *hidden, int64_t rows, int64_t width, int64_t memory);
int hidden_read(const struct hidden *hidden, int64_t first, int64_t n, float *x);        /* host; EX_IOERR */
int hidden_write(struct hidden *hidden, int64_t first, int64_t n, const float *x);
void hidden_close(struct hidden *hidden);

/* Runs the sequences through all blocks of the loader's model. hidden (opened by this function, the caller's to close)
 * has the states that leave the last block, before the final norm: the rows of sequence 0, then of sequence 1, ... head
 * is the caller's. embedding is what a tied head borrows: the caller's to free, behind the head. Shows progress. Errors
 * are those of the loader and of hidden; token ids must be below vocab_size and positions below max_position
 * (EX_DATAERR otherwise). */
int pass_run(struct loader *loader, struct forward *forward, const struct sequence *sequence, int64_t count,
             int64_t memory, struct hidden *hidden, struct applied **embedding, struct head *head);

/* A pass in single steps: the embedding, then block by block, of one model or of several side by side. */
struct pass {
    struct loader *loader;
    struct forward *forward;
    const struct sequence *sequence;
    int64_t count;
    struct hidden *hidden;
    const char *label;           /* of steps of progress; NULL: none. All of these are borrowed */

    float *x;                    /* private: [step, d_model] on the device */
    float *k, *v;                /* [rows of the largest batch, n_kv_head * head_dim] */
    float *host;                 /* [step, d_model] where hidden is a file */
    struct span *span, *part;    /* of a batch, and of a piece of it */
};

enum { PASS_ROWS = 2048 };       /* rows that go through a block together, at most */

int64_t sequences_rows(const struct sequence *sequence, int64_t count);          /* tokens of all */

/* hidden is open, for the rows of all sequences. Tokens are NULL where the states that are in it came from elsewhere.
 * EX_DATAERR as for pass_run(). */
int pass_begin(struct pass *pass, struct loader *loader, struct forward *forward, const struct sequence *sequence,
               int64_t count, struct hidden *hidden);

/* Reads the embedding and looks all tokens up. */
int pass_embed(struct pass *pass, struct applied **embedding);

/* All rows through a block; where forward->tap is set, it is told the rows' numbers in hidden. count models take turns:
 * the same rows of each, at most PASS_ROWS, before the next ones. They have the same sequences and the same width.
 * Where the first has a label, each of its pass_pieces() is a step of progress. */
int pass_block(struct pass pass[], const struct block block[], int count, int64_t layer);
int64_t pass_pieces(const struct pass *pass);
void pass_end(struct pass *pass);

/* Logits of rows first..first+n-1 of hidden: take gets them in chunks, in order, on the device, and returns EX_OK to go
 * on. EX_IOERR, or what take returned. */
int pass_logits(struct forward *forward, const struct hidden *hidden, const struct head *head, int64_t first, int64_t n,
                int (*take)(void *context, int64_t first, int64_t n, const float *logits), void *context);

#endif
