/* tokenizer_source.h - the tokenizer of a model. */
#ifndef TEXT_TOKENIZER_SOURCE_H
#define TEXT_TOKENIZER_SOURCE_H

#include "files/source.h"
#include "text/tokenizer.h"

/* Reads on to the companion file tokenizer.json, which stands before the weights, and opens it. EX_DATAERR after a
 * message where there is none. The caller closes. */
int tokenizer_from_source(struct source *source, struct tokenizer **tokenizer);

/* The same of any model argument (NULL or "-": standard input), or of a file that is a tokenizer.json itself. */
int tokenizer_from_path(const char *path, struct tokenizer **tokenizer);

#endif
