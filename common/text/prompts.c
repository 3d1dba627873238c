/* prompts.c - texts, files and lines as prompts. */
#include "text/prompts.h"
#include "base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_LIMIT = 64 << 20 };        /* bytes of a prompt's file */

/* The next line, without the newline at its end. */
static int next_line(struct prompts *prompts, size_t *length, bool *more)
{
    bool file = !file_is_stdin(prompts->messages);
    const char *name = file_input_name(prompts->messages);
    ssize_t got;

    *more = false;
    if (!prompts->lines)
        prompts->lines = file ? fopen(prompts->messages, "re") : stdin;
    if (!prompts->lines)
        return fail(EX_NOINPUT, "cannot open '%s':", name);
    errno = 0;
    got = getline(&prompts->line, &prompts->capacity, prompts->lines);
    if (got < 0)
        return ferror(prompts->lines) && errno != EINTR ? fail(EX_IOERR, "cannot read '%s':", name) : EX_OK;
    *more = true;
    *length = (size_t)got - (prompts->line[got - 1] == '\n');
    prompts->line[*length] = 0;
    return EX_OK;
}

static int next_conversation(struct prompts *prompts, bool *more)
{
    size_t length = 0;
    char *what;
    int rc = next_line(prompts, &length, more);

    for (; !rc && *more && strspn(prompts->line, " \t\r") == length; prompts->number++)
        rc = next_line(prompts, &length, more);          /* an empty one */
    if (rc || !*more)
        return rc;
    what = xasprintf("line %lld of '%s'", (long long)prompts->number, prompts->messages);
    conversation_free(&prompts->conversation);
    rc = conversation_read(prompts->line, length, what, &prompts->conversation);
    free(what);
    return rc;
}

int prompts_next(struct prompts *prompts, bool *more)
{
    struct text *text = &prompts->text;
    size_t length = 0;
    int rc = EX_OK;

    *more = !prompts->number++;
    text->length = 0;
    text_append(text, "", 0);
    if (prompts->messages)
        return next_conversation(prompts, more);
    if (!prompts->prompt && !prompts->file) {
        if (!(rc = next_line(prompts, &length, more)) && *more)
            text_append(text, prompts->line, length);
    } else if (*more && prompts->prompt)
        text_append(text, prompts->prompt, strlen(prompts->prompt));
    else if (*more && !(rc = file_read(prompts->file, PROMPT_LIMIT, text)) && text->length &&
             text->data[text->length - 1] == '\n')
        text->data[--text->length] = 0;
    return rc;
}

void prompts_close(struct prompts *prompts)
{
    conversation_free(&prompts->conversation);
    text_free(&prompts->text);
    free(prompts->line);
    if (prompts->lines && prompts->lines != stdin)
        fclose(prompts->lines);
    *prompts = (struct prompts){0};
}
