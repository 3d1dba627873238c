/* chat_recognise.c - tells which template a Jinja source is.
 *
 * The source is brought into a canonical form, in which spelling doesn't matter: no comments, no white space outside of
 * literals, escapes resolved, literals in single quotes and joined ('a'+'b' is 'ab'), x["y"] written x.y. A template is
 * known where it contains the expressions that make up a family's text, and nothing that writes in some other way. */
#include "text/chat.h"
#include "text/chat_internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- canonical form ---- */

struct canon {
    const char *at;              /* in the source */
    struct text out;
    size_t literal_end;          /* length of out behind the last literal; 0: none */
};

static void emit(struct canon *canon, const char *data, size_t length)
{
    text_append(&canon->out, data, length);
}

/* A literal from its opening quote on; single quotes inside come out as \'. */
static void take_literal(struct canon *canon)
{
    static const char names[] = "nrt", values[] = "\n\r\t";
    char quote = *canon->at++;
    struct text *out = &canon->out;

    if (canon->literal_end && out->length == canon->literal_end + 1 && out->data[out->length - 1] == '+')
        out->data[out->length -= 2] = 0;
    else
        emit(canon, "'", 1);
    for (; *canon->at && *canon->at != quote; canon->at++) {
        char c = *canon->at;

        if (c == '\\' && canon->at[1]) {
            const char *name = strchr(names, *++canon->at);

            c = name ? values[name - names] : *canon->at;
        }
        emit(canon, c == '\'' ? "\\'" : &c, c == '\'' ? 2 : 1);
    }
    canon->at += *canon->at != 0;
    emit(canon, "'", 1);
    canon->literal_end = out->length;
}

/* ["name"] as .name; false where it isn't one. */
static bool take_member(struct canon *canon)
{
    const char *start = canon->at + 1 + strspn(canon->at + 1, " "), *end;
    char quote = *start;

    if (quote != '\'' && quote != '"')
        return false;
    for (end = start + 1; isalnum((unsigned char)*end) || *end == '_'; end++)
        ;
    if (end == start + 1 || *end != quote || end[1 + strspn(end + 1, " ")] != ']')
        return false;
    emit(canon, ".", 1);
    emit(canon, start + 1, (size_t)(end - start - 1));
    canon->at = end + 2 + strspn(end + 1, " ");
    return true;
}

/* A tag ({{ }} or {% %}) from its first brace to behind its last. Whether it ends in a minus sign. */
static bool take_tag(struct canon *canon)
{
    char end[3] = {canon->at[1] == '{' ? '}' : '%', '}', 0};
    bool minus = false;

    emit(canon, canon->at, 2);
    canon->at += 2;
    canon->at += *canon->at == '-' || *canon->at == '+';
    canon->literal_end = 0;
    while (*canon->at && strncmp(canon->at, end, 2)) {
        minus = *canon->at == '-' && !strncmp(canon->at + 1, end, 2);
        if (*canon->at == '\'' || *canon->at == '"')
            take_literal(canon);
        else if (*canon->at == '[' && take_member(canon))
            continue;
        else {
            if (!isspace((unsigned char)*canon->at) && !minus)
                emit(canon, canon->at, 1);
            canon->at++;
        }
    }
    canon->at += *canon->at ? 2 : 0;
    emit(canon, end, 2);
    return minus;
}

static bool is_tag(const char *at)
{
    return at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#');
}

/* Text between tags that is printed, by Jinja's rules with trim_blocks and lstrip_blocks, which transformers sets. */
static bool prints(const char *from, const char *to, bool minus, bool block)
{
    bool next_minus = is_tag(to) && to[2] == '-', next_block = is_tag(to) && to[1] != '{';

    if (minus)
        while (from < to && isspace((unsigned char)*from))
            from++;
    else if (block && from < to && *from == '\n')
        from++;
    if (next_minus)
        while (to > from && isspace((unsigned char)to[-1]))
            to--;
    else if (next_block) {
        const char *line = to;

        while (line > from && (line[-1] == ' ' || line[-1] == '\t'))
            line--;
        if (line == from || line[-1] == '\n')
            to = line;
    } else if (!*to && to > from && to[-1] == '\n')
        to--;
    return to > from;
}

/* The canonical form, for the caller to free; *printed tells of text outside of tags. */
static char *canonical(const char *jinja, bool *printed)
{
    struct canon canon = {.at = jinja};
    bool minus = false, block = true;

    *printed = false;
    emit(&canon, "", 0);
    while (*canon.at) {
        const char *from = canon.at;

        while (*canon.at && !is_tag(canon.at))
            canon.at++;
        *printed |= prints(from, canon.at, minus, block);
        if (!*canon.at)
            break;
        block = canon.at[1] != '{';
        if (canon.at[1] == '#') {
            const char *end = strstr(canon.at + 2, "#}");

            minus = end && end[-1] == '-';
            canon.at = end ? end + 2 : canon.at + strlen(canon.at);
        } else
            minus = take_tag(&canon);
    }
    return canon.out.data ? canon.out.data : xstrdup("");
}

/* ---- families ---- */

/* The literal that begins with a prefix, from behind it, up to a suffix that ends it; NULL where there is none with
 * both. The caller frees. */
static char *literal_between(const char *canon, const char *prefix, const char *suffix)
{
    for (const char *at = canon; (at = strstr(at, prefix)); at++) {
        const char *from = at + strlen(prefix);
        struct text found = {0};
        size_t tail = strlen(suffix);

        text_append(&found, "", 0);
        for (; *from && *from != '\''; from++) {
            from += *from == '\\' && from[1] == '\'';
            text_append(&found, from, 1);
        }
        if (found.length > tail && !strcmp(found.data + found.length - tail, suffix)) {
            found.data[found.length - tail] = 0;
            return found.data;
        }
        text_free(&found);
    }
    return NULL;
}

static bool has(const char *canon, const char *what)
{
    return strstr(canon, what) != NULL;
}

#define DATED(space) "Knowledge Cutoff Date: April 2024." space "Today\\'s Date: '+strftime_now('%B %d, %Y')+'." space \
                     "You are Granite, developed by IBM.'"

static bool is_granite(const char *canon, struct chat *chat)
{
    if (!has(canon, "{{'<|start_of_role|>assistant") || !has(canon, "'<|end_of_text|>\n'}}"))
        return false;
    if (!has(canon, "{{'<|start_of_role|>'+message.role+'<|end_of_role|>'+message.content+'<|end_of_text|>\n'}}")) {
        chat->variant = GRANITE_NO_DEFAULT | GRANITE_NO_THINKING;
        return has(canon, "{{'<|start_of_role|>user<|end_of_role|>'+message.content+'<|end_of_text|>\n'}}") &&
               !has(canon, "set");
    }
    if (has(canon, DATED(" ")))
        chat->variant |= GRANITE_ONE_LINE;
    else if (!has(canon, DATED("\n")))
        return false;
    if (has(canon, "after \\'Here is my thought process:\\' and write your response after \\'Here is my response:\\'"))
        chat->variant |= GRANITE_HERE_IS;
    else if (!has(canon, "between <think></think> and write your response between <response></response>"))
        chat->variant |= GRANITE_NO_THINKING;
    return has(canon, "system_message+' You are a helpful AI assistant.'");
}

static bool is_chatml(const char *canon, struct chat *chat, char **default_system)
{
    if (!has(canon, "'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>\n'") ||
        !has(canon, "{{'<|im_start|>assistant\n'}}"))
        return false;
    if (has(canon, "<think>") || has(canon, "enable_thinking")) {
        if (!has(canon, "enable_thinkingisdefinedandenable_thinkingisfalse%}{{'<think>\n\n</think>\n\n'}}") ||
            !has(canon, "last_query_index"))
            return false;
        chat->variant |= CHATML_THINKING;
    }
    if (has(canon, "{{bos_token}}"))
        chat->variant |= CHATML_BOS;
    else if (has(canon, "bos_token"))
        return false;
    if (has(canon, "{%fortoolintools%}") && !has(canon, "{%iftools"))
        return false;            /* for tools only */
    *default_system = literal_between(canon, "{{'<|im_start|>system\n", "<|im_end|>\n");
    return !has(canon, "strftime_now");
}

static bool is_llama2(const char *canon, struct chat *chat, char **default_system)
{
    bool once = has(canon, "{{bos_token}}");

    if (!has(canon, "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message.content"))
        return false;
    chat->variant = once ? LLAMA2_BOS_ONCE : 0;
    if (!has(canon, ".strip()"))
        chat->variant |= LLAMA2_NO_STRIP;
    *default_system = literal_between(canon, "{%setsystem_message='", "");
    if (chat->variant & LLAMA2_NO_STRIP)
        return has(canon, once ? "{{'[INST] '+content+' [/INST]'}}" : "{{bos_token+'[INST] '+content+' [/INST]'}}") &&
               has(canon, "{{' '+content+' '+eos_token}}");
    return has(canon, once ? "{{'[INST] '+content.strip()+' [/INST]'}}" :
                             "{{bos_token+'[INST] '+content.strip()+' [/INST]'}}") &&
           has(canon, "{{' '+content.strip()+' '+eos_token}}");
}

static bool is_llama3(const char *canon, struct chat *chat)
{
    if (!has(canon, "'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'") ||
        !has(canon, "{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}"))
        return false;
    if (!has(canon, "system_message"))
        return has(canon, "{%setcontent=bos_token+content%}");
    chat->variant = LLAMA3_DATED;
    if (has(canon, "setdate_string=strftime_now('%d %b %Y')"))
        chat->variant |= LLAMA3_TODAY;
    else if (!has(canon, "setdate_string='26 Jul 2024'"))
        return false;
    return has(canon, "{{bos_token}}") && has(canon, "{{'<|start_header_id|>system<|end_header_id|>\n\n'}}") &&
           has(canon, "{{'Cutting Knowledge Date: December 2023\n'}}{{'Today Date: '+date_string+'\n\n'}}") &&
           has(canon, "setsystem_message=messages[0].content|trim");
}

static bool is_mistral(const char *canon, struct chat *chat)
{
    enum mistral_system place = SYSTEM_NONE;
    int user = 0, reply = 0;

    while (user < MISTRAL_USERS && !has(canon, mistral_users[user].pattern))
        user++;
    while (reply < MISTRAL_REPLIES && !has(canon, mistral_replies[reply].pattern))
        reply++;
    if (user == MISTRAL_USERS || reply == MISTRAL_REPLIES || !has(canon, "{{bos_token}}") ||
        has(canon, "[SYSTEM_PROMPT]"))
        return false;
    if (has(canon, "{%ifloop.firstandsystem_messageisdefined%}"))
        place = SYSTEM_FIRST;
    else if (has(canon, "{%ifloop.lastandsystem_messageisdefined%}"))
        place = SYSTEM_LAST;
    else if (has(canon, "{%if(message==user_messages[-1])andsystem_messageisdefined%}"))
        place = SYSTEM_LAST_USER;
    else if (has(canon, "system_message"))
        return false;
    /* A space in front of [INST] and the system message in the first turn go together (v1). */
    if ((place == SYSTEM_FIRST) != has(canon, "' [INST] '+message.content"))
        return false;
    chat->variant = MISTRAL_VARIANT(user, reply, place);
    return true;
}

static bool recognise(const char *canon, struct chat *chat, char **default_system)
{
    if (has(canon, "<|start_of_role|>")) {
        chat->template = CHAT_GRANITE;
        return is_granite(canon, chat);
    }
    if (has(canon, "<|im_start|>")) {
        chat->template = CHAT_CHATML;
        return is_chatml(canon, chat, default_system);
    }
    if (has(canon, "<|start_header_id|>")) {
        chat->template = CHAT_LLAMA3;
        return is_llama3(canon, chat);
    }
    if (!has(canon, "[INST]"))
        return false;
    chat->template = has(canon, "<<SYS>>") ? CHAT_LLAMA2 : CHAT_MISTRAL;
    return chat->template == CHAT_LLAMA2 ? is_llama2(canon, chat, default_system) : is_mistral(canon, chat);
}

int chat_recognise(const char *jinja, const char *where, struct chat *chat, char **default_system)
{
    bool printed, known;
    char *canon = canonical(jinja, &printed);
    struct text names = {0};
    int rc = EX_OK;

    chat->variant = 0;
    *default_system = NULL;
    known = !printed && recognise(canon, chat, default_system);
    chat->default_system = *default_system;
    if (!known) {
        free(*default_system);
        chat->default_system = *default_system = NULL;
        for (int i = 0; chat_names[i]; i++)
            text_format(&names, "%s%s", i ? ", " : "", chat_names[i]);
        rc = fail(EX_UNAVAILABLE, "'%s': the chat template is not one of those known (%s); --template names the one to "
                  "use", where, names.data);
        text_free(&names);
    }
    free(canon);
    return rc;
}
