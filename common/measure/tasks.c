/* tasks.c - the benchmarks: what they are, and how one runs. */
#include "measure/tasks.h"
#include "base/memory.h"
#include "measure/task_work.h"

#include <stdlib.h>
#include <string.h>

#define NAMES(...) (const char *const[]){__VA_ARGS__, NULL}

static const struct task tasks[] = {
    {.name = "hellaswag", .kind = TASK_HELLASWAG, .apart = true, .metric = {"acc", "acc_norm"},
     .data = NAMES("hellaswag_val.jsonl", "hellaswag/hellaswag_val.jsonl", "hellaswag/val.jsonl"),
     .train = NAMES("hellaswag_train.jsonl", "train.jsonl")},
    {.name = "boolq", .kind = TASK_BOOLQ, .apart = true, .metric = {"acc"},
     .data = NAMES("boolq_dev.jsonl", "boolq/boolq_dev.jsonl", "boolq/dev.jsonl", "boolq/val.jsonl", "BoolQ/val.jsonl"),
     .train = NAMES("boolq_train.jsonl", "train.jsonl")},
    {.name = "mmlu", .kind = TASK_MMLU, .first = true, .metric = {"acc"},
     .data = NAMES("mmlu/test", "data/test", "test")},
    {.name = "triviaqa", .kind = TASK_TRIVIAQA, .apart = true, .generated = true, .metric = {"exact_match"},
     .data = NAMES("triviaqa_dev.json", "triviaqa_unfiltered_dev.json", "triviaqa/wikipedia-dev.json",
                   "triviaqa/qa/wikipedia-dev.json", "triviaqa/unfiltered-web-dev.json", "triviaqa_open_test.jsonl",
                   "triviaqa/triviaqa_open_test.jsonl", "triviaqa_sm_sub.jsonl",
                   "triviaqa/triviaqa_sm_sub.jsonl"),
     .train = NAMES("triviaqa_train.json", "wikipedia-train.json", "unfiltered-web-train.json",
                    "triviaqa_open_dev.jsonl")},
    {.name = "gsm8k", .kind = TASK_GSM8K, .shots = 5, .generated = true,
     .metric = {"exact_match,strict-match", "exact_match,flexible-extract"},
     .data = NAMES("gsm8k_test.jsonl", "gsm8k/gsm8k_test.jsonl", "gsm8k/test.jsonl"),
     .train = NAMES("gsm8k_train.jsonl", "train.jsonl")},
};
enum { TASKS = sizeof tasks / sizeof *tasks };

const char *const task_names[] = {"hellaswag", "boolq", "mmlu", "triviaqa", "gsm8k", NULL};

static void free_question(struct question *question)
{
    for (int c = 0; question->continuation && c < question->document->choices; c++)
        ids_free(&question->continuation[c]);
    for (int m = 0; m < ANSWER_FILTERS; m++)
        text_free(&question->filtered[m]);
    free(question->continuation);
    free(question->score);
    free(question->prompt);
    ids_free(&question->context);
    text_free(&question->text);
}

static void work_close(struct work *work)
{
    for (size_t i = 0; i < work->questions; i++)
        free_question(&work->question[i]);
    free(work->question);
    for (size_t p = 0; p < work->parts; p++) {
        free(work->part[p].subject);
        free(work->part[p].examples_name);
        documents_free(&work->part[p].documents);
        documents_free(&work->part[p].examples);
    }
    free(work->part);
    text_free(&work->raw);
    free(work->prefix_text);
    free(work->bos);
    free(work->eos);
    ids_free(&work->stop);
    chat_model_close(&work->chat);
    tokenizer_close(work->tokenizer);
    if (work->opened)
        loader_close(&work->loader);
}

static int open_model(struct work *work, const char *model)
{
    const struct task_options *options = work->options;
    int rc = loader_open(&work->loader, model, work->measure->device, work->measure->activations);

    work->opened = !rc;
    if (rc || (rc = loader_tokenizer(&work->loader, &work->tokenizer)) || (rc = task_special_tokens(work)))
        return rc;
    if (options->chat && !(rc = chat_model_open(&work->chat, &work->loader, work->tokenizer, options->template)))
        work->chat.chat.date = options->date;
    return rc;
}

/* Everything that can be wrong about data and options is found before the model is read. */
static int run(struct work *work, const char *model, const char *data)
{
    int rc;

    if ((rc = task_find(work, data)) || (rc = open_model(work, model)) || (rc = task_prompts(work)))
        return rc;
    if ((rc = work->task->generated ? task_generate(work) : task_score(work)))
        return rc;
    task_judge(work);
    for (size_t i = 0; i < work->questions; i++)
        if (!work->question[i].failed)
            return EX_OK;
    return fail(EX_DATAERR, "'%s': not one document could be counted: %s", data, work->question[0].failed);
}

static int run_with_samples(struct work *work, const char *model, const char *data)
{
    const char *samples = work->options->samples;
    struct output output;
    int rc;

    if (!samples)
        return run(work, model, data);
    if (!strcmp(samples, "-"))
        return fail(EX_USAGE, "--samples needs a file: the report goes to standard output");
    if (!(rc = output_open(&output, samples, false)) && !(rc = run(work, model, data))
        && !(rc = task_samples(work, &output)))
        rc = output_commit(&output);
    output_close(&output);
    return rc;
}

static struct work *work_begin(const char *name, const struct task_options *options)
{
    struct work *work = xcalloc(1, sizeof *work);

    *work = (struct work){.options = options};
    for (int t = 0; t < TASKS; t++)
        if (!strcmp(tasks[t].name, name))
            work->task = &tasks[t];
    if (!work->task)
        die(EX_SOFTWARE, "no task '%s'", name);
    work->shots = options->shots < 0 ? work->task->shots : options->shots;
    return work;
}

int task_check(const char *name, const char *data, const struct task_options *options)
{
    struct work *work = work_begin(name, options);
    int rc = task_find(work, data);

    work_close(work);
    free(work);
    return rc;
}

int task_run(const char *name, const struct measure *measure, const char *model, const char *data,
             const struct task_options *options, struct json **report)
{
    struct work *work = work_begin(name, options);
    struct stopwatch stopwatch;
    int rc;

    stopwatch_start(&stopwatch);
    *report = NULL;
    work->measure = measure;
    if (!(rc = run_with_samples(work, model, data)))
        *report = task_report(work, data, &stopwatch);
    work_close(work);
    free(work);
    return rc;
}
