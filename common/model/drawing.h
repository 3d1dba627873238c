/* drawing.h - texts that a model makes up: documents drawn from it, many at once, each until a token that ends it.
 *
 * They begin with what the tokenizer puts in front of every text (Llama's <s>). Many add nothing (SmolLM2, Qwen,
 * Granite): then with the token that stands between documents where such models were trained, "<|endoftext|>" or
 * "<|end_of_text|>", which is not always what the configuration calls BOS: SmolLM2-Instruct's <|im_start|> begins a
 * turn of a conversation, so what follows it is a role's name. A vocabulary with neither: BOS, else EOS. */
#ifndef MODEL_DRAWING_H
#define MODEL_DRAWING_H

#include "model/network.h"
#include "model/sampling.h"

#include <signal.h>

/* Lanes are never fewer: devices take other ways for a few rows, whose sums end in other last bits. */
enum { DRAWING_LANES = 16 };

struct drawing {
    struct network *network;     /* borrowed, as are the next two and the ids */
    struct tokenizer *tokenizer;
    struct ids start;            /* see drawing_start(); one or more */
    struct ids stop;             /* tokens that end a text; that with which one starts does, too */
    struct sampling sampling;    /* sequence is not used; temperature above 0 */
    int64_t first, count;        /* documents first..first+count-1 */
    int64_t max_tokens;          /* drawn for each, at least 1; fewer where the context ends */
    int lanes;                   /* documents at once, at least DRAWING_LANES */
    const volatile sig_atomic_t *interrupted;    /* it ends soon after this isn't 0; NULL: never */

    /* Gets each document, in order: with the start's text and without special tokens; UTF-8. EX_OK to go on. */
    int (*take)(void *context, const char *text, size_t length);
    void *context;
};

struct drawn {
    int64_t documents, tokens;   /* taken; drawn for them */
    int64_t ended;               /* documents that ended by themselves */
    double seconds;
};

/* Appends the tokens with which documents begin: the start (see above), and a prompt that all have in common ("":
 * none). EX_DATAERR after a message where there is no such token and no prompt. */
int drawing_start(const struct loader *loader, struct tokenizer *tokenizer, const char *prompt, struct ids *start);

/* Document n depends on seed and n, not on threads, on which documents are drawn or on the number of lanes (but on the
 * device, and where a model has chains of three cores or more, the way in which these are multiplied may be chosen by
 * the number of lanes: then the last bits of logits differ). All tokens, of prompts too, go through the model one by
 * one for that. *drawn is set in any case. EX_DATAERR after a message: a start as long as the context, logits that
 * aren't numbers; or what take returned. */
int drawing_run(const struct drawing *drawing, struct drawn *drawn);

#endif
