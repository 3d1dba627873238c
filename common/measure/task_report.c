/* task_report.c - verdicts, means and standard errors, and a line for each document. */
#include "base/memory.h"
#include "measure/task_work.h"
#include "text/case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* numpy's argmax of scores, each divided by its choice's length in characters where normed. */
static int best_choice(const struct question *question, bool normed)
{
    const struct document *document = question->document;
    double most = -INFINITY;
    int best = 0;

    for (int c = 0; c < document->choices; c++) {
        const char *text = document->choice[c];
        double score = question->score[c] / (normed ? (double)unicode_count(text, strlen(text)) : 1);

        if (score > most) {
            most = score;
            best = c;
        }
    }
    return best;
}

void task_judge(struct work *work)
{
    const struct task *task = work->task;
    struct judge judge = {0};

    if (task->generated)
        judge_open(&judge, task->kind);
    for (size_t i = 0; i < work->questions; i++) {
        struct question *question = &work->question[i];

        for (int m = 0; task->metric[m] && !question->failed; m++) {
            struct text *filtered = &question->filtered[m];

            if (!task->generated) {
                question->verdict[m] = best_choice(question, m == 1) == question->document->gold;
                continue;
            }
            answer_filter(&judge, m, question->text.data, question->text.length, filtered);
            text_append(filtered, "", 0);
            question->verdict[m] = answer_matches(&judge, filtered->data, filtered->length, question->document);
        }
    }
    if (task->generated)
        judge_close(&judge);
}

struct tally {
    int64_t count, right;
};

static struct tally count_verdicts(const struct work *work, const struct part *part, int metric)
{
    struct tally tally = {0};

    for (size_t i = 0; i < work->questions; i++)
        if (!work->question[i].failed && (!part || work->question[i].part == part)) {
            tally.count++;
            tally.right += work->question[i].verdict[metric];
        }
    return tally;
}

static double mean(struct tally tally)
{
    return (double)tally.right / (double)tally.count;
}

/* Sample standard deviation / sqrt(n). */
static double mean_error(struct tally tally)
{
    return tally.count < 2 ? NAN : sqrt(mean(tally) * (1 - mean(tally)) / (double)(tally.count - 1));
}

static struct json *value_and_error(double value, double error)
{
    struct json *metric = json_make_object();

    json_put(metric, "value", json_make_number(value));
    json_put(metric, "stderr", json_make_number(error));
    return metric;
}

/* Where MMLU's subjects belong; the others are "other". */
static const char *const stem[] = {
    "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
    "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
    "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning", NULL,
};
static const char *const humanities[] = {
    "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
    "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
    "prehistory", "professional_law", "world_religions", NULL,
};
static const char *const social_sciences[] = {
    "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
    "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
    "public_relations", "security_studies", "sociology", "us_foreign_policy", NULL,
};
static const struct {
    const char *name;
    const char *const *subject;
} categories[] = {{"stem", stem}, {"humanities", humanities}, {"social_sciences", social_sciences}, {"other", NULL}};

static bool is_among(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name))
        names++;
    return *names;
}

static const char *category_of(const struct part *part)
{
    for (size_t i = 0; categories[i].subject; i++)
        if (is_among(part->subject, categories[i].subject))
            return categories[i].name;
    return "other";
}

/* Subjects weighted by size, and their pooled standard error (lm_eval/api/metrics.py, pooled_sample_stderr()); of one
 * category, or (NULL) of all. */
static struct json *pool(const struct work *work, const char *category)
{
    double squares = 0;
    int64_t count = 0, right = 0, subjects = 0;

    for (size_t p = 0; p < work->parts; p++) {
        struct tally tally = count_verdicts(work, &work->part[p], 0);
        double error = mean_error(tally);

        if (!tally.count || (category && strcmp(category_of(&work->part[p]), category)))
            continue;
        squares += (double)(tally.count - 1) * error * error * (double)tally.count;
        count += tally.count;
        right += tally.right;
        subjects++;
    }
    return value_and_error((double)right / (double)count, sqrt(squares / (double)(count - subjects) / (double)count));
}

static void put_subjects(const struct work *work, struct json *report)
{
    struct json *subjects = json_make_object(), *groups = json_make_object();

    for (size_t p = 0; p < work->parts; p++) {
        struct tally tally = count_verdicts(work, &work->part[p], 0);
        struct json *subject = json_make_object();

        json_put(subject, "acc", value_and_error(mean(tally), mean_error(tally)));
        json_put(subject, "count", json_make_int(tally.count));
        json_put(subjects, work->part[p].subject, subject);
    }
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        json_put(groups, categories[i].name, pool(work, categories[i].name));
    json_put(report, "categories", groups);
    json_put(report, "subjects", subjects);
}

static void put_failed(const struct work *work, struct json *report)
{
    struct json *failed = json_make_array();

    for (size_t i = 0; i < work->questions; i++) {
        const struct question *question = &work->question[i];
        struct json *entry;

        if (!question->failed)
            continue;
        entry = json_make_object();
        if (question->part->subject)
            json_put(entry, "subject", json_make_string(question->part->subject));
        json_put(entry, "document", json_make_int(question->number));
        json_put(entry, "reason", json_make_string(question->failed));
        json_append(failed, entry);
    }
    if (json_count(failed))
        warn("%zu of %zu documents failed and are not counted; the first: %s", json_count(failed), work->questions,
             json_as_string(json_at(json_item(failed, 0), "reason"), ""));
    json_put(report, "failed", failed);
}

struct json *task_report(const struct work *work, const char *data, const struct stopwatch *stopwatch)
{
    struct json *report = report_start(work->task->name), *metrics = json_make_object();
    const struct task_options *options = work->options;

    for (int m = 0; work->task->metric[m]; m++) {
        struct tally tally = count_verdicts(work, NULL, m);

        json_put(metrics, work->task->metric[m],
                 work->task->kind == TASK_MMLU ? pool(work, NULL) : value_and_error(mean(tally), mean_error(tally)));
    }
    json_put(report, "metrics", metrics);
    json_put(report, "count", json_make_int(count_verdicts(work, NULL, 0).count));
    put_failed(work, report);
    json_put(report, "shots", json_make_int(work->shots));
    json_put(report, "limit", options->limit < 0 ? json_make_null() : json_make_int(options->limit));
    json_put(report, "chat", options->chat ? json_make_string(chat_names[work->chat.chat.template]) : json_make_null());
    if (work->task->kind == TASK_MMLU)
        put_subjects(work, report);
    report_data(report, data, work->raw.data, work->raw.length);
    report_model(report, "model", &work->loader);
    report_finish(report, &work->loader, stopwatch, work->tokens);
    return report;
}

static struct json *make_text(const struct text *text)
{
    return json_make_stringn(text->data ? text->data : "", text->length);
}

static void put_choices(const struct question *question, struct json *line)
{
    struct json *choices = json_make_array();

    for (int c = 0; c < question->document->choices; c++) {
        struct json *choice = json_make_object();

        json_put(choice, "text", json_make_string(question->document->choice[c]));
        json_put(choice, "loglikelihood", question->failed ? json_make_null() : json_make_number(question->score[c]));
        json_append(choices, choice);
    }
    json_put(line, "choices", choices);
    json_put(line, "gold", json_make_int(question->document->gold));
}

static void put_text(const struct work *work, const struct question *question, struct json *line)
{
    struct json *filtered = json_make_object();
    struct judge judge;

    judge_open(&judge, work->task->kind);
    for (int m = 0; m < judge.filters && !question->failed; m++)
        json_put(filtered, judge.filter[m], make_text(&question->filtered[m]));
    judge_close(&judge);
    json_put(line, "text", make_text(&question->text));
    json_put(line, "filtered", filtered);
    json_put(line, "gold", json_make_strings((const char *const *)question->document->choice,
                                             question->document->choices));
}

static struct json *make_line(const struct work *work, const struct question *question)
{
    struct json *line = json_make_object(), *verdicts = json_make_object();

    if (question->part->subject)
        json_put(line, "subject", json_make_string(question->part->subject));
    json_put(line, "document", json_make_int(question->number));
    json_put(line, "prompt", json_make_string(question->prompt));
    if (work->task->generated)
        put_text(work, question, line);
    else
        put_choices(question, line);
    for (int m = 0; work->task->metric[m] && !question->failed; m++)
        json_put(verdicts, work->task->metric[m], json_make_bool(question->verdict[m]));
    json_put(line, "verdicts", verdicts);
    json_put(line, "failed", question->failed ? json_make_string(question->failed) : json_make_null());
    return line;
}

int task_samples(const struct work *work, struct output *output)
{
    int rc = EX_OK;

    for (size_t i = 0; i < work->questions && !rc; i++) {
        struct json *line = make_line(work, &work->question[i]);
        char *text = json_write(line, 0);

        rc = output_write(output, text, strlen(text));
        if (!rc)
            rc = output_write(output, "\n", 1);
        free(text);
        json_drop(line);
    }
    return rc;
}
