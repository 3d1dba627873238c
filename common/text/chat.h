/* chat.h - conversations as the text that a chat model was trained on.
 *
 * The templates are known by name and written out in C; a model's own (Jinja) template is recognised by what it
 * contains, never run. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "base/memory.h"

#include <stdbool.h>

enum chat_template { CHAT_GRANITE, CHAT_CHATML, CHAT_LLAMA2, CHAT_LLAMA3, CHAT_MISTRAL };

/* NULL-terminated, in the order of enum chat_template: "granite", "chatml", "llama2", "llama3", "mistral". */
extern const char *const chat_names[];

struct message {
    const char *role;            /* "system", "user", "assistant"; Granite: any other too */
    const char *content;         /* UTF-8 */
};

struct chat {
    enum chat_template template;
    unsigned variant;            /* how a model's template differs from the usual form, by chat_recognise(); 0: not */
    const char *default_system;  /* of the model's template where the conversation has no system message; NULL: none */
    bool thinking;               /* ask for thoughts before the answer (Granite, Qwen3) */
    const char *date;            /* for templates that state it, as YYYY-MM-DD; NULL: today, or the one that is fixed
                                    in the template */
    const char *bos, *eos;       /* the texts of the model's special tokens; NULL: none */
};

/* Recognises a model's template (Jinja source). EX_UNAVAILABLE where it isn't known, after a message that names
 * `--template` and the names there are; where names the model. Sets template, variant and default_system, which is
 * taken from the template's text; it is allocated and the caller frees it. */
int chat_recognise(const char *jinja, const char *where, struct chat *chat, char **default_system);

/* Appends the text of a conversation, and with prompt the header of the assistant's answer. EX_USAGE after a message
 * where the template has no place for a role or the order of roles, or has no thinking mode or date
 * and is asked for it. */
int chat_write(const struct chat *chat, const struct message *messages, int count, bool prompt, struct text *text);

/* The date that texts to learn from state: the given one, or where that is NULL always the same one, so that a command
 * makes the same text on any day. NULL where the template then states none, or has one of its own. */
const char *chat_text_date(const struct chat *chat, const char *given);

/* The text of the token that ends a turn ("<|im_end|>"); NULL where none is known. Borrowed. */
const char *chat_end(const struct chat *chat);

/* Parts of an answer, pointers into it; NULL where a part isn't there. */
struct chat_parts {
    const char *thinking, *response;
    size_t thinking_length, response_length;
};

/* Finds what stands between <think> and </think> (Granite 3.2: behind "Here is my thought process:"), and the response:
 * what stands between <response> and </response> or, where that isn't there, behind the thoughts. A part that isn't
 * closed reaches to the end. White space around parts is left out. */
struct chat_parts chat_split(const char *answer, size_t length);

#endif
