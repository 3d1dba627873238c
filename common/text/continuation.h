/* continuation.h - what tokens add to the text of a prompt, piece by piece.
 *
 * By itself a text can begin otherwise than behind another: decoders of the SentencePiece kind take a space away at the
 * beginning. */
#ifndef TEXT_CONTINUATION_H
#define TEXT_CONTINUATION_H

#include "text/tokenizer.h"

/* {0} is an empty one; it may be begun again and again. */
struct continuation {
    struct decoding decoding;
    struct text text;            /* of the prompt as its tokens give it, and what follows */
    size_t start, taken;         /* bytes: the prompt's, and up to where pieces were given out */
};

/* Starts behind count tokens of a prompt; none: a text by itself. Special tokens have no text. */
void continuation_begin(struct continuation *continuation, struct tokenizer *tokenizer, const int32_t *prompt,
                        size_t count);

/* Takes the next token. *piece is the text that has surely come since the last piece, borrowed until the next call; its
 * length is returned, which may be 0. */
size_t continuation_take(struct continuation *continuation, int32_t token, const char **piece);

/* The last piece. */
size_t continuation_end(struct continuation *continuation, const char **piece);

/* All that came behind the prompt, borrowed. */
struct text continuation_text(const struct continuation *continuation);

void continuation_free(struct continuation *continuation);

#endif
