/* task_answers.c - filters and exact match, with lm-evaluation-harness's regular expressions to the letter. */
#include "measure/task_answers.h"
#include "text/case.h"

#include <string.h>

static const char *const extract[ANSWER_FILTERS] = {"#### (\\-?[0-9\\.\\,]+)", "(-?[$0-9.,]{2,})|(-?[0-9]+)"};
static const char *const ignored[] = {",", "\\$", "(?s).*#### ", "\\.$"};

static struct regex *compile(const char *expression)
{
    struct regex *regex;

    if (regex_compile(expression, strlen(expression), "gsm8k", "a filter", &regex))
        die(EX_SOFTWARE, "a filter's regular expression is bad");
    return regex;
}

void judge_open(struct judge *judge, enum task_kind kind)
{
    *judge = (struct judge){.kind = kind, .filters = 1, .filter = {"remove_whitespace"}};
    if (kind != TASK_GSM8K)
        return;
    judge->filters = 2;
    judge->filter[0] = "strict-match";
    judge->filter[1] = "flexible-extract";
    for (int i = 0; i < ANSWER_FILTERS; i++)
        judge->extract[i] = compile(extract[i]);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        judge->ignored[i] = compile(ignored[i]);
}

void judge_close(struct judge *judge)
{
    for (int i = 0; i < ANSWER_FILTERS; i++)
        regex_free(judge->extract[i]);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        regex_free(judge->ignored[i]);
    *judge = (struct judge){0};
}

void answer_cut(struct text *text, const char *const *stops)
{
    text_append(text, "", 0);
    for (; *stops; stops++) {
        const char *found = **stops ? memmem(text->data, text->length, *stops, strlen(*stops)) : NULL;

        if (found)
            text->length = (size_t)(found - text->data);
    }
    text_append(text, "", 0);
}

/* re.findall(): the first match, or the last; of a match its first group that isn't empty. */
static bool find(struct regex *regex, bool last, const char *text, size_t length, size_t *from, size_t *to)
{
    size_t start[3], end[3], at = 0;
    bool found = false;

    while ((!found || last) && at <= length && regex_find(regex, text, length, at, start, end, 3)) {
        int group = start[1] != (size_t)-1 && end[1] > start[1] ? 1 : 2;

        found = true;
        *from = start[group];
        *to = end[group];
        at = end[0] > start[0] ? end[0] : end[0] + 1;
    }
    return found;
}

void answer_filter(const struct judge *judge, int filter, const char *text, size_t length, struct text *filtered)
{
    size_t from, to;

    if (judge->kind != TASK_GSM8K)
        unicode_strip(text, length, filtered);
    else if (find(judge->extract[filter], filter == 1, text, length, &from, &to))
        text_append(filtered, text + from, to - from);
    else
        text_format(filtered, "[invalid]");
}

/* re.sub(regex, "", text) */
static void take_out(struct regex *regex, struct text *text)
{
    struct text kept = {0};
    size_t start, end, at = 0;

    while (at < text->length && regex_find(regex, text->data, text->length, at, &start, &end, 1) && end > start) {
        text_append(&kept, text->data + at, start - at);
        at = end;
    }
    text_append(&kept, text->data + at, text->length - at);
    text_free(text);
    *text = kept;
}

/* What is compared: without what is ignored, in lower case, and for TriviaQA without ASCII's punctuation. */
static void reduce(const struct judge *judge, const char *answer, size_t length, struct text *reduced)
{
    struct text text = {0};
    size_t kept = 0;

    text_append(&text, answer, length);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored && judge->ignored[i]; i++)
        take_out(judge->ignored[i], &text);
    reduced->length = 0;
    text_append(reduced, "", 0);
    unicode_lower(text.data, text.length, reduced);
    text_free(&text);
    if (judge->kind == TASK_GSM8K)
        return;
    for (size_t i = 0; i < reduced->length; i++)
        if (!strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", reduced->data[i]))
            reduced->data[kept++] = reduced->data[i];
    reduced->length = kept;
}

bool answer_matches(const struct judge *judge, const char *filtered, size_t length, const struct document *document)
{
    struct text mine = {0}, accepted = {0};
    bool matches = false;

    reduce(judge, filtered, length, &mine);
    for (int i = 0; i < document->choices && !matches; i++) {
        reduce(judge, document->choice[i], strlen(document->choice[i]), &accepted);
        matches = mine.length == accepted.length && !memcmp(mine.data, accepted.data, mine.length);
    }
    text_free(&mine);
    text_free(&accepted);
    return matches;
}
