/* training_text.h - what a model is trained on: documents of one or more files as tokens, in windows.
 *
 * A file is a text, one document, or, where it begins with '{', JSON lines, or with "[{", an array: documents with
 * "text", or conversations (see conversation_of_line()), written out in the model's chat template. Documents stand one
 * behind the other and are cut into windows of context tokens, the last one shorter. Of a window each piece of a
 * document is a sequence of its own, so that nothing attends across documents. Of conversations only what predicts
 * answers (and the token that ends them) counts. Documents with "text" end with the model's end-of-text token, files
 * that are one text as they do. Files are read whole, at most 2 GiB each. */
#ifndef MEASURE_TRAINING_TEXT_H
#define MEASURE_TRAINING_TEXT_H

#include "model/loader.h"
#include "train/trainer.h"

struct training_text_options {
    int64_t context;             /* at most the model's positions */
    uint64_t seed;               /* of the order of windows */
    bool whole;                  /* everything in conversations counts */
    const char *template, *date; /* of conversations; NULL: the model's own, chat_text_date() */
    int64_t limit;               /* of each JSON file its first so many documents; 0: all */
    bool measured;               /* only that, not learned from: evaluation files will do, and texts with options of
                                  * conversations */
};

struct training_text {
    struct ids ids;              /* all tokens */
    unsigned char *counts;       /* of each token: whether it is to be predicted from */
    unsigned char *begins;       /* of each token: whether a document begins with it */
    size_t capacity;             /* of the two */
    int64_t context, windows, documents;
    struct json *about;          /* for the history: {"data": [{name, bytes, hash}], "hash", ...}; hash tells two texts
                                  * apart: tokens, where documents begin, what counts */

    /* Private: the order of the windows in one pass over all. */
    uint64_t seed;
    int64_t pass, *order;        /* pass -1: not made yet */
};

/* Reads and tokenizes count files ("-": standard input). EX_NOINPUT, EX_USAGE (an option of conversations, and none of
 * them), EX_DATAERR (no tokens, none that counts, a line that is none of these), EX_UNAVAILABLE (a chat
 * template that isn't known, a file of the project's evaluations), EX_IOERR after a message. {0} may be closed, too. */
int training_text_open(struct training_text *text, const char *const *paths, int count, const struct loader *loader,
                       const struct training_text_options *options);

/* The count windows from number first on, as one micro-batch, whose lists are allocated: training_batch_free(). Windows
 * are numbered on and on: each pass over all has an order of its own, which depends on seed and pass alone. */
struct micro_batch training_text_batch(struct training_text *text, int64_t first, int64_t count);
void training_batch_free(struct micro_batch *batch);

/* Which window of the text (0..windows-1, as they stand in it) comes as this number; its tokens are ids.id[window *
 * context] and on, at most context. */
int64_t training_text_window(struct training_text *text, int64_t number);

/* How many tokens it has. */
int64_t training_text_tokens(const struct training_text *text, int64_t window);

void training_text_close(struct training_text *text);

#endif
