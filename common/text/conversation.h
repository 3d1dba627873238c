/* conversation.h - conversations as JSON, in the form that chat programs keep them in:
 * [{"role": "user", "content": "..."}, ...], or an object with that as its member "messages". */
#ifndef TEXT_CONVERSATION_H
#define TEXT_CONVERSATION_H

#include "base/json.h"
#include "text/chat.h"

struct conversation {
    struct message *messages;    /* owned; their texts belong to json */
    int count;
    struct json *json;
};

/* Reads one from length bytes of JSON; what names them in messages ("line 3 of 'talk.jsonl'"). EX_DATAERR after a
 * message: then nothing is left to free. */
int conversation_read(const char *text, size_t length, const char *what, struct conversation *conversation);
void conversation_free(struct conversation *conversation);

/* The conversation of a line of a data set, as a list of {role, content}: "messages" as it is, "conversations"
 * (ShareGPT: {from, value}), or "instruction", "input", "output" (Alpaca). The caller's; NULL where it has none. */
struct json *conversation_of_line(const struct json *line);

#endif
