/* evaluate - what a model still does: perplexity, distance from a reference, benchmarks; one JSON object. */
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "fit/plan.h"
#include "measure/perplexity.h"
#include "measure/sensitivity.h"
#include "measure/tasks.h"
#include "measure/teacher_logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_CONTEXT = 1, KEY_STRIDE, KEY_LIMIT_TOKENS, KEY_HF_ROWS, KEY_ROLLING, KEY_SHOTS, KEY_LIMIT, KEY_CHAT,
       KEY_TEMPLATE, KEY_DATE, KEY_TRAIN, KEY_SAMPLES, KEY_BATCH, KEY_CHI, KEY_KEEP, KEY_BITS,
       KEY_GROUP, KEY_BY, KEY_MOMENTS, KEY_MEMORY, KEY_TOP, KEY_DTYPE, KEY_ALL, N_KEY };

/* What is measured, as bits, for the options that belong to it. */
enum { PERPLEXITY = 1, ROLLING = 2, KL = 4, TASK = 8, ALL = 16, SENSITIVITY = 32, LOGITS = 64, ANY = 127 };

enum { SETTINGS = 64 };                  /* the most that a unit is compressed to */

static struct {
    const char *what, **operand; /* [n_operand] */
    int n_operand;
    bool given[N_KEY], rolling;
    struct text_options text;
    struct rolling_options rolled;
    struct task_options task;
    struct sensitivity_options sensitivity;
    struct sensitivity_setting setting[SETTINGS];
    struct teacher_options teacher;
    int group;
    struct measure measure;
} options = {
    .rolled.limit = -1, .group = 64, .task = {.shots = -1, .limit = -1, .batch = 8}, .measure.memory = 1 << 30,
    .teacher.top = 64,
};

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "Of perplexity and kl:", 1},
    {"context", KEY_CONTEXT, "N", 0, "tokens of a window (default: 2048, or the model's maximum if that is "
     "smaller; with --rolling the model's maximum)", 1},
    {"stride", KEY_STRIDE, "N", 0, "begin a window every N tokens and score what the one before did not (default: the "
     "context, no overlap)", 1},
    {"limit-tokens", KEY_LIMIT_TOKENS, "N", 0, "only the first N tokens of the text", 1},
    {"hf-rows", KEY_HF_ROWS, NULL, 0, "join the text's lines with empty lines, as papers join WikiText's rows", 1},
    {"rolling", KEY_ROLLING, NULL, 0, "of perplexity: lm-evaluation-harness's task wikitext, word perplexity of whole "
     "documents; TEXT is wiki.test.raw, or JSON lines with \"page\"", 1},
    {NULL, 0, NULL, 0, "Of the benchmarks:", 2},
    {"shots", KEY_SHOTS, "N", 0, "examples before each question (default: the benchmark's own)", 2},
    {"limit", KEY_LIMIT, "N", 0, "only the first N documents (of each subject of mmlu; of --rolling and logits, too)", 2},
    {"chat", KEY_CHAT, NULL, 0, "ask in the model's chat template", 2},
    {"template", KEY_TEMPLATE, "NAME", 0, "with --chat: use this template", 2},
    {"date", KEY_DATE, "DATE", 0, "with --chat: the date that some templates state (default: today)", 2},
    {"train", KEY_TRAIN, "FILE", 0, "take the examples from here (default: looked for beside the data)", 2},
    {"samples", KEY_SAMPLES, "FILE", 0, "write a JSON line for each document: prompt, scores or text, verdict", 2},
    {"batch", KEY_BATCH, "N", 0, "generate N answers side by side (default: 8)", 2},
    {NULL, 0, NULL, 0, "Of sensitivity:", 3},
    {"chi", KEY_CHI, "N,...", 0, "cut to matrix SVDs of these ranks", 3},
    {"keep", KEY_KEEP, "R,...", 0, "cut to matrix SVDs that keep these parts of a matrix's parameters", 3},
    {"bits", KEY_BITS, "N,...", 0, "round to these numbers of bits", 3},
    {"group", KEY_GROUP, "N", 0, "with --bits: codes that share a scale (default: 64)", 3},
    {"by", KEY_BY, "UNIT", 0, "compress one matrix at a time (the default), one block, or one kind of matrix", 3},
    {"moments", KEY_MOMENTS, "FILE", 0, "fit for what the layers see (calibrate)", 3},
    {NULL, 0, NULL, 0, "Of logits:", 4},
    {"top", KEY_TOP, "K", 0, "write the K largest of each token (default: 64); windows have --context tokens (default: "
     "256), conversations --template and --date, as of heal", 4},
    {"dtype", KEY_DTYPE, "TYPE", 0, "as f32 (the default) or f16", 4},
    {"all", KEY_ALL, NULL, 0, "of everything in conversations, as heal --all", 4},
    {NULL, 0, NULL, 0, "Of all:", 5},
    {"memory", KEY_MEMORY, "SIZE", 0, "keep up to SIZE bytes of hidden states in memory, more in $TMPDIR (default: "
     "1G)", 5},
    {0},
};

/* What each option belongs to. */
static const struct {
    const char *name;
    int of;
} belongs[N_KEY] = {
    [KEY_CONTEXT] = {"context", PERPLEXITY | ROLLING | KL | ALL | SENSITIVITY | LOGITS},
    [KEY_STRIDE] = {"stride", PERPLEXITY | KL | ALL | SENSITIVITY},
    [KEY_LIMIT_TOKENS] = {"limit-tokens", PERPLEXITY | KL | ALL | SENSITIVITY},
    [KEY_HF_ROWS] = {"hf-rows", PERPLEXITY | KL | ALL | SENSITIVITY},
    [KEY_ROLLING] = {"rolling", ROLLING}, [KEY_SHOTS] = {"shots", TASK | ALL},
    [KEY_LIMIT] = {"limit", TASK | ALL | ROLLING | LOGITS}, [KEY_CHAT] = {"chat", TASK | ALL},
    [KEY_TEMPLATE] = {"template", TASK | ALL | LOGITS}, [KEY_DATE] = {"date", TASK | ALL | LOGITS},
    [KEY_TRAIN] = {"train", TASK}, [KEY_TOP] = {"top", LOGITS}, [KEY_DTYPE] = {"dtype", LOGITS},
    [KEY_ALL] = {"all", LOGITS},
    [KEY_SAMPLES] = {"samples", TASK}, [KEY_BATCH] = {"batch", TASK | ALL},
    [KEY_CHI] = {"chi", SENSITIVITY}, [KEY_KEEP] = {"keep", SENSITIVITY}, [KEY_BITS] = {"bits", SENSITIVITY},
    [KEY_GROUP] = {"group", SENSITIVITY}, [KEY_BY] = {"by", SENSITIVITY}, [KEY_MOMENTS] = {"moments", SENSITIVITY},
    [KEY_MEMORY] = {"memory", ANY},
};

static int kind_of(const char *what)
{
    if (!strcmp(what, "perplexity"))
        return options.rolling ? ROLLING : PERPLEXITY;
    if (!strcmp(what, "kl"))
        return KL;
    if (!strcmp(what, "all"))
        return ALL;
    if (!strcmp(what, "sensitivity"))
        return SENSITIVITY;
    if (!strcmp(what, "logits"))
        return LOGITS;
    for (int i = 0; task_names[i]; i++)
        if (!strcmp(what, task_names[i]))
            return TASK;
    return 0;
}

static _Noreturn void unknown(const char *what)
{
    struct text names = {0};

    for (int i = 0; task_names[i]; i++)
        text_format(&names, ", %s", task_names[i]);
    die(EX_USAGE, "'%s' can't be measured; there are perplexity, kl%s, all, sensitivity, logits", what, names.data);
}

static void check_operands(int kind)
{
    const char *operands = kind == KL ? "MODEL REFERENCE TEXT" : kind == TASK ? "MODEL DATA" :
                           kind == ALL ? "MODEL DATADIR" : kind == LOGITS ? "MODEL DATA..." : "MODEL TEXT";
    int needed = kind == KL ? 3 : 2;

    if (options.n_operand < needed)
        die(EX_USAGE, "%d operands are needed: evaluate %s %s", needed, options.what, operands);
    if (options.n_operand > needed && kind != LOGITS)
        die(EX_USAGE, "unexpected operand '%s'", options.operand[needed]);
    if ((kind == TASK || kind == ALL) && !strcmp(options.operand[1], "-"))
        die(EX_USAGE, "%s: the data must be a %s, not standard input", options.what, kind == ALL ? "directory" :
            "file or directory");
    if ((kind == ALL || kind == SENSITIVITY) && !strcmp(options.operand[0], "-"))
        die(EX_USAGE, "%s: a model on standard input can be read once only; write it to a file first", options.what);
}

static void check_sensitivity(void)
{
    options.sensitivity.text = options.text;
    options.sensitivity.setting = options.setting;
    if (!options.sensitivity.n_setting)
        die(EX_USAGE, "sensitivity: --chi, --keep or --bits says what is tried");
    if (options.given[KEY_GROUP] && !options.given[KEY_BITS])
        die(EX_USAGE, "--group needs --bits");
    for (int i = 0; i < options.sensitivity.n_setting; i++)
        options.setting[i].dtype.group = options.group;
}

static void check(void)
{
    int kind;

    if (!options.what)
        die(EX_USAGE, "what is to be measured? evaluate perplexity MODEL TEXT, say (--help lists all)");
    if (!(kind = kind_of(options.what)))
        unknown(options.what);
    for (int key = 1; key < N_KEY; key++)
        if (options.given[key] && !(belongs[key].of & kind))
            die(EX_USAGE, "--%s doesn't belong to %s%s", belongs[key].name, options.what,
                kind == ROLLING ? " --rolling" : "");
    if ((options.task.template || options.task.date) && !options.task.chat && kind != LOGITS)
        die(EX_USAGE, "--%s needs --chat", options.task.template ? "template" : "date");
    check_operands(kind);
    if (kind == SENSITIVITY)
        check_sensitivity();
}

/* A list of ranks, parts or bits; what it takes to is added to the settings. */
static void take_settings(int key, char *list)
{
    const char *option = belongs[key].name;
    char *item;

    while ((item = strsep(&list, ","))) {
        struct plan_line line = {0};
        const char *expected = plan_set(&line, option, item);
        struct sensitivity_setting setting = {.chi = line.chi, .keep = line.keep,
                                              .dtype = {.kind = DTYPE_GROUP, .bits = line.bits, .zero = ZERO_MIN}};

        if (expected)
            die(EX_USAGE, "--%s: '%s' is not %s", option, item, expected);
        if (options.sensitivity.n_setting == SETTINGS)
            die(EX_USAGE, "sensitivity: more than %d settings", SETTINGS);
        for (int i = 0; i < options.sensitivity.n_setting; i++)
            if (options.setting[i].chi == setting.chi && options.setting[i].dtype.bits == setting.dtype.bits
                && fabs(options.setting[i].keep - setting.keep) <= 0)
                die(EX_USAGE, "--%s: %s stands twice", option, item);
        options.setting[options.sensitivity.n_setting++] = setting;
    }
}

static void take_operand(char *value)
{
    if (!options.what)
        options.what = value;
    else {
        options.operand = xreallocarray(options.operand, (size_t)options.n_operand + 1, sizeof *options.operand);
        options.operand[options.n_operand++] = value;
    }
}

static error_t parse_logits(int key, const char *value)
{
    switch (key) {
    case KEY_TOP:
        return options.teacher.top = option_int("--top", value, 1, INT32_MAX), 0;
    case KEY_DTYPE:
        return options.teacher.dtype = option_word("--dtype", value, (const char *const[]){"f32", "f16", NULL}), 0;
    case KEY_ALL:
        return options.teacher.whole = true, 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key > 0 && key < N_KEY)
        options.given[key] = true;
    switch (key) {
    case KEY_CONTEXT:
        options.text.context = options.rolled.context = option_int("--context", value, 2, INT32_MAX);
        return options.teacher.context = options.text.context, 0;
    case KEY_STRIDE:
        options.text.stride = option_int("--stride", value, 1, INT32_MAX);
        return 0;
    case KEY_LIMIT_TOKENS:
        options.text.limit_tokens = option_int("--limit-tokens", value, 2, INT64_MAX);
        return 0;
    case KEY_HF_ROWS:
        return options.text.hf_rows = true, 0;
    case KEY_ROLLING:
        return options.rolling = true, 0;
    case KEY_SHOTS:
        options.task.shots = option_int("--shots", value, 0, 1000);
        return 0;
    case KEY_LIMIT:
        options.task.limit = options.rolled.limit = options.teacher.limit = option_int("--limit", value, 1, INT64_MAX);
        return 0;
    case KEY_CHAT:
        return options.task.chat = true, 0;
    case KEY_TEMPLATE:
        return options.teacher.template = options.task.template = value, 0;
    case KEY_DATE:
        return options.teacher.date = options.task.date = value, 0;
    case KEY_TRAIN:
        return options.task.train = value, 0;
    case KEY_SAMPLES:
        return options.task.samples = value, 0;
    case KEY_BATCH:
        options.task.batch = option_int("--batch", value, 1, 1024);
        return 0;
    case KEY_CHI:
    case KEY_KEEP:
    case KEY_BITS:
        return take_settings(key, value), 0;
    case KEY_GROUP:
        return options.group = (int)option_int("--group", value, 1, 1 << 20), 0;
    case KEY_BY:
        options.sensitivity.by = (enum sensitivity_by)option_word("--by", value, sensitivity_by_names);
        return 0;
    case KEY_MOMENTS:
        return options.sensitivity.moments = value, 0;
    case KEY_MEMORY:
        options.measure.memory = option_size("--memory", value, 0);
        return 0;
    case ARGP_KEY_ARG:
        return take_operand(value), 0;
    case ARGP_KEY_END:
        return check(), 0;
    default:
        return parse_logits(key, value);
    }
}

static const struct program program = {
    .name = "evaluate",
    .operands = "perplexity MODEL TEXT\nkl MODEL REFERENCE TEXT\nhellaswag|boolq|mmlu|triviaqa|gsm8k MODEL DATA\n"
                "all MODEL DATADIR\nsensitivity MODEL TEXT\nlogits MODEL DATA...",
    .purpose = "Measure a model: perplexity, KL divergence from a reference, benchmarks.",
    .details = "Models are directories, GGUF files or streams, '-' for one on standard input; so is TEXT where no "
               "model is. A JSON object goes to standard output. Benchmarks are lm-evaluation-harness's, from the "
               "official files of their data; `all` runs the five and the perplexity of DATADIR/wiki.test.raw, one "
               "after the other, so that its MODEL can't be standard input.\n\n"
               "Perplexity: the text is tokenized once and cut into windows of the context length; the first token of "
               "each isn't scored, and what fills no window at the end is left out. Standard errors are over "
               "windows.\n\n"
               "Sensitivity: one unit after the other is compressed alone, and the changed model is held against the "
               "unchanged one; a JSON line for each unit and setting. Lines are appended to --output, and what is "
               "there already isn't measured again. MODEL can't be standard input.\n\n"
               "Logits: what the model predicts behind each token of DATA, texts cut as heal cuts them, as a stream "
               "for heal --teacher-logits.",
    .example = "  echo 'Once upon a time, there was a girl.' | evaluate perplexity model -\n"
               "  echo 'Once upon a time, there was a girl.' > text\n"
               "  extract-layer model | quantize --bits 4 | evaluate kl - model text\n"
               "  evaluate logits model text --top 8 --context 8 -o teacher.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_DEVICE | OPTION_ACTIVATIONS,
};

/* A line for people: "boolq: acc 0.6213 +- 0.0085 on 3270 documents". */
static void tell_metrics(const struct json *report)
{
    struct json *metrics = json_at(report, "metrics");
    struct text line = {0};

    for (void *m = json_first(metrics); m; m = json_following(metrics, m)) {
        double error = json_as_real(json_at(json_value(m), "stderr"), NAN);

        text_format(&line, "%s %s %.4f", line.length ? "," : "", json_key(m),
                    json_as_real(json_at(json_value(m), "value"), NAN));
        if (isfinite(error))
            text_format(&line, " +- %.4f", error);
    }
    note("%s:%s on %lld documents", json_as_string(json_at(report, "task"), ""), line.data ? line.data : "",
         (long long)json_as_int(json_at(report, "count"), 0));
    text_free(&line);
}

static int run_task(const char *name, const char *model, const char *data, struct json **report)
{
    int rc = task_run(name, &options.measure, model, data, &options.task, report);

    if (!rc)
        tell_metrics(*report);
    return rc;
}

static int run_all(const char *model, const char *data, struct json **report)
{
    char *text = file_join(data, "wiki.test.raw");
    struct json *one;
    int64_t size;
    int fd, rc = file_open(text, &fd, &size);

    if (!rc)
        close(fd);
    for (int i = 0; task_names[i] && !rc; i++)           /* all that can be missing, before hours of work for nothing */
        rc = task_check(task_names[i], data, &options.task);
    if (!rc)
        rc = perplexity_run(&options.measure, model, text, &options.text, &one);
    free(text);
    *report = json_make_object();
    json_put(*report, "task", json_make_string("all"));
    if (!rc)
        json_put(*report, "perplexity", one);
    for (int i = 0; task_names[i] && !rc; i++)
        if (!(rc = run_task(task_names[i], model, data, &one)))
            json_put(*report, task_names[i], one);
    return rc;
}

static int run(struct json **report)
{
    const char *model = options.operand[0], *second = options.operand[1];

    switch (kind_of(options.what)) {
    case PERPLEXITY:
        return perplexity_run(&options.measure, model, second, &options.text, report);
    case ROLLING:
        return rolling_run(&options.measure, model, second, &options.rolled, report);
    case KL:
        return divergence_run(&options.measure, model, second, options.operand[2], &options.text, report);
    case ALL:
        return run_all(model, second, report);
    default:
        return run_task(options.what, model, second, report);
    }
}

static int print_report(void)
{
    struct output output;
    struct json *report = NULL;
    char *text;
    int rc = output_open(&output, common_options.output, false);

    if (!rc && !(rc = run(&report))) {
        text = json_document(report);
        if (!(rc = output_write(&output, text, strlen(text))))
            rc = output_commit(&output);
        free(text);
    }
    output_close(&output);
    json_drop(report);
    return rc;
}

int main(int argc, char **argv)
{
    int rc;

    options_parse(&program, argc, argv);
    options.measure.activations = (enum activations)common_options.activations;
    if ((rc = device_choose(common_options.device, &options.measure.device)))
        return rc;
    switch (kind_of(options.what)) {
    case SENSITIVITY:
        return sensitivity_run(&options.measure, options.operand[0], options.operand[1], &options.sensitivity,
                               common_options.output);
    case LOGITS:
        return teacher_logits_write(&options.measure, options.operand[0], options.operand + 1, options.n_operand - 1,
                                    &options.teacher, common_options.output);
    default:
        return print_report();
    }
}
