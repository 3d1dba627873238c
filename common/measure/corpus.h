/* corpus.h - the text that a model is measured on: read, and taken apart as the papers and lm-evaluation-harness do. */
#ifndef MEASURE_CORPUS_H
#define MEASURE_CORPUS_H

#include "base/memory.h"

/* Appends a whole file, or with path NULL or "-" standard input. EX_NOINPUT, EX_IOERR, and EX_DATAERR where there is
 * nothing in it or more than 2 GiB, after a message. */
int corpus_read(const char *path, struct text *text);

/* Appends the lines of WikiText's raw file as Hugging Face's wikitext-2-raw-v1 has them for rows, joined with "\n\n":
 * a row is a line with its line feed, or "" where there is nothing but white space in it. */
void corpus_join_rows(const char *data, size_t length, struct text *joined);

/* The documents of a text. */
struct pages {
    struct text *page;
    size_t count;
};

/* Takes WikiText's raw file apart as EleutherAI/wikitext_document_level does: an article begins with its ` = Title =
 * ` (what stands before the first one is left out where it is blank). A text that begins with '{' is read as JSON
 * lines with "page". EX_DATAERR after a message that names the line. The caller frees. */
int pages_split(const char *data, size_t length, const char *name, struct pages *pages);
void pages_free(struct pages *pages);

/* Appends a page as lm-evaluation-harness's wikitext task (preprocess_wikitext.py, version 2) undoes WikiText's
 * tokenization, with its regular expressions to the letter. */
void wikitext_detokenize(const char *page, size_t length, struct text *text);

/* len(re.split(r"\s+", page)) of Python: how that task counts the words of the original page. */
int64_t wikitext_words(const char *page, size_t length);

#endif
