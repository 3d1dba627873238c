/* task_answers.h - from generated text to verdicts: the filters and the exact match of TriviaQA and GSM8K. */
#ifndef MEASURE_TASK_ANSWERS_H
#define MEASURE_TASK_ANSWERS_H

#include "measure/task_documents.h"
#include "text/regex.h"

enum { ANSWER_FILTERS = 2 };             /* the most that a task has */

/* How a task judges text. */
struct judge {
    enum task_kind kind;                         /* TASK_TRIVIAQA or TASK_GSM8K */
    int filters;
    const char *filter[ANSWER_FILTERS];          /* names, as lm-evaluation-harness has them */
    struct regex *extract[ANSWER_FILTERS];       /* GSM8K's */
    struct regex *ignored[4];                    /* what is taken out of both sides */
};

void judge_open(struct judge *judge, enum task_kind kind);
void judge_close(struct judge *judge);

/* Cuts text at the first occurrence of each of the stops (NULL-terminated), one after the other. */
void answer_cut(struct text *text, const char *const *stops);

/* Appends what a filter makes of the text: TriviaQA's remove_whitespace; GSM8K's strict-match and flexible-extract, or
 * "[invalid]". */
void answer_filter(const struct judge *judge, int filter, const char *text, size_t length, struct text *filtered);

/* exact_match: does one of the accepted answers equal this one? */
bool answer_matches(const struct judge *judge, const char *filtered, size_t length, const struct document *document);

#endif
