/* task_prompts.c - what is put to the model: description, examples, question; as text, as a conversation, as ids. */
#include "base/memory.h"
#include "measure/task_work.h"
#include "text/case.h"

#include <stdlib.h>
#include <string.h>

int task_special_tokens(struct work *work)
{
    int rc = special_tokens(&work->loader, work->tokenizer, &work->bos, &work->eos);

    if (rc)
        return rc;
    work->prefix_text = work->bos || work->eos ? xstrdup(work->bos ? work->bos : work->eos) : NULL;
    work->prefix = work->prefix_text ? tokenizer_id(work->tokenizer, work->prefix_text) : -1;
    return stop_tokens(&work->loader, work->tokenizer, NULL, &work->stop);
}

/* MMLU's only: "The following are ... about college biology." */
static char *describe(const struct part *part)
{
    char *description;

    if (!part->subject)
        return NULL;
    description = xasprintf("The following are multiple choice questions (with answers) about %s.\n\n", part->subject);
    for (char *c = description; *c; c++)
        *c = *c == '_' ? ' ' : *c;
    return description;
}

static const char *answer_of(const struct document *document)
{
    return document->choice[document->gold];
}

static char *plain_prompt(const struct part *part, const char *description, const size_t *shot, size_t shots,
                          const struct document *document)
{
    struct text text = {0};

    text_format(&text, "%s", description ? description : "");
    for (size_t i = 0; i < shots; i++) {
        const struct document *example = &part->examples.item[shot[i]];

        text_format(&text, "%s %s\n\n", example->query, answer_of(example));
    }
    text_format(&text, "%s", document->query);
    return text.data;
}

/* Examples are turns of their own, as --apply_chat_template has them in lm-evaluation-harness 0.4.13. */
static int chat_prompt(const struct work *work, const struct part *part, const char *description, const size_t *shot,
                       size_t shots, struct question *question)
{
    struct message *message = xmallocarray(2 * shots + 2, sizeof *message);
    struct text text = {0};
    int count = 0, rc;

    if (description)
        message[count++] = (struct message){"system", description};
    for (size_t i = 0; i < shots; i++) {
        message[count++] = (struct message){"user", part->examples.item[shot[i]].query};
        message[count++] = (struct message){"assistant", answer_of(&part->examples.item[shot[i]])};
    }
    message[count++] = (struct message){"user", question->document->query};
    rc = chat_write(&work->chat.chat, message, count, true, &text);
    question->prompt = text.data ? text.data : xstrdup("");
    free(message);
    return rc;
}

static int few_examples(const struct work *work, const struct part *part)
{
    return fail(EX_DATAERR, "'%s' has %zu documents, too few to take %lld examples from", part->examples_name,
                part->examples.count, (long long)work->shots);
}

static int make_question(const struct work *work, struct twister *twister, const char *description,
                         struct question *question)
{
    size_t shots = (size_t)work->shots, *shot = xmallocarray(shots + 1, sizeof *shot);
    const struct part *part = question->part;
    int rc = EX_OK;

    for (size_t i = 0; i < shots && work->task->first; i++)
        shot[i] = i;
    if (shots && (work->task->first ? shots > part->examples.count :
                  !shots_draw(twister, &part->examples, shots, question->document, work->task->apart, shot)))
        rc = few_examples(work, part);
    else if (work->options->chat)
        rc = chat_prompt(work, part, description, shot, shots, question);
    else
        question->prompt = plain_prompt(part, description, shot, shots, question->document);
    free(shot);
    return rc;
}

int task_prompts(struct work *work)
{
    struct twister twister = {0};
    size_t questions = 0;
    int rc = EX_OK;

    twister_seed(&twister, SHOTS_SEED);
    for (size_t p = 0; p < work->parts; p++)
        questions += work->part[p].documents.count;
    work->question = xcalloc(questions, sizeof *work->question);
    for (size_t p = 0; p < work->parts && !rc; p++) {
        const struct part *part = &work->part[p];
        char *description = describe(part);

        for (size_t d = 0; d < part->documents.count && !rc; d++) {
            struct question *question = &work->question[work->questions++];

            *question = (struct question){.part = part, .document = &part->documents.item[d], .number = (int64_t)d};
            rc = make_question(work, &twister, description, question);
        }
        free(description);
    }
    return rc;
}

/* A text that begins with the BOS already gets none from the tokenizer's template. */
static enum tokenize manner(const char *begins, const char *text)
{
    return begins && *begins && !strncmp(text, begins, strlen(begins)) ? TOKENIZE_PLAIN : TOKENIZE_TEMPLATE;
}

void task_encode_prompt(struct work *work, const struct question *question, struct ids *ids)
{
    const char *prompt = question->prompt;

    tokenizer_encode(work->tokenizer, prompt, strlen(prompt), manner(work->bos, prompt), ids);
}

/* Behind an empty prompt: the prefix token stands for it, unless the choice begins with that token. */
static void encode_alone(struct work *work, struct question *question, const char *choice, int c)
{
    struct ids *ids = &question->continuation[c];

    tokenizer_encode(work->tokenizer, choice, strlen(choice), TOKENIZE_PLAIN, ids);
    question->context.count = 0;
    if (work->prefix >= 0)
        ids_append(&question->context, work->prefix);
    if (ids->count && ids->id[0] == work->prefix)
        memmove(ids->id, ids->id + 1, --ids->count * sizeof *ids->id);
}

/* The whole is tokenized, and what the prompt's own tokens leave of it is the continuation. */
static void encode_choice(struct work *work, struct question *question, const char *choice, size_t prompt, int c)
{
    struct text whole = {0};
    struct ids ids = {0};

    text_format(&whole, "%s%s", question->prompt, choice);
    tokenizer_encode(work->tokenizer, whole.data, whole.length, manner(work->prefix_text, whole.data), &ids);
    if (!c) {
        whole.data[prompt] = '\0';
        tokenizer_encode(work->tokenizer, whole.data, prompt, manner(work->prefix_text, whole.data),
                         &question->context);
    }
    for (size_t i = question->context.count; i < ids.count; i++)
        ids_append(&question->continuation[c], ids.id[i]);
    text_free(&whole);
    ids_free(&ids);
}

/* HFLM._encode_pair(): white space at the end of the prompt belongs to the choice. */
void task_encode_choices(struct work *work, struct question *question)
{
    size_t length = strlen(question->prompt), prompt = length - unicode_space_behind(question->prompt, length);

    question->continuation = xcalloc((size_t)question->document->choices, sizeof *question->continuation);
    question->score = xcalloc((size_t)question->document->choices, sizeof *question->score);
    for (int c = 0; c < question->document->choices && !question->failed; c++) {
        char *choice = xasprintf("%s%s", work->options->chat ? "" : " ", question->document->choice[c]);

        if (length)
            encode_choice(work, question, choice, prompt, c);
        else
            encode_alone(work, question, choice, c);
        free(choice);
        if (!question->context.count)
            question->failed = "the prompt has no tokens";
        else if (!question->continuation[c].count)
            question->failed = "a choice has no tokens";
        else if ((int64_t)question->continuation[c].count > work->loader.config.max_position)
            question->failed = "a choice is longer than the model's context";
    }
}
