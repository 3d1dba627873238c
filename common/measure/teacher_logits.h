/* teacher_logits.h - what a dense model predicts behind each token of a training text, as a file, so that a model can
 * be distilled without its teacher in memory.
 *
 * The file is a tensor stream of the dense model's configuration. Each window of the text (see training_text.h; from 0
 * on, as they stand in it) has three tensors, a row for each of its tokens that count, in their order:
 *
 *     window.NNNNNNNNNN.ids      i16, or i32 where the vocabulary has more than 32768 ids, [rows, K]: the K ids of the
 *                                largest logits (of equal ones the lower ids), ascending
 *     window.NNNNNNNNNN.log_p    f32 or f16 [rows, K]: their logits minus the log-sum-exp of all logits of the row: the
 *                                natural logarithms of their probabilities (at least -10000)
 *     window.NNNNNNNNNN.rest     f32 [rows]: the probability of all other ids together
 *
 * The last entry of its history has the options "measure": "logits", "top": K, "context", "tokens", "windows", "hash"
 * (see struct training_text) and what else is known of the text. */
#ifndef MEASURE_TEACHER_LOGITS_H
#define MEASURE_TEACHER_LOGITS_H

#include "measure/options.h"
#include "measure/training_text.h"

struct teacher_options {
    int64_t top;                 /* K, at least 1 */
    int64_t context;             /* tokens of a window; 0: as heal has it */
    int dtype;                   /* of log_p, in dtype_float_names: f32 or f16 */
    int64_t limit;               /* as struct training_text_options has these */
    bool whole;
    const char *template, *date;
};

/* Runs the model layer by layer over the texts (paths [count]) and writes the file (NULL or "-": standard output). In
 * memory are a block, the hidden states as far as measure->memory says, and a window of logits. One of model and paths
 * may be standard input. EX_USAGE (K beyond the vocabulary, a context beyond the model's), EX_DATAERR (logits that
 * aren't finite), and the errors of loader, training_text_open(), pass_run() and writer. */
int teacher_logits_write(const struct measure *measure, const char *model, const char *const *paths, int count,
                         const struct teacher_options *options, const char *output);

struct teacher_logits {
    struct loss_top top;         /* of the tokens that were read last; k from the beginning on */
    uint64_t hash;               /* of the whole file's checksums */

    /* Private. */
    int fd;                      /* -1 */
    char *path;
    int64_t vocab_size;
    struct dtype id_dtype, log_dtype;
    int64_t *offset;             /* [windows]: of the first tensor's payload; the others follow as written */
    int64_t *log_offset, *rest_offset;
    int32_t *id;                 /* [room, k], what top points to */
    float *log_p, *rest;
    int64_t room;
};

/* Opens a file that was made of this text in these windows for a model of so many ids, verifies all of it, and notes
 * where each window lies. EX_NOINPUT, EX_USAGE (a pipe), EX_IOERR, EX_DATAERR after a message: not such a file, of
 * another text, tokenizer, context or vocabulary, damaged, or rows that are no probabilities. {.fd = -1} may be closed,
 * too. */
int teacher_logits_open(struct teacher_logits *logits, const char *path, const struct training_text *text,
                        int64_t vocab_size);

/* logits->top becomes that of the tokens of training_text_batch(text, first, count), until the next call; what it has
 * for tokens that don't count is not set. Each row is divided by its sum, which rounding may have moved from 1. Reads
 * these windows only. EX_IOERR, EX_DATAERR after a message where the file has changed. */
int teacher_logits_read(struct teacher_logits *logits, struct training_text *text, int64_t first, int64_t count);

/* For a history: {"name", "top", "hash"}; the caller's. */
struct json *teacher_logits_about(const struct teacher_logits *logits);

void teacher_logits_close(struct teacher_logits *logits);

#endif
