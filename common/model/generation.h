/* generation.h - text token by token: a prompt through a network, and what follows it. */
#ifndef MODEL_GENERATION_H
#define MODEL_GENERATION_H

#include "model/network.h"
#include "model/sampling.h"

#include <signal.h>

enum finish {
    FINISH_STOP,                 /* a token that ends the text came */
    FINISH_LENGTH,               /* max_tokens are there */
    FINISH_CONTEXT,              /* prompt and tokens fill the model's context */
    FINISH_INTERRUPTED,
};

extern const char *const finish_names[];         /* "stop", "length", "context", "interrupted" */

struct generation {
    struct network *network;     /* borrowed */
    struct sampling sampling;
    int64_t max_tokens;          /* after the prompt; -1: as many as the context has room for */
    const struct ids *stop;      /* ids that end the text; borrowed */
    const volatile sig_atomic_t *interrupted;    /* generation ends soon after it isn't 0; NULL: never */
    /* Gets each token that is part of the text as it comes; EX_OK to go on. */
    int (*take)(void *context, int32_t token);
    void *context;
};

struct generated {
    struct ids ids;              /* the tokens, without the one that stopped it; the caller frees */
    enum finish finish;
    double prompt_seconds;       /* until the first token */
    double seconds;              /* of all behind that */
    int64_t advances;            /* tokens that ran through the model in these */
};

/* Runs a prompt of n tokens and generates; *generated is set in any case. EX_DATAERR after a message: an empty prompt,
 * one longer than the context, logits that aren't numbers; or what take returned. */
int generate(const struct generation *generation, const int32_t *prompt, int64_t n, struct generated *generated);

/* An object with prompt, text, finish_reason, tokens (ids), counts, seconds and speeds; of a chat with thinking and
 * response where the answer has these parts. Bytes that aren't UTF-8 become U+FFFD. The caller's. */
struct json *generated_json(const struct generated *generated, const struct text *prompt, int64_t prompt_tokens,
                            const struct text *answer, bool chat);

#endif
