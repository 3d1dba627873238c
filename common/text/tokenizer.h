/* tokenizer.h - text to token ids and back, as tokenizer.json (the format of Hugging Face's tokenizers) says.
 *
 * BPE, byte-level or with byte fallback; what isn't supported is refused by name when the tokenizer is opened. Bytes
 * that aren't UTF-8 are replaced by U+FFFD first (see utf8_repair()), as Python's errors="replace" does.
 *
 * Ids are those of the Python package tokenizers (0.23) for characters of Unicode 14; newer ones may be classed
 * otherwise, and normal forms are Unicode's own, where tokenizers leaves combining marks younger than Unicode 9 out of
 * order. Truncation and padding that a file has stored are left out, with a note, as transformers does. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

/* A growing list of ids. {0} is an empty one. */
struct ids {
    int32_t *id;
    size_t count, capacity;
};

void ids_append(struct ids *ids, int32_t id);
bool ids_contain(const struct ids *ids, int32_t id);
void ids_free(struct ids *ids);

/* Opens the content of a tokenizer.json; where names the model in messages. EX_DATAERR after a message. Takes some ten
 * times the memory of the content while it reads, afterwards about twice. */
int tokenizer_open(const char *json, size_t length, const char *where, struct tokenizer **tokenizer);
void tokenizer_close(struct tokenizer *tokenizer);       /* NULL is allowed */

/* Ids are 0..tokenizer_size()-1; some of them may stand for nothing. */
int32_t tokenizer_size(const struct tokenizer *tokenizer);

/* The token of an id as the vocabulary has it ("Ġthe"), borrowed; NULL where there is none. */
const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id);

/* The id of a token as the vocabulary or the list of added tokens has it; -1 where there is none. */
int32_t tokenizer_id(const struct tokenizer *tokenizer, const char *token);

/* True for an added token marked special ("<|im_end|>"). */
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

enum tokenize {
    TOKENIZE_PLAIN = 0,          /* special tokens in the text are recognised, as tokenizers does; nothing is added */
    TOKENIZE_TEMPLATE = 1,       /* and the post-processor adds its own (BOS): add_special_tokens=True */
};

/* Appends the ids of a text. Not thread-safe on one tokenizer. */
void tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t length, enum tokenize how, struct ids *ids);

/* Appends the text of ids; with skip_special without special tokens. Bytes that make no UTF-8 become U+FFFD. Ids that
 * stand for nothing are left out. */
void tokenizer_decode(struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                      struct text *text);

/* Decoding piece by piece: each call appends what the ids so far have surely added to the text (whole characters
 * only), and decoding_end() what is left. All pieces together are tokenizer_decode() of all ids. Bytes that are tokens
 * of their own (byte fallback) are held back until a token of another kind comes: only then it is sure that they make
 * characters. */
struct decoding {
    struct tokenizer *tokenizer;
    bool skip_special;
    struct decoder_state *state; /* of each step; freed by decoding_end() */
};

void decoding_begin(struct decoding *decoding, struct tokenizer *tokenizer, bool skip_special);
void decoding_take(struct decoding *decoding, int32_t id, struct text *text);
void decoding_end(struct decoding *decoding, struct text *text);

#endif
