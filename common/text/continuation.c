/* continuation.c - decodes prompt and continuation together, and leaves the prompt's part out. */
#include "text/continuation.h"

void continuation_begin(struct continuation *continuation, struct tokenizer *tokenizer, const int32_t *prompt,
                        size_t count)
{
    struct text *text = &continuation->text;

    text->length = 0;
    text_append(text, "", 0);
    tokenizer_decode(tokenizer, prompt, count, true, text);
    continuation->start = continuation->taken = text->length;
    text->length = 0;
    decoding_begin(&continuation->decoding, tokenizer, true);
    for (size_t i = 0; i < count; i++)
        decoding_take(&continuation->decoding, prompt[i], text);
}

/* What comes behind a prompt can change the bytes at its end: byte tokens are text only where all in a row are. A
 * character that then reaches over the end is the prompt's. */
static size_t behind_character(const struct text *text, size_t at)
{
    while (at < text->length && (text->data[at] & 0xc0) == 0x80)
        at++;
    return at;
}

static size_t next_piece(struct continuation *continuation, const char **piece)
{
    const struct text *text = &continuation->text;
    size_t from = behind_character(text, continuation->taken);

    *piece = text->data + from;
    if (text->length <= from)
        return 0;
    continuation->taken = text->length;
    return text->length - from;
}

size_t continuation_take(struct continuation *continuation, int32_t token, const char **piece)
{
    decoding_take(&continuation->decoding, token, &continuation->text);
    return next_piece(continuation, piece);
}

size_t continuation_end(struct continuation *continuation, const char **piece)
{
    decoding_end(&continuation->decoding, &continuation->text);
    return next_piece(continuation, piece);
}

struct text continuation_text(const struct continuation *continuation)
{
    const struct text *text = &continuation->text;
    size_t start = behind_character(text, continuation->start);

    start = start < text->length ? start : text->length;
    return (struct text){text->data + start, text->length - start, 0};
}

void continuation_free(struct continuation *continuation)
{
    text_free(&continuation->text);
    *continuation = (struct continuation){0};
}
