/* chat.c - writes conversations as the templates do. */
#include "text/chat.h"
#include "text/case.h"
#include "text/chat_internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

const char *const chat_names[] = {"granite", "chatml", "llama2", "llama3", "mistral", NULL};

/* ---- pieces ---- */

static void put(struct text *text, const char *string)
{
    if (string)
        text_append(text, string, strlen(string));
}

static bool is(const struct message *message, const char *role)
{
    return !strcmp(message->role, role);
}

static void strip(const char **data, size_t *length)
{
    size_t before = unicode_space_before(*data, *length);

    *data += before;
    *length -= before;
    *length -= unicode_space_behind(*data, *length);
}

static void put_stripped(struct text *text, const char *string)
{
    unicode_strip(string, strlen(string), text);
}

/* The date as strftime writes it; today's where none is given. */
static void put_date(struct text *text, const char *date, const char *format)
{
    time_t now = time(NULL);
    struct tm when = {0};
    char written[64];
    char *end = date ? strptime(date, "%Y-%m-%d", &when) : NULL;

    if (date && (!end || *end)) {
        put(text, date);
        return;
    }
    if (!date)
        localtime_r(&now, &when);
    text_append(text, written, strftime(written, sizeof written, format, &when));
}

/* EX_USAGE where users and assistants don't take turns, or where a system message has no user's to stand in. */
static int check_turns(const struct chat *chat, const char *system, const struct message *messages, int count)
{
    if (system && !count)
        return fail(EX_USAGE, "the chat template '%s' has no place for a system message alone",
                    chat_names[chat->template]);
    for (int i = 0; i < count; i++)
        if (!is(&messages[i], i % 2 ? "assistant" : "user"))
            return fail(EX_USAGE, "the chat template '%s' has no place for role '%s' as number %d: after an optional "
                        "system message, user and assistant take turns", chat_names[chat->template], messages[i].role,
                        i + 1);
    return EX_OK;
}

/* EX_USAGE where a role is none of the three. */
static int check_roles(const struct chat *chat, const struct message *messages, int count)
{
    for (int i = 0; i < count; i++)
        if (!is(&messages[i], "system") && !is(&messages[i], "user") && !is(&messages[i], "assistant"))
            return fail(EX_USAGE, "the chat template '%s' has no role '%s', expected system, user or assistant",
                        chat_names[chat->template], messages[i].role);
    return EX_OK;
}

/* ---- Granite ---- */

#define GRANITE_THINKING "\nRespond to every user query in a comprehensive and detailed way. You can write down your " \
    "thoughts and reasoning process before responding. In the thought process, engage in a comprehensive cycle of " \
    "analysis, summarization, exploration, reassessment, reflection, backtracing, and iteration to develop " \
    "well-considered thinking process. In the response section, based on various attempts, explorations, and " \
    "reflections from the thoughts section, systematically present the final solution that you deem correct. The " \
    "response should summarize the thought process. Write your thoughts "
#define GRANITE_TAGS "between <think></think> and write your response between <response></response> for each user " \
    "query."
#define GRANITE_WORDS "after 'Here is my thought process:' and write your response after 'Here is my response:' for " \
    "each user query."

static void granite_turn(struct text *text, const char *role, const char *content)
{
    text_format(text, "<|start_of_role|>%s<|end_of_role|>%s<|end_of_text|>\n", role, content);
}

static void granite_default(const struct chat *chat, struct text *text)
{
    const char *space = chat->variant & GRANITE_ONE_LINE ? " " : "\n";

    text_format(text, "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.%sToday's Date: ",
                space);
    put_date(text, chat->date, "%B %d, %Y");
    text_format(text, ".%sYou are Granite, developed by IBM. You are a helpful AI assistant.", space);
    if (chat->thinking) {
        put(text, GRANITE_THINKING);
        put(text, chat->variant & GRANITE_HERE_IS ? GRANITE_WORDS : GRANITE_TAGS);
    }
    put(text, "<|end_of_text|>\n");
}

static int write_granite(const struct chat *chat, const struct message *messages, int count, bool prompt,
                         struct text *text)
{
    bool system = count && is(&messages[0], "system");

    if (chat->thinking && system)
        return fail(EX_USAGE, "Granite's thinking mode is part of its own system message, which another one replaces");
    if (!system && !(chat->variant & GRANITE_NO_DEFAULT))
        granite_default(chat, text);
    for (int i = 0; i < count; i++)
        granite_turn(text, messages[i].role, messages[i].content);
    if (prompt)
        put(text, "<|start_of_role|>assistant<|end_of_role|>");
    return EX_OK;
}

/* ---- ChatML ---- */

static void chatml_turn(struct text *text, const char *role, const char *content)
{
    text_format(text, "<|im_start|>%s\n%s<|im_end|>\n", role, content);
}

/* The last message of a user. */
static int last_query(const struct message *messages, int count)
{
    int last = count - 1;

    for (int i = count - 1; i >= 0; i--)
        if (is(&messages[i], "user"))
            return i;
    return last;
}

static const char *last_part(const char *string, const char *mark)
{
    const char *last = string;

    for (const char *at = string; (at = strstr(at, mark)); at += strlen(mark))
        last = at + strlen(mark);
    return last;
}

/* Qwen3: thoughts of earlier answers are left out; those behind the last question stay, and a last message has them
 * in any case. */
static void chatml_thoughts(struct text *text, const char *content, bool recent, bool last)
{
    static const char close[] = "</think>";
    const char *end = strstr(content, close), *answer = content, *thought = "";
    struct text before = {0};

    if (end) {
        text_append(&before, content, (size_t)(end - content));
        while (before.length && before.data[before.length - 1] == '\n')
            before.data[--before.length] = 0;
        thought = last_part(before.data, "<think>");
        thought += strspn(thought, "\n");
        answer = last_part(content, close);
        answer += strspn(answer, "\n");
    }
    put(text, "<|im_start|>assistant\n");
    if (recent && (last || *thought)) {
        text_format(text, "<think>\n%s\n</think>\n\n", thought);
        answer += strspn(answer, "\n");
    }
    text_format(text, "%s<|im_end|>\n", answer);
    text_free(&before);
}

static int write_chatml(const struct chat *chat, const struct message *messages, int count, bool prompt,
                        struct text *text)
{
    int query = last_query(messages, count), rc = check_roles(chat, messages, count);

    if (rc)
        return rc;
    if (chat->variant & CHATML_BOS)
        put(text, chat->bos);
    if (chat->default_system && !(count && is(&messages[0], "system")))
        chatml_turn(text, "system", chat->default_system);
    for (int i = 0; i < count; i++)
        if (chat->variant & CHATML_THINKING && is(&messages[i], "assistant"))
            chatml_thoughts(text, messages[i].content, i > query, i == count - 1);
        else
            chatml_turn(text, messages[i].role, messages[i].content);
    if (prompt)
        put(text, "<|im_start|>assistant\n");
    if (prompt && chat->variant & CHATML_THINKING && !chat->thinking)
        put(text, "<think>\n\n</think>\n\n");
    return EX_OK;
}

/* ---- Llama 2 ---- */

static int write_llama2(const struct chat *chat, const struct message *messages, int count, struct text *text)
{
    void (*put_content)(struct text *, const char *) = chat->variant & LLAMA2_NO_STRIP ? put : put_stripped;
    const char *system = NULL;
    int rc;

    if (count && is(&messages[0], "system")) {
        system = messages[0].content;
        messages++, count--;
    } else if (chat->default_system && !(count && strstr(messages[0].content, "<<SYS>>")))
        system = chat->default_system;
    if ((rc = check_turns(chat, system, messages, count)))
        return rc;
    if (chat->variant & LLAMA2_BOS_ONCE)
        put(text, chat->bos);
    for (int i = 0; i < count; i++) {
        struct text content = {0};

        if (i == 0 && system)
            text_format(&content, "<<SYS>>\n%s\n<</SYS>>\n\n", system);
        put(&content, messages[i].content);
        if (i % 2 == 0 && !(chat->variant & LLAMA2_BOS_ONCE))
            put(text, chat->bos);
        put(text, i % 2 ? " " : "[INST] ");
        put_content(text, content.data ? content.data : "");
        put(text, i % 2 ? " " : " [/INST]");
        if (i % 2)
            put(text, chat->eos);
        text_free(&content);
    }
    return EX_OK;
}

/* ---- Llama 3 ---- */

static void llama3_turn(struct text *text, const char *role, const char *content)
{
    text_format(text, "<|start_header_id|>%s<|end_header_id|>\n\n", role);
    put_stripped(text, content);
    put(text, "<|eot_id|>");
}

static int write_llama3(const struct chat *chat, const struct message *messages, int count, bool prompt,
                        struct text *text)
{
    int rc = check_roles(chat, messages, count);

    if (rc)
        return rc;
    put(text, chat->bos);
    if (chat->variant & LLAMA3_DATED) {
        put(text, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ");
        put_date(text, chat->date || chat->variant & LLAMA3_TODAY ? chat->date : "26 Jul 2024", "%d %b %Y");
        put(text, "\n\n");
        if (count && is(&messages[0], "system")) {
            put_stripped(text, messages[0].content);
            messages++, count--;
        }
        put(text, "<|eot_id|>");
    }
    for (int i = 0; i < count; i++)
        llama3_turn(text, messages[i].role, messages[i].content);
    if (prompt)
        put(text, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return EX_OK;
}

/* ---- Mistral ---- */

/* The first rows are those of the 7B v0.3. */
const struct mistral_user mistral_users[MISTRAL_USERS] = {
    {"{{'[INST] '+message.content+'[/INST]'}}", "[INST] ", "[/INST]"},
    {"{{'[INST]'+message.content+'[/INST]'}}", "[INST]", "[/INST]"},
    {"[INST] '+message.content+' [/INST]'}}", "[INST] ", " [/INST]"},   /* v1 has a space in front: see there */
};
const struct mistral_reply mistral_replies[MISTRAL_REPLIES] = {
    {"{{' '+message.content|trim+eos_token}}", " ", "", true},
    {"{{' '+message.content+eos_token}}", " ", "", false},
    {"{{message.content+eos_token}}", "", "", false},
    {"{{message.content+eos_token+' '}}", "", " ", false},
};

static int write_mistral(const struct chat *chat, const struct message *messages, int count, struct text *text)
{
    const struct mistral_user *user = &mistral_users[chat->variant & 15];
    const struct mistral_reply *reply = &mistral_replies[chat->variant >> 4 & 15];
    enum mistral_system place = chat->variant >> 8;
    const char *system = NULL;
    int rc, holder;

    if (count && is(&messages[0], "system") && place != SYSTEM_NONE) {
        system = messages[0].content;
        messages++, count--;
    }
    if ((rc = check_turns(chat, system, messages, count)))
        return rc;
    holder = place == SYSTEM_FIRST ? 0 : place == SYSTEM_LAST ? count - 1 : last_query(messages, count);
    put(text, chat->bos);
    for (int i = 0; i < count; i++) {
        put(text, i % 2 ? reply->before : place == SYSTEM_FIRST ? " " : "");
        put(text, i % 2 ? NULL : user->open);
        if (i % 2 == 0 && i == holder && system)
            text_format(text, "%s\n\n", system);
        (i % 2 && reply->trim ? put_stripped : put)(text, messages[i].content);
        put(text, i % 2 ? chat->eos : user->close);
        put(text, i % 2 ? reply->after : NULL);
    }
    return EX_OK;
}

/* ---- all ---- */

static bool has_thinking(const struct chat *chat)
{
    return (chat->template == CHAT_GRANITE && !(chat->variant & GRANITE_NO_THINKING)) ||
           (chat->template == CHAT_CHATML && chat->variant & CHATML_THINKING);
}

static bool states_date(const struct chat *chat)
{
    return chat->template == CHAT_GRANITE || (chat->template == CHAT_LLAMA3 && chat->variant & LLAMA3_DATED);
}

const char *chat_text_date(const struct chat *chat, const char *given)
{
    bool own = chat->template == CHAT_LLAMA3 && !(chat->variant & LLAMA3_TODAY);

    return given ? given : states_date(chat) && !own ? "2025-01-01" : NULL;
}

/* A date is one that exists, and for a template that states it. */
static int check_date(const struct chat *chat)
{
    struct tm when = {0};
    char *end = strptime(chat->date, "%Y-%m-%d", &when);
    int day = when.tm_mday;

    if (!end || *end || timegm(&when) == -1 || when.tm_mday != day)
        return fail(EX_USAGE, "'%s' is not a date of the form YYYY-MM-DD", chat->date);
    return states_date(chat) ? EX_OK : fail(EX_USAGE, "the model's chat template ('%s') states no date",
                                            chat_names[chat->template]);
}

int chat_write(const struct chat *chat, const struct message *messages, int count, bool prompt, struct text *text)
{
    int rc = chat->date ? check_date(chat) : EX_OK;

    if (rc)
        return rc;
    if (chat->thinking && !has_thinking(chat))
        return fail(EX_USAGE, "the model's chat template ('%s') has no thinking mode", chat_names[chat->template]);
    switch (chat->template) {
    case CHAT_GRANITE:
        return write_granite(chat, messages, count, prompt, text);
    case CHAT_CHATML:
        return write_chatml(chat, messages, count, prompt, text);
    case CHAT_LLAMA2:
        return write_llama2(chat, messages, count, text);
    case CHAT_LLAMA3:
        return write_llama3(chat, messages, count, prompt, text);
    default:
        return write_mistral(chat, messages, count, text);
    }
}

const char *chat_end(const struct chat *chat)
{
    switch (chat->template) {
    case CHAT_GRANITE:
        return "<|end_of_text|>";
    case CHAT_CHATML:
        return "<|im_end|>";
    case CHAT_LLAMA3:
        return "<|eot_id|>";
    default:
        return chat->eos;
    }
}

/* What stands between two marks, stripped; NULL where the first isn't there. *after is what comes behind. */
static const char *between(const char *text, size_t length, const char *open, const char *close, size_t *found,
                           const char **after)
{
    const char *start = memmem(text, length, open, strlen(open)), *end;

    *after = NULL;
    if (!start)
        return NULL;
    start += strlen(open);
    length -= (size_t)(start - text);
    end = memmem(start, length, close, strlen(close));
    if (end)
        *after = end + strlen(close);
    *found = end ? (size_t)(end - start) : length;
    strip(&start, found);
    return start;
}

struct chat_parts chat_split(const char *answer, size_t length)
{
    struct chat_parts parts = {0};
    const char *rest, *behind;

    parts.thinking = between(answer, length, "<think>", "</think>", &parts.thinking_length, &rest);
    if (!parts.thinking)         /* Granite 3.2 */
        parts.thinking = between(answer, length, "Here is my thought process:", "Here is my response:",
                                 &parts.thinking_length, &rest);
    if (parts.thinking && !rest)
        return parts;            /* not done thinking */
    if (!rest)
        rest = answer;
    length -= (size_t)(rest - answer);
    parts.response = between(rest, length, "<response>", "</response>", &parts.response_length, &behind);
    if (!parts.response && parts.thinking) {
        parts.response = rest;
        parts.response_length = length;
        strip(&parts.response, &parts.response_length);
    }
    return parts;
}
