/* windows.h - a text's tokens cut into windows, and what a model says of them: the negative log-likelihood of each
 * token from those before it in its window. */
#ifndef MEASURE_WINDOWS_H
#define MEASURE_WINDOWS_H

#include "measure/options.h"
#include "model/pass.h"

/* Tokens 0..n-1 of which from..n-1 are predicted, each from all before it in the window; so from is at least 1, and all
 * but the last go through the model. */
struct window {
    const int32_t *token;        /* borrowed */
    int64_t n, from;
    int64_t start;               /* where token[0] stands in its text; -1: what was put in front of it */
    int64_t group;               /* what it is counted for: itself, or a document */
    bool of_document;            /* start is in the document of number group */
};

struct windows {
    struct window *window;
    int64_t count, groups;
    int64_t scored, fed;         /* tokens predicted, and run through the model */
};

/* Windows of context tokens (at least 2), one every stride (1..context) tokens, each for itself.
 *
 * stride == context: no overlap; the first token of each is not predicted, and what is left at the end and fills no
 * window is dropped, as the GPTQ and SVD papers do. A text shorter than context is one window. stride < context: as
 * in Hugging Face's guide to perplexity: each window but the first predicts only the tokens behind the end of the one
 * before, the last one ends with the text, and all tokens but the first are predicted once. */
void windows_cut(struct windows *windows, const int32_t *token, int64_t n, int64_t context, int64_t stride);

/* Adds the windows of a document by lm-evaluation-harness's get_rolling_token_windows with context_len 1: token[0] is
 * the prefix, all n-1 others are predicted, by windows of up to context tokens that are run through the model; the
 * last one reaches back so that it is full. They count for a group of their own. */
void windows_roll(struct windows *windows, const int32_t *token, int64_t n, int64_t context);

void windows_free(struct windows *windows);

/* Sums over groups: of values, and of how many they were. */
struct sums {
    double *sum;
    int64_t *count;
    int64_t groups;
};

void sums_begin(struct sums *sums, int64_t groups);
void sums_free(struct sums *sums);
int64_t sums_count(const struct sums *sums);      /* of all groups */
double sums_mean(const struct sums *sums);       /* the sum of all by the count of all */

/* The standard error of that mean, where the groups are what was drawn: a ratio of sums, so sqrt(G / (G - 1) * sum
 * over groups of (sum - mean * count)^2) / count of all; for groups of one size that is the usual standard error of
 * their means. NaN of fewer than 2 groups. */
double sums_error(const struct sums *sums);

/* " +- 0.1234" for a line that people read; "" where there is no error (NaN). The caller frees. */
char *error_text(double error);

/* A model on its way through the windows of a text. Must not be moved. */
struct subject {
    const struct measure *measure;
    struct loader loader;
    struct tokenizer *tokenizer;
    struct forward forward;
    struct hidden hidden;
    struct applied *embedding;
    struct head head;
    bool opened, run;
};

/* Opens the model and its tokenizer. Errors are the loader's. {0} may be closed, too. */
int subject_open(struct subject *subject, const struct measure *measure, const char *model);

/* All windows through all blocks; memory is the most bytes of hidden states to keep in memory. Errors are
 * pass_run()'s. */
int subject_run(struct subject *subject, const struct windows *windows, int64_t memory);

void subject_close(struct subject *subject);

/* Some predicted tokens of a window, and the logits [n, vocab_size] (device) that predict them. */
struct chunk {
    const struct window *window;
    int64_t first, n;            /* tokens first..first+n-1 of the window */
    int64_t row;                 /* of the hidden states: the first that the logits come from */
    const float *logits;
};

/* Calls take for all predicted tokens, window by window, in order; shows progress. EX_IOERR, or what take returned
 * other than EX_OK. */
int subject_each(struct subject *subject, const struct windows *windows,
                 int (*take)(void *context, const struct chunk *chunk), void *context);

/* Of each token of a chunk [n]: log(sum(exp(logits))), the most likely token in its place (NULL: not needed), and the
 * negative log-likelihood in nats. EX_DATAERR where one isn't finite, after a message that names the token. */
int chunk_score(const struct subject *subject, const struct chunk *chunk, double *lse, int32_t *argmax, double *nll);

/* The negative log-likelihoods of all predicted tokens, by group of windows; nll is begun here. Errors as above. */
int subject_nll(struct subject *subject, const struct windows *windows, struct sums *nll);

#endif
