/* task_work.h - a benchmark at work: what the files task_*.c share. Private to them.
 *
 * Data flows one way: files to documents, documents to questions with their prompts, questions through the model to
 * scores or text, these to verdicts, verdicts to the report. */
#ifndef MEASURE_TASK_WORK_H
#define MEASURE_TASK_WORK_H

#include "base/file.h"
#include "measure/report.h"
#include "measure/task_answers.h"
#include "measure/task_documents.h"
#include "measure/task_shots.h"
#include "measure/tasks.h"
#include "model/chat_model.h"

enum { TASK_METRICS = 2 };

struct task {
    const char *name;
    enum task_kind kind;
    int64_t shots;               /* where nothing else is asked */
    bool first;                  /* examples are the first ones, not drawn */
    bool apart;                  /* see shots_draw() */
    bool generated;
    const char *metric[TASK_METRICS + 1];        /* names, NULL-terminated */
    const char *const *data;     /* file names that are looked for in a directory, NULL-terminated */
    const char *const *train;
};

/* Documents that belong together: a subject of MMLU, all of another task. */
struct part {
    char *subject;               /* "college_biology"; NULL: no MMLU */
    struct documents documents, examples;
    char *examples_name;         /* of the file, for messages */
};

/* A document on its way. */
struct question {
    const struct part *part;
    const struct document *document;
    int64_t number;              /* of the document in its part */
    char *prompt;
    const char *failed;          /* why it can't be counted; NULL: it can */
    struct ids context, *continuation;           /* of multiple choice: the prompt, and each choice [choices] */
    double *score;               /* [choices] log-likelihoods in nats */
    struct text text;            /* that was generated */
    struct text filtered[ANSWER_FILTERS];
    bool verdict[TASK_METRICS];
};

struct work {
    const struct task *task;
    const struct measure *measure;
    const struct task_options *options;
    int64_t shots;
    struct part *part;
    size_t parts;
    struct text raw;             /* the bytes of the data */
    struct question *question;
    size_t questions;
    struct loader loader;
    bool opened;
    struct tokenizer *tokenizer;
    struct chat_model chat;      /* with options->chat */
    struct ids stop;             /* ids that end a text */
    int32_t prefix;              /* the token in front of an empty prompt: BOS, else EOS; -1: none */
    char *prefix_text, *bos, *eos;               /* texts of that token and of the tokenizer's; NULL: none */
    int64_t tokens;              /* that ran through the model */
};

/* Finds and reads documents and examples. EX_USAGE, EX_NOINPUT, EX_DATAERR, EX_IOERR after a message. */
int task_find(struct work *work, const char *data);

/* Finds out prefix, bos and eos. EX_DATAERR after a message. */
int task_special_tokens(struct work *work);

/* Makes the questions and their prompts. EX_USAGE, EX_DATAERR after a message. */
int task_prompts(struct work *work);

/* The ids of a prompt that text is generated from. */
void task_encode_prompt(struct work *work, const struct question *question, struct ids *ids);

/* The ids of prompt and choices, or a reason why it failed. */
void task_encode_choices(struct work *work, struct question *question);

/* Runs all questions through the model: scores, or text. Errors of the loader, EX_CANTCREAT, EX_IOERR. */
int task_score(struct work *work);
int task_generate(struct work *work);

/* Verdicts of all questions that didn't fail. */
void task_judge(struct work *work);

/* The report, the caller's; and a line for each document. */
struct json *task_report(const struct work *work, const char *data, const struct stopwatch *stopwatch);
int task_samples(const struct work *work, struct output *output);

#endif
