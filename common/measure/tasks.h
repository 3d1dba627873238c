/* tasks.h - the benchmarks, by lm-evaluation-harness's definitions: hellaswag, boolq, mmlu, triviaqa, gsm8k. */
#ifndef MEASURE_TASKS_H
#define MEASURE_TASKS_H

#include "base/json.h"
#include "measure/options.h"

#include <stdint.h>

struct task_options {
    int64_t shots;               /* -1: the task's default */
    int64_t limit;               /* the first so many documents (of each subject, of MMLU); -1: all */
    bool chat;                   /* prompts as a conversation in the model's chat template */
    const char *template;        /* the template's name where the model's isn't to be used; or NULL */
    const char *date;            /* for chat templates that state it; NULL: today */
    const char *train;           /* where few-shot examples come from; NULL: looked for beside the data */
    const char *samples;         /* file for one JSON line per document; or NULL */
    int64_t batch;               /* sequences that are generated side by side */
};

/* NULL-terminated. */
extern const char *const task_names[];

/* Finds and reads the documents and examples that task_run() would, and nothing else: whether they are there and good.
 * EX_USAGE, EX_NOINPUT, EX_DATAERR, EX_IOERR after a message. */
int task_check(const char *name, const char *data, const struct task_options *options);

/* Runs a task on a model (NULL or "-": a stream on standard input) with the documents in data: a file in a form that
 * documents_read() of measure/task_documents.h knows, or a directory in which these names are looked for, examples in
 * the directory where the documents are:
 *     hellaswag  [hellaswag/]hellaswag_val.jsonl, hellaswag/val.jsonl; hellaswag_train.jsonl, train.jsonl
 *     boolq      [boolq/]boolq_dev.jsonl, boolq/dev.jsonl, {boolq,BoolQ}/val.jsonl; boolq_train.jsonl, train.jsonl
 *     mmlu       SUBJECT_test.csv in mmlu/test, data/test, test or the directory itself; SUBJECT_dev.csv beside them or
 *                in ../dev; train is a directory with these or with dev/
 *     triviaqa   triviaqa_dev.json, triviaqa/[qa/]wikipedia-dev.json, triviaqa/unfiltered-web-dev.json,
 *                [triviaqa/]triviaqa_open_test.jsonl, [triviaqa/]triviaqa_sm_sub.jsonl; triviaqa_train.json,
 *                wikipedia-train.json, unfiltered-web-train.json, triviaqa_open_dev.jsonl
 *     gsm8k      [gsm8k/]gsm8k_test.jsonl, gsm8k/test.jsonl; gsm8k_train.jsonl, train.jsonl
 * The report has "metrics" {name: {"value", "stderr"}}, "count", "failed" (documents that could not be counted, and
 * why), "shots", "limit", "chat", of MMLU "subjects" and "categories". *report is the caller's. EX_USAGE, EX_NOINPUT,
 * EX_DATAERR, EX_IOERR, EX_CANTCREAT after a message. */
int task_run(const char *name, const struct measure *measure, const char *model, const char *data,
             const struct task_options *options, struct json **report);

#endif
