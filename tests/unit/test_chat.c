/* Chat templates: recognised, and written to the letter. The texts are what transformers makes of the templates. */
#include "check.h"
#include "text/conversation.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CHATML "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + " \
               "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}" \
               "{% endif %}"
#define ALTERNATE "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
#define LLAMA2(before, after) \
    before "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}" \
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}" \
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}" ALTERNATE \
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + " \
    "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}" \
    "{% if message['role'] == 'user' %}{{ " after "'[INST] ' + content.strip() + ' [/INST]' }}" \
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
#define LLAMA3 "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " \
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}" \
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" \
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
#define MISTRAL(user, reply) "{{ bos_token }}{% for message in messages %}" ALTERNATE \
    "{% if message['role'] == 'user' %}{{ " user " }}{% elif message['role'] == 'assistant' %}{{ " reply " }}" \
    "{% endif %}{% endfor %}"

static struct text written;

/* The text of a conversation given as JSON, by chat; NULL where it is refused, with exit code 64. */
static const char *write_chat(const struct chat *chat, const char *json)
{
    struct conversation conversation;
    char message[512];
    int rc;

    assert_int_equal(conversation_read(json, strlen(json), "test", &conversation), EX_OK);
    text_free(&written);
    error_capture(message, sizeof message);
    rc = chat_write(chat, conversation.messages, conversation.count, true, &written);
    error_capture(NULL, 0);
    conversation_free(&conversation);
    if (rc)
        assert_int_equal(rc, EX_USAGE);
    return rc ? NULL : written.data;
}

static struct chat recognise(const char *jinja, enum chat_template expected, char **owned)
{
    struct chat chat = {.bos = "<s>", .eos = "</s>"};

    assert_int_equal(chat_recognise(jinja, "model", &chat, owned), EX_OK);
    assert_int_equal(chat.template, expected);
    return chat;
}

static void check_text(const char *jinja, enum chat_template template, const char *json, const char *expected)
{
    char *owned;
    struct chat chat = recognise(jinja, template, &owned);
    const char *text = write_chat(&chat, json);

    if (expected)
        assert_string_equal(text ? text : "refused", expected);
    else
        assert_null(text);
    free(owned);
}

#define USER(text) "{\"role\": \"user\", \"content\": \"" text "\"}"
#define SYSTEM(text) "{\"role\": \"system\", \"content\": \"" text "\"}"
#define ASSISTANT(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"

static void test_chatml(void)
{
    check_text(CHATML, CHAT_CHATML, "[" USER("Hi") "]", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    check_text("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou\\'re a test."
               "<|im_end|>\n' }}{% endif %}" CHATML, CHAT_CHATML, "[" USER("Hi") "]",
               "<|im_start|>system\nYou're a test.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    check_text(CHATML, CHAT_CHATML,
               "{\"messages\": [" SYSTEM("S") "," USER("a") "," ASSISTANT(" b ") "," USER("c") "]}",
               "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n b <|im_end|>\n"
               "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n");
    check_text(CHATML, CHAT_CHATML, "[{\"role\": \"tool\", \"content\": \"x\"}]", NULL);
}

/* The parts of Qwen3's template that tell it from others. */
#define QWEN3 CHATML "{%- set ns = namespace(last_query_index=1) %}" \
              "{%- if enable_thinking is defined and enable_thinking is false %}\n" \
              "{{- '<think>\\n\\n</think>\\n\\n' }}\n{%- endif %}"

static void test_thoughts(void)
{
    static const char talk[] = "[" USER("a") "," ASSISTANT("<think>\\nhm\\n</think>\\n\\nb") "," USER("c") "]";
    char *owned;
    struct chat chat = recognise(QWEN3, CHAT_CHATML, &owned);

    assert_string_equal(write_chat(&chat, talk), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
                        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    chat.thinking = true;
    assert_string_equal(write_chat(&chat, talk), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
                        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n");
    assert_string_equal(write_chat(&chat, "[" USER("a") "," ASSISTANT("b") "]"), "<|im_start|>user\na<|im_end|>\n"
                        "<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>\n<|im_start|>assistant\n");
    chat = recognise(CHATML, CHAT_CHATML, &owned);
    chat.thinking = true;
    assert_null(write_chat(&chat, talk));
}

#define GRANITE_DAY "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\nToday's Date: " \
    "November 05, 2025.\nYou are Granite, developed by IBM. You are a helpful AI assistant."

static void test_granite(void)
{
    struct chat chat = {.template = CHAT_GRANITE, .date = "2025-11-05"};
    const char *text;

    assert_string_equal(write_chat(&chat, "[" USER("Hi") "]"), GRANITE_DAY "<|end_of_text|>\n<|start_of_role|>user"
                        "<|end_of_role|>Hi<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>");
    assert_string_equal(write_chat(&chat, "[" SYSTEM("S") "," USER("Hi") "]"), "<|start_of_role|>system<|end_of_role|>S"
                        "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n<|start_of_role|>"
                        "assistant<|end_of_role|>");
    chat.thinking = true;
    text = write_chat(&chat, "[" USER("Hi") "]");
    assert_non_null(strstr(text, GRANITE_DAY "\nRespond to every user query in a comprehensive and detailed way. Y"));
    assert_non_null(strstr(text, "Write your thoughts between <think></think> and write your response between "
                           "<response></response> for each user query.<|end_of_text|>\n"));
    assert_null(write_chat(&chat, "[" SYSTEM("S") "," USER("Hi") "]"));
    chat = (struct chat){.template = CHAT_GRANITE, .date = "2025-02-30"};
    assert_null(write_chat(&chat, "[" USER("Hi") "]"));
    chat = (struct chat){.template = CHAT_CHATML, .date = "2025-02-03"};
    assert_null(write_chat(&chat, "[" USER("Hi") "]"));
}

static void test_llama2(void)
{
    static const char talk[] = "[" SYSTEM("S") "," USER(" a") "," ASSISTANT("b\\u00a0") "," USER("c\\n") "]";

    check_text(LLAMA2("", "bos_token + "), CHAT_LLAMA2, talk,
               "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST]");
    check_text(LLAMA2("{{ bos_token }}", ""), CHAT_LLAMA2, talk,
               "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s>[INST] c [/INST]");
    check_text(LLAMA2("", "bos_token + "), CHAT_LLAMA2, "[" USER(" a") "]", "<s>[INST] a [/INST]");
    check_text(LLAMA2("", "bos_token + "), CHAT_LLAMA2, "[" USER("a") "," USER("b") "]", NULL);
    check_text(LLAMA2("", "bos_token + "), CHAT_LLAMA2, "[" ASSISTANT("a") "]", NULL);
}

static void test_llama3(void)
{
    struct chat dated = {.template = CHAT_LLAMA3, .variant = 1, .bos = "<|begin_of_text|>"};

    check_text(LLAMA3, CHAT_LLAMA3, "[" USER(" a ") "]", "<s><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n");
    assert_string_equal(write_chat(&dated, "[" SYSTEM(" S ") "," USER("a") "]"), "<|begin_of_text|><|start_header_id|>"
                        "system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS"
                        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant"
                        "<|end_header_id|>\n\n");
    dated.date = "2026-01-09";
    assert_non_null(strstr(write_chat(&dated, "[" USER("a") "]"), "Today Date: 09 Jan 2026\n\n<|eot_id|>"));
}

static void test_mistral(void)
{
    static const char talk[] = "[" USER("a") "," ASSISTANT(" b ") "," USER("c") "]";
    static const char with_system[] = "[" SYSTEM("S") "," USER("a") "," ASSISTANT("b") "," USER("c") "]";
    struct chat v3 = {.template = CHAT_MISTRAL, .bos = "<s>", .eos = "</s>"};

    check_text(MISTRAL("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token + ' '"),
               CHAT_MISTRAL, talk, "<s>[INST] a [/INST] b </s> [INST] c [/INST]");
    check_text(MISTRAL("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"),
               CHAT_MISTRAL, talk, "<s>[INST] a [/INST] b </s>[INST] c [/INST]");
    check_text(MISTRAL("\"[INST]\" + message[\"content\"] + \"[/INST]\"", "message['content'] + eos_token"),
               CHAT_MISTRAL, talk, "<s>[INST]a[/INST] b </s>[INST]c[/INST]");
    check_text(MISTRAL("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"),
               CHAT_MISTRAL, with_system, NULL);
    assert_string_equal(write_chat(&v3, with_system), "<s>[INST] a[/INST] b</s>[INST] S\n\nc[/INST]");
    assert_string_equal(write_chat(&v3, talk), "<s>[INST] a[/INST] b</s>[INST] c[/INST]");
}

static void test_unknown(void)
{
    static const char *const unknown[] = {
        "", "{{", "{% for", "{{ '", "{{ x['", "{{ x['role' }}", "{#", "{{ '<|im_start|>\\", "plain text",
        "{{ '<|user|>' + message['content'] }}",
        "{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}",
        "before " CHATML, CHATML "{{ '<think>' }}",
        "{{ '<|start_of_role|>' + message['role'] }}", "{{ '[INST]' + message['content'] }}",
        "{{ '<|start_header_id|>' + message['role'] }}",
    };

    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        struct chat chat = {0};
        char *owned, message[512];
        int rc;

        error_capture(message, sizeof message);
        rc = chat_recognise(unknown[i], "model", &chat, &owned);
        error_capture(NULL, 0);
        assert_int_equal(rc, EX_UNAVAILABLE);
        assert_non_null(strstr(message, "--template"));
        assert_null(owned);
    }
}

static void check_parts(const char *answer, const char *thinking, const char *response)
{
    struct chat_parts parts = chat_split(answer, strlen(answer));

    assert_int_equal(parts.thinking != NULL, thinking != NULL);
    assert_int_equal(parts.response != NULL, response != NULL);
    if (thinking) {
        assert_int_equal(parts.thinking_length, strlen(thinking));
        assert_memory_equal(parts.thinking, thinking, strlen(thinking));
    }
    if (response) {
        assert_int_equal(parts.response_length, strlen(response));
        assert_memory_equal(parts.response, response, strlen(response));
    }
}

static void test_parts(void)
{
    check_parts("plain", NULL, NULL);
    check_parts("<think>a</think><response>b</response>", "a", "b");
    check_parts(" <think>\na b\n</think>\n\nthe answer\n", "a b", "the answer");
    check_parts("<think>not done", "not done", NULL);
    check_parts("<think></think>\n<response>not done", "", "not done");
    check_parts("Here is my thought process: x. Here is my response: y", "x.", "y");
    check_parts("<response>alone</response>", NULL, "alone");
    check_parts("", NULL, NULL);
}

static void test_conversations(void)
{
    static const char *const bad[] = {"", "{", "[]", "{}", "[1]", "[{\"role\": \"user\"}]", "[{\"content\": \"x\"}]",
                                      "[{\"role\": \"user\", \"content\": [\"x\"]}]", "{\"messages\": {}}", "7"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct conversation conversation;
        char message[512];
        int rc;

        error_capture(message, sizeof message);
        rc = conversation_read(bad[i], strlen(bad[i]), "line 1 of 'x'", &conversation);
        error_capture(NULL, 0);
        assert_int_equal(rc, EX_DATAERR);
        assert_non_null(strstr(message, "line 1 of 'x'"));
    }
    text_free(&written);
}

CHECK_MAIN({"ChatML with and without a system text of its own", test_chatml},
           {"Qwen3's thoughts", test_thoughts},
           {"Granite, its date and its thinking mode", test_granite},
           {"Llama 2", test_llama2},
           {"Llama 3, with and without a date", test_llama3},
           {"Mistral's variants", test_mistral},
           {"unknown and broken templates are refused, and --template is named", test_unknown},
           {"thoughts and response are found in an answer", test_parts},
           {"conversations that aren't are refused", test_conversations})
