/* conversation.c - messages out of JSON. */
#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>

enum { MESSAGES = 1 << 16 };     /* the most messages of a conversation */

/* A member that must be a string without NUL. */
static int take_string(const struct json *message, const char *member, const char *what, size_t number,
                       const char **string)
{
    const struct json *value = json_at(message, member);

    *string = json_as_string(value, NULL);
    if (!*string || strlen(*string) != json_as_length(value))
        return fail(EX_DATAERR, "%s: message %zu: expected a member \"%s\" that is a text", what, number + 1, member);
    return EX_OK;
}

int conversation_read(const char *text, size_t length, const char *what, struct conversation *conversation)
{
    const struct json *list;
    int rc = EX_OK;

    *conversation = (struct conversation){.json = json_parse(text, length, what)};
    if (!conversation->json)
        return EX_DATAERR;
    list = json_kind(conversation->json) == JSON_KIND_OBJECT ? json_at(conversation->json, "messages") :
                                                                conversation->json;
    if (json_kind(list) != JSON_KIND_ARRAY || !json_count(list) || json_count(list) > MESSAGES)
        rc = fail(EX_DATAERR, "%s: expected a list of 1 to %d messages", what, MESSAGES);
    else
        conversation->messages = xcalloc(json_count(list), sizeof *conversation->messages);
    for (size_t i = 0; !rc && i < json_count(list); i++) {
        struct message *message = &conversation->messages[conversation->count++];

        if (!(rc = take_string(json_item(list, i), "role", what, i, &message->role)))
            rc = take_string(json_item(list, i), "content", what, i, &message->content);
    }
    if (rc)
        conversation_free(conversation);
    return rc;
}

void conversation_free(struct conversation *conversation)
{
    free(conversation->messages);
    json_drop(conversation->json);
    *conversation = (struct conversation){0};
}
