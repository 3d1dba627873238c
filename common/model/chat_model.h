/* chat_model.h - the chat template of a model, found among its companion files, and the tokens that end its texts. */
#ifndef MODEL_CHAT_MODEL_H
#define MODEL_CHAT_MODEL_H

#include "model/loader.h"
#include "text/chat.h"

struct chat_model {
    struct chat chat;            /* thinking and date are the caller's to set */
    char *default_system, *bos, *eos;            /* owned; what chat points to */
};

/* Makes out the template: name is one of chat_names, or the path of a file with a template, or NULL for the model's own
 * (chat_template.jinja, tokenizer_config.json, chat_template.json). EX_UNAVAILABLE after a message where it isn't known
 * or the model has none, EX_DATAERR, EX_NOINPUT, EX_USAGE. */
int chat_model_open(struct chat_model *model, const struct loader *loader, const struct tokenizer *tokenizer,
                    const char *name);
void chat_model_close(struct chat_model *model);

/* The texts of BOS and EOS as tokenizer_config.json names them, or where a model has none the tokens of its
 * configuration; NULL where there is none. The caller frees. EX_DATAERR after a message. */
int special_tokens(const struct loader *loader, const struct tokenizer *tokenizer, char **bos, char **eos);

/* Appends the ids that end a text: those of config.json (its family's default only where generation_config.json has
 * none) and of generation_config.json, and with a chat (NULL: none) the end of a turn. EX_DATAERR after a message. */
int stop_tokens(const struct loader *loader, const struct tokenizer *tokenizer, const struct chat *chat,
                struct ids *stop);

#endif
