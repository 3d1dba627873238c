/* chat_internal.h - how templates of one family differ; what the writer and the recogniser of templates share. Private
 * to them. A variant of 0 is the form that `--template NAME` stands for. */
#ifndef TEXT_CHAT_INTERNAL_H
#define TEXT_CHAT_INTERNAL_H

#include "text/chat.h"

enum {                           /* bits, Granite. Usual: 3.3, date and cutoff on lines of their own */
    GRANITE_ONE_LINE = 1 << 0,   /* the same with spaces between them */
    GRANITE_NO_DEFAULT = 1 << 1, /* 3.0: no system text of its own */
    GRANITE_HERE_IS = 1 << 2,    /* 3.2: thoughts begin with "Here is my thought process:" */
    GRANITE_NO_THINKING = 1 << 3,
};

enum {                           /* bits, ChatML */
    CHATML_BOS = 1 << 0,         /* begins with BOS */
    CHATML_THINKING = 1 << 1,    /* Qwen3: thoughts in <think></think>, empty ones where thinking is off */
};

enum {                           /* bits, Llama 2 */
    LLAMA2_BOS_ONCE = 1 << 0,    /* BOS at the beginning only, not in front of each user's turn */
    LLAMA2_NO_STRIP = 1 << 1,    /* white space around contents stays */
};

enum {                           /* bits, Llama 3 */
    LLAMA3_DATED = 1 << 0,       /* 3.1: the system message states knowledge cutoff and date */
    LLAMA3_TODAY = 1 << 1,       /* 3.2: the date is today's, otherwise 26 Jul 2024 */
};

/* Mistral: index of the row in each table, 4 bits each: user's turn, reply, place of the system message. */
struct mistral_user {
    const char *pattern;         /* in the template, in canonical form */
    const char *open, *close;
};
struct mistral_reply {
    const char *pattern;
    const char *before, *after;  /* around content and EOS */
    bool trim;
};
enum mistral_system { SYSTEM_LAST, SYSTEM_LAST_USER, SYSTEM_FIRST, SYSTEM_NONE };

enum { MISTRAL_USERS = 3, MISTRAL_REPLIES = 4 };
extern const struct mistral_user mistral_users[MISTRAL_USERS];
extern const struct mistral_reply mistral_replies[MISTRAL_REPLIES];
#define MISTRAL_VARIANT(user, reply, system) ((unsigned)(user) | (unsigned)(reply) << 4 | (unsigned)(system) << 8)

#endif
