/* prompts.h - prompts one after another: a text, a file, lines of standard input, or conversations in a file. */
#ifndef TEXT_PROMPTS_H
#define TEXT_PROMPTS_H

#include "text/conversation.h"

#include <stdio.h>

struct prompts {
    /* Where they come from, the caller's to set: one of these, or none: each line of standard input is one. A file
     * "-" is standard input. */
    const char *prompt;          /* the only prompt */
    const char *file;            /* the only prompt is what this file has, without the newline at its end */
    const char *messages;        /* each line of this file is a conversation as JSON */

    /* The prompt at hand, valid until the next call: messages that belong to conversation, or a text. */
    struct conversation conversation;
    struct text text;

    /* Private. */
    FILE *lines;
    char *line;
    size_t capacity;
    int64_t number;              /* prompts so far */
};

/* Goes to the next one; *more is false behind the last, and where a signal ends the wait for one. Empty lines of a file
 * of conversations are passed over. EX_NOINPUT, EX_DATAERR, EX_IOERR after a message. */
int prompts_next(struct prompts *prompts, bool *more);
void prompts_close(struct prompts *prompts);

#endif
