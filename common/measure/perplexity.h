/* perplexity.h - how well a model predicts a text: perplexity, and how far another model is from a reference.
 *
 * The whole text is tokenized once, with what the tokenizer's own template adds (Llama's BOS; nothing of SmolLM2,
 * Granite, Qwen), so that a BOS stands once, at the start of the text and not of each window: what transformers'
 * tok(text).input_ids gives, and the GPTQ and SVD papers cut into windows. How windows are cut and which tokens are
 * predicted says measure/windows.h. Sums are in double; a logit that isn't finite is an error that names the token,
 * never left out. */
#ifndef MEASURE_PERPLEXITY_H
#define MEASURE_PERPLEXITY_H

#include "base/json.h"
#include "measure/options.h"

#include <stdbool.h>
#include <stdint.h>

struct text_options {
    int64_t context;             /* tokens of a window, at least 2; 0: 2048, or the model's maximum if less */
    int64_t stride;              /* tokens from window to window; 0: context, so that windows don't overlap */
    int64_t limit_tokens;        /* the first so many tokens of the text, at least 2; 0: all */
    bool hf_rows;                /* join the text's lines with "\n\n", as the papers join WikiText's rows */
};

enum { CONTEXT_USUAL = 2048 };

/* Perplexity exp(nll), nll the mean negative log-likelihood (nats) of the predicted tokens; its standard error over
 * windows, and that of the perplexity by the delta method.
 *
 * *report is the caller's; a line for people goes to stderr. EX_USAGE (a context longer than the model's, a stride
 * longer than the context), EX_NOINPUT, EX_DATAERR, EX_IOERR after a message. model may be NULL or "-", a stream on
 * standard input; so may text (NULL or "-") where the model isn't. */
int perplexity_run(const struct measure *measure, const char *model, const char *text,
                   const struct text_options *options, struct json **report);

struct rolling_options {
    int64_t context;             /* the longest input; 0: the model's maximum, as lm-evaluation-harness has it */
    int64_t limit;               /* the first so many documents; -1: all */
};

/* lm-evaluation-harness's task wikitext (version 2): word_perplexity, byte_perplexity and bits_per_byte of whole
 * documents (loglikelihood_rolling), detokenized; words and bytes are those of the original pages. text is
 * wiki.test.raw or JSON lines with "page". Errors as above. */
int rolling_run(const struct measure *measure, const char *model, const char *text,
                const struct rolling_options *options, struct json **report);

/* KL(reference || model) of each predicted token's distribution in nats: mean with its standard error over windows,
 * 99th percentile (linear between ranks), largest; how often both have the same most likely token; both perplexities,
 * and their ratio with a standard error from the differences of the two nlls window by window. Both models must have
 * the same vocabulary and give the text the same ids (EX_DATAERR). One of model, reference and text may be standard
 * input. */
int divergence_run(const struct measure *measure, const char *model, const char *reference, const char *text,
                   const struct text_options *options, struct json **report);

#endif
