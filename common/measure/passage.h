/* passage.h - the text of a measurement as tokens in windows: what perplexity and divergence have in common. */
#ifndef MEASURE_PASSAGE_H
#define MEASURE_PASSAGE_H

#include "base/json.h"
#include "measure/perplexity.h"
#include "measure/windows.h"

struct passage {
    const char *path;            /* borrowed */
    struct text raw;             /* as it came */
    struct ids ids;
    struct windows windows;
    int64_t context, stride;     /* in force */
    bool hf_rows;
};

/* Reads the text. EX_NOINPUT, EX_DATAERR, EX_IOERR. {0} may be closed, too. */
int passage_open(struct passage *passage, const char *path, const struct text_options *options);

/* Appends the ids that a model's tokenizer gives the text, as many as options allow. EX_DATAERR where they are fewer
 * than 2. */
int passage_tokenize(const struct passage *passage, struct tokenizer *tokenizer, const struct text_options *options,
                     struct ids *ids);

/* Cuts passage->ids into windows of options->context for a model of so many positions. EX_USAGE where the context is
 * longer than that, or the stride than the context. */
int passage_cut(struct passage *passage, int64_t max_position, const struct text_options *options);

/* The context in force: asked, or where that is 0 usual, at most the model's maximum (a note says so). EX_USAGE where
 * more than that is asked. */
int passage_context(int64_t asked, int64_t usual, int64_t max_position, int64_t *context);

/* EX_USAGE where more than one of the count paths stands for standard input (NULL or "-"). */
int passage_one_stream(const char *const *paths, int count);

/* Adds "tokens" (predicted), "windows", "context", "stride", "left_out" (tokens in no window), "hf_rows", "data". */
void passage_report(struct json *report, const struct passage *passage);

void passage_close(struct passage *passage);

#endif
