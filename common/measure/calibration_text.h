/* calibration_text.h - what a model is calibrated on: sequences of tokens from a text, or from JSON lines with texts or
 * conversations. */
#ifndef MEASURE_CALIBRATION_TEXT_H
#define MEASURE_CALIBRATION_TEXT_H

#include "model/pass.h"

struct calibration_text_options {
    int64_t sequences;           /* as many as there are at most */
    int64_t context;             /* tokens of each; 0: CONTEXT_USUAL, or the model's maximum if that is less */
    bool drawn;                  /* by this seed; otherwise the first ones */
    uint64_t seed;
    const char *template, *date; /* of conversations, see struct chat; NULL: the model's own, chat_text_date() */
};

struct calibration_text {
    struct text raw;             /* as it came */
    struct ids ids;
    struct sequence *sequence;   /* of these ids */
    int64_t count, context;
    const char *date;            /* that conversations state; borrowed from the options; NULL: none */
};

/* Reads a text (path NULL or "-": standard input), tokenizes it once, with what the tokenizer's own template adds, and
 * cuts it into windows of context tokens, which don't overlap; a last, shorter one counts where there are no more.
 *
 * What begins with '{' is read as JSON lines: documents with "text", or conversations, "messages" ({role, content}),
 * "conversations" (ShareGPT: {from, value}) or "instruction", "input", "output" (Alpaca), written out in the model's
 * chat template. Their tokens stand one behind the other, the model's end-of-text token between, and are cut likewise.
 *
 * Fewer tokens than were asked for are said by note(). EX_NOINPUT, EX_USAGE (a context longer than the model's, a
 * template and no conversation), EX_DATAERR, EX_UNAVAILABLE (a chat template that isn't known), EX_IOERR after a
 * message. {0} may be closed, too. */
int calibration_text_open(struct calibration_text *text, const char *path, const struct loader *loader,
                          const struct calibration_text_options *options);

/* For the history: {"data" (name, bytes, hash), "context", "sequences", "tokens", and "seed", "template" where they
 * were given, "date" where one is stated}. The caller's. */
struct json *calibration_text_history(const struct calibration_text *text, const char *path,
                                      const struct calibration_text_options *options);

void calibration_text_close(struct calibration_text *text);

#endif
