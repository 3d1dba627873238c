/* conversation.c - messages out of JSON, and out of the lines of data sets. */
#include "text/conversation.h"
#include "base/memory.h"

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

static void add_message(struct json *list, const char *role, struct json *content)
{
    struct json *message = json_make_object();

    json_put(message, "role", json_make_string(role));
    json_put(message, "content", content ? content : json_make_null());
    json_append(list, message);
}

/* ShareGPT's list. */
static struct json *from_turns(const struct json *turns)
{
    static const char *const roles[][2] = {{"human", "user"}, {"gpt", "assistant"}, {"bot", "assistant"},
                                           {"chatgpt", "assistant"}, {"model", "assistant"}};
    struct json *list = json_make_array();

    for (size_t i = 0; i < json_count(turns); i++) {
        const struct json *turn = json_item(turns, i);
        const char *role = json_as_string(json_at(turn, "from"), "");

        for (size_t r = 0; r < sizeof roles / sizeof *roles; r++)
            if (!strcmp(role, roles[r][0]))
                role = roles[r][1];
        add_message(list, role, json_keep(json_at(turn, "value")));
    }
    return list;
}

/* Alpaca's three members. */
static struct json *from_instruction(const struct json *line)
{
    const char *input = json_as_string(json_at(line, "input"), "");
    char *question = xasprintf("%s%s%s", json_as_string(json_at(line, "instruction"), ""), *input ? "\n\n" : "", input);
    struct json *list = json_make_array();

    add_message(list, "user", json_make_string(question));
    add_message(list, "assistant", json_keep(json_at(line, "output")));
    free(question);
    return list;
}

struct json *conversation_of_line(const struct json *line)
{
    if (json_at(line, "messages"))
        return json_keep(json_at(line, "messages"));
    if (json_at(line, "conversations"))
        return from_turns(json_at(line, "conversations"));
    return json_at(line, "instruction") ? from_instruction(line) : NULL;
}
