/* generation_json.c - what was generated as an object. */
#include "model/generation.h"
#include "text/chat.h"
#include "text/unicode.h"

static struct json *text_json(const char *data, size_t length)
{
    struct text repaired = {0};
    struct json *json;

    text_append(&repaired, "", 0);
    utf8_repair(data ? data : "", length, &repaired);
    json = json_make_stringn(repaired.data, repaired.length);
    text_free(&repaired);
    return json;
}

static void put_parts(struct json *object, const struct text *answer)
{
    struct chat_parts parts = chat_split(answer->data ? answer->data : "", answer->length);

    if (parts.thinking)
        json_put(object, "thinking", text_json(parts.thinking, parts.thinking_length));
    if (parts.response)
        json_put(object, "response", text_json(parts.response, parts.response_length));
}

struct json *generated_json(const struct generated *generated, const struct text *prompt, int64_t prompt_tokens,
                            const struct text *answer, bool chat)
{
    struct json *object = json_make_object(), *tokens = json_make_array();

    for (size_t i = 0; i < generated->ids.count; i++)
        json_append(tokens, json_make_int(generated->ids.id[i]));
    json_put(object, "prompt", text_json(prompt->data, prompt->length));
    json_put(object, "text", text_json(answer->data, answer->length));
    if (chat)
        put_parts(object, answer);
    json_put(object, "finish_reason", json_make_string(finish_names[generated->finish]));
    json_put(object, "tokens", tokens);
    json_put(object, "prompt_tokens", json_make_int(prompt_tokens));
    json_put(object, "generated_tokens", json_make_int((int64_t)generated->ids.count));
    json_put(object, "seconds", json_make_number(generated->prompt_seconds + generated->seconds));
    json_put(object, "prompt_tokens_per_second", json_make_number((double)prompt_tokens / generated->prompt_seconds));
    json_put(object, "generated_tokens_per_second", json_make_number((double)generated->advances / generated->seconds));
    return object;
}
