/* heal - train what was cut of a model: cores, scales and norms, on a text, to be like the dense model again. */
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/options.h"
#include "base/progress.h"
#include "measure/calibration_text.h"
#include "measure/passage.h"
#include "operator/filter.h"
#include "train/store.h"
#include "train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TEACHER = 1, KEY_LOSS, KEY_MIX, KEY_TRAIN, KEY_STEPS, KEY_BATCH, KEY_CONTEXT, KEY_ACCUMULATE, KEY_RATE,
       KEY_SCHEDULE, KEY_WARMUP, KEY_CLIP, KEY_DECAY, KEY_BETAS, KEY_MEMORY, KEY_LOG, KEY_DTYPE };

enum { CONTEXT_HEAL = 256 };

static const struct {
    const char *name;
    unsigned classes;
} classes[] = {{"cores", TRAIN_CORES}, {"norms", TRAIN_NORMS}, {"scales", TRAIN_SCALES}, {"matrices", TRAIN_MATRICES},
               {"all", TRAIN_ALL}};

static struct {
    const char *model, *data, *teacher, *log;
    struct training training;
    unsigned classes;
    int64_t batch, accumulate;
    int64_t context;             /* 0: CONTEXT_HEAL, or what the model takes */
    bool loss_given, mix_given;
    int dtype;                   /* in dtype_float_names; -1: as it is stored */
} options = {.batch = 8, .accumulate = 1, .dtype = -1};

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "What is learnt:", 1},
    {"teacher", KEY_TEACHER, "DENSE", 0, "the dense model, of the same vocabulary", 1},
    {"loss", KEY_LOSS, "LOSS", 0, "kl: the divergence from the teacher's predictions (the default with --teacher); ce: "
     "the cross entropy of the next token (the default without); mix: of both", 1},
    {"mix", KEY_MIX, "W", 0, "of --loss mix: W times ce, 1 - W times kl (default: 0.5)", 1},
    {"train", KEY_TRAIN, "LIST", 0, "what is trained: cores, norms, scales of packed cores, matrices that are whole, "
     "joined by commas, or all: the first three (the default)", 1},
    {NULL, 0, NULL, 0, "How long:", 2},
    {"steps", KEY_STEPS, "N", 0, "N steps (default: 100); where the text has too few windows, they come again", 2},
    {"batch", KEY_BATCH, "N", 0, "of N windows that go through the model together (default: 8)", 2},
    {"context", KEY_CONTEXT, "N", 0, "of N tokens (default: 256, or the model's maximum if that is smaller)",
     2},
    {"accumulate", KEY_ACCUMULATE, "N", 0, "N such batches to a step (default: 1)", 2},
    {NULL, 0, NULL, 0, "The optimizer, AdamW:", 3},
    {"lr", KEY_RATE, "RATE", 0, "the highest learning rate (default: 0.001)", 3},
    {"schedule", KEY_SCHEDULE, "NAME", 0, "how it goes on from there: cosine (the default) or linear, down to 0, or "
     "constant", 3},
    {"warmup", KEY_WARMUP, "N", 0, "rise to it over N steps (default: 10)", 3},
    {"clip", KEY_CLIP, "NORM", 0, "cut the gradient down to this norm; 0: never (default: 1)", 3},
    {"weight-decay", KEY_DECAY, "D", 0, "of cores and matrices; norms and scales have none (default: 0)", 3},
    {"betas", KEY_BETAS, "B1,B2", 0, "decay of the gradient's and the square's averages (default: 0.9,0.95)", 3},
    {NULL, 0, NULL, 0, "Of all:", 4},
    {"dtype", KEY_DTYPE, "TYPE", 0, "store trained cores and norms as f32, f16 or bf16 (default: as they were; packed "
     "ones are rounded to nearest)", 4},
    {"memory", KEY_MEMORY, "SIZE", 0, "spend up to SIZE bytes on results that would otherwise be computed twice "
     "(default: 1G)", 4},
    {"log", KEY_LOG, "FILE", 0, "write a line of JSON for each step", 4},
    {0},
};

static unsigned parse_classes(const char *value)
{
    char *list = xstrdup(value), *rest = list, *word;
    unsigned result = 0;

    while ((word = strsep(&rest, ","))) {
        unsigned found = 0;

        for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
            found |= !strcmp(word, classes[i].name) ? classes[i].classes : 0;
        if (!found)
            die(EX_USAGE, "--train: '%s' is not one of cores, norms, scales, matrices, all", word);
        result |= found;
    }
    free(list);
    return result;
}

static void parse_betas(char *value)
{
    char *second = strchr(value, ',');

    if (!second)
        die(EX_USAGE, "--betas: '%s' is not two numbers, such as 0.9,0.95", value);
    *second++ = '\0';
    options.training.beta1 = option_real("--betas", value, 0, 0.9999999);
    options.training.beta2 = option_real("--betas", second, 0, 0.9999999);
}

static void check(void)
{
    if (!options.data)
        die(EX_USAGE, "a model and a text are needed: heal MODEL DATA");
    if (!options.loss_given)
        options.training.loss = options.teacher ? LOSS_KL : LOSS_CE;
    if (options.training.loss != LOSS_CE && !options.teacher)
        die(EX_USAGE, "--loss %s needs --teacher", loss_names[options.training.loss]);
    if (options.training.loss == LOSS_CE && options.teacher)
        die(EX_USAGE, "--loss ce has no use for --teacher");
    if (options.mix_given && options.training.loss != LOSS_MIX)
        die(EX_USAGE, "--mix needs --loss mix");
    if (!options.classes)
        options.classes = TRAIN_ALL;
    if (!strcmp(options.model, "-"))
        die(EX_USAGE, "the model can't come from standard input: it is read twice");
}

static error_t parse_training(int key, const char *value)
{
    struct training *t = &options.training;

    switch (key) {
    case KEY_LOSS:
        options.loss_given = true;
        return t->loss = (enum loss)option_word("--loss", value, loss_names), 0;
    case KEY_MIX:
        options.mix_given = true;
        return t->cross_weight = option_real("--mix", value, 0, 1), 0;
    case KEY_STEPS:
        return t->steps = option_int("--steps", value, 1, 1 << 30), 0;
    case KEY_RATE:
        return t->rate = option_real("--lr", value, 0, 1e30), 0;
    case KEY_SCHEDULE:
        return t->schedule = (enum schedule)option_word("--schedule", value, schedule_names), 0;
    case KEY_WARMUP:
        return t->warmup = option_int("--warmup", value, 0, 1 << 30), 0;
    case KEY_CLIP:
        return t->clip = option_real("--clip", value, 0, 1e30), 0;
    case KEY_DECAY:
        return t->decay = option_real("--weight-decay", value, 0, 1e3), 0;
    case KEY_MEMORY:
        return t->memory = option_size("--memory", value, 0), 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case KEY_TEACHER:
        return options.teacher = value, 0;
    case KEY_TRAIN:
        return options.classes = parse_classes(value), 0;
    case KEY_BATCH:
        return options.batch = option_int("--batch", value, 1, 1 << 20), 0;
    case KEY_CONTEXT:
        return options.context = option_int("--context", value, 2, INT32_MAX), 0;
    case KEY_ACCUMULATE:
        return options.accumulate = option_int("--accumulate", value, 1, 1 << 20), 0;
    case KEY_BETAS:
        return parse_betas(value), 0;
    case KEY_DTYPE:
        return options.dtype = option_word("--dtype", value, dtype_float_names), 0;
    case KEY_LOG:
        return options.log = value, 0;
    case ARGP_KEY_ARG:
        if (options.data)
            return ARGP_ERR_UNKNOWN;
        *(options.model ? &options.data : &options.model) = value;
        return 0;
    case ARGP_KEY_END:
        return check(), 0;
    default:
        return parse_training(key, value);
    }
}

static const struct program program = {
    .name = "heal",
    .operands = "MODEL DATA",
    .purpose = "Train what was cut of a model, on a text, to be like the dense model again.",
    .details = "MODEL is a directory, a GGUF file or a stream; DATA a text, or JSON lines as calibrate reads them, '-' "
               "for standard input, of which windows are drawn by --seed. A tensor stream of the model goes to "
               "standard output, with what was trained in place of what it was; all else is as it came. The "
               "embedding, and a head that is the embedding, are never trained.",
    .example = "  mpo-decompose model --chi 8 -o cut.tns\n"
               "  echo 'Once upon a time, there was a girl named Lily.' > text\n"
               "  heal cut.tns text --teacher model --steps 3 --context 8 -o healed.tns",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_SEED | OPTION_MATCH | OPTION_DEVICE,
};

struct job {
    const struct device *device;
    struct selection selection;
    struct network student, teacher;
    struct calibration_text text;
    struct parameters parameters;
    struct trainer trainer;
    struct json *about;          /* of the text, for the history */
    struct output log;
    int64_t window;              /* the next one */
    double start;                /* seconds */
    int64_t tokens;              /* since then */
};

static int load(struct network *network, const char *path, const struct device *device, struct selection *selection,
                struct job *job)
{
    struct loader loader;
    struct calibration_text_options text = {
        .sequences = options.training.steps * options.batch * options.accumulate, .drawn = true,
        .seed = common_options.seed};
    int rc = loader_open(&loader, path, device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    if (!options.context)
        options.context = least(CONTEXT_HEAL, loader.config.max_position);
    text.context = options.context;
    if (selection) {             /* the student, whose tokenizer reads the text */
        loader.train = selection_classes;
        loader.train_context = selection;
        if (!(rc = calibration_text_open(&job->text, options.data, &loader, &text)))
            job->about = calibration_text_history(&job->text, options.data, &text);
    } else if (options.context > loader.config.max_position)
        rc = fail(EX_USAGE, "--context: %lld, but the teacher '%s' has %lld positions", (long long)options.context,
                  loader_name(&loader), (long long)loader.config.max_position);
    if (!rc)
        rc = network_load(network, &loader);
    loader_close(&loader);
    return rc;
}

static int write_log(struct job *job, const struct stepped *s)
{
    struct json *line = json_make_object();
    char *text;
    int rc;

    if (!options.log)
        return json_drop(line), EX_OK;
    json_put(line, "step", json_make_int(job->trainer.step));
    json_put(line, "loss", json_make_number(s->loss));
    json_put(line, "cross_entropy", json_make_number(s->cross));
    json_put(line, "divergence", json_make_number(s->divergence));
    json_put(line, "gradient_norm", json_make_number(s->norm));
    json_put(line, "learning_rate", json_make_number(s->rate));
    json_put(line, "counted_tokens", json_make_int(s->counted));
    json_put(line, "seconds", json_make_number(clock_seconds() - job->start));
    text = json_write(line, 0);
    rc = output_write(&job->log, text, strlen(text));
    rc = rc ? rc : output_write(&job->log, "\n", 1);
    free(text);
    json_drop(line);
    return rc;
}

/* The line that shows how far it has come, and a message of each step with --verbose. */
static void show(struct job *job, const struct stepped *s)
{
    static char label[96];
    double speed = (double)job->tokens / (clock_seconds() - job->start);
    int64_t left = options.training.steps - job->trainer.step;
    double per_step = (clock_seconds() - job->start) / (double)job->trainer.step;

    snprintf(label, sizeof label, "loss %.4f, rate %.2g, %.0f tokens/s, %.0f s left", s->loss, s->rate, speed,
             per_step * (double)left);
    progress_step(label);
    inform("step %lld: loss %.4f, gradient %.3g, rate %.3g, %.0f tokens/s", (long long)job->trainer.step, s->loss,
           s->norm, s->rate, speed);
}

/* The next windows, in the order in which they were drawn, and again from the first one. */
static void add_batch(struct job *job)
{
    struct micro_batch batch = {.sequences = (int)options.batch};
    int64_t *length = xmallocarray((size_t)options.batch, sizeof *length), total = 0;
    int32_t *token = xmallocarray((size_t)(options.batch * job->text.context), sizeof *token);

    for (int64_t i = 0; i < options.batch; i++) {
        const struct sequence *window = &job->text.sequence[job->window++ % job->text.count];

        memcpy(token + total, window->token, (size_t)window->n * sizeof *token);
        length[i] = window->n;
        total += window->n;
    }
    batch.token = token;
    batch.length = length;
    trainer_add(&job->trainer, &batch);
    job->tokens += total;
    free(length);
    free(token);
}

static int train(struct job *job)
{
    struct stepped stepped;
    int rc = EX_OK;

    progress_start("healing", options.training.steps);
    job->start = clock_seconds();
    while (!rc && job->trainer.step < options.training.steps) {
        for (int64_t i = 0; i < options.accumulate; i++)
            add_batch(job);
        if (!(rc = trainer_step(&job->trainer, &stepped)) && !(rc = write_log(job, &stepped)))
            show(job, &stepped);
    }
    progress_stop();
    return rc;
}

static int prepare(struct job *job)
{
    const char *const inputs[] = {options.data, options.teacher};
    int rc = passage_one_stream(inputs, options.teacher ? 2 : 1);

    job->selection = (struct selection){options.classes, &common_options.match};
    if (!rc && options.log)
        rc = output_open(&job->log, options.log, false);
    if (rc || (rc = load(&job->student, options.model, job->device, &job->selection, job))
        || (options.teacher && (rc = load(&job->teacher, options.teacher, job->device, NULL, job)))
        || (rc = parameters_open(&job->parameters, &job->student, &job->selection)))
        return rc;
    inform("%lld numbers are trained: %lld of cores, %lld of matrices, %lld scales, %lld of norms",
           (long long)parameters_count(&job->parameters, ~0u),
           (long long)parameters_count(&job->parameters, TRAIN_CORES),
           (long long)parameters_count(&job->parameters, TRAIN_MATRICES),
           (long long)parameters_count(&job->parameters, TRAIN_SCALES),
           (long long)parameters_count(&job->parameters, TRAIN_NORMS));
    return trainer_open(&job->trainer, &job->student, options.teacher ? &job->teacher : NULL, &job->parameters,
                        &options.training);
}

/* ---- the model, with what was trained ---- */

static const struct dtype *stored_dtype(void)
{
    static struct dtype dtype;

    if (options.dtype < 0)
        return NULL;
    dtype_parse(dtype_float_names[options.dtype], &dtype);
    return &dtype;
}

static bool wants(void *context, const struct record *record)
{
    return store_wants(&((struct job *)context)->parameters, record->name);
}

static int change(void *context, struct operator *op)
{
    return store_operator(&((struct job *)context)->parameters, op, stored_dtype());
}

static int change_tensor(void *context, const char *name, struct tensor *tensor)
{
    return store_vector(&((struct job *)context)->parameters, name, tensor, stored_dtype());
}

static struct json *history(const struct job *job)
{
    const struct training *t = &options.training;
    struct json *about = json_clone(job->about), *trained = json_make_array();

    for (size_t i = 0; i + 1 < sizeof classes / sizeof *classes; i++)
        if (options.classes & classes[i].classes)
            json_append(trained, json_make_string(classes[i].name));
    json_put(about, "train", trained);
    json_put(about, "loss", json_make_string(loss_names[t->loss]));
    if (t->loss == LOSS_MIX)
        json_put(about, "mix", json_make_number(t->cross_weight));
    json_put(about, "steps", json_make_int(t->steps));
    json_put(about, "batch", json_make_int(options.batch));
    json_put(about, "accumulate", json_make_int(options.accumulate));
    json_put(about, "lr", json_make_number(t->rate));
    json_put(about, "schedule", json_make_string(schedule_names[t->schedule]));
    json_put(about, "warmup", json_make_int(t->warmup));
    json_put(about, "clip", json_make_number(t->clip));
    json_put(about, "weight_decay", json_make_number(t->decay));
    json_put(about, "beta1", json_make_number(t->beta1));
    json_put(about, "beta2", json_make_number(t->beta2));
    if (options.dtype >= 0)
        json_put(about, "dtype", json_make_string(dtype_float_names[options.dtype]));
    return about;
}

static int write_model(struct job *job)
{
    common_options.input = options.model;
    return filter_run(&(struct filter){.program = program.name, .doing = "writing", .options = history(job),
                                       .wants = wants, .change = change, .wants_tensor = wants,
                                       .change_tensor = change_tensor, .context = job});
}

int main(int argc, char **argv)
{
    struct job job = {.log.fd = -1};
    int rc;

    options.training = training_usual;
    options_parse(&program, argc, argv);
    if ((rc = device_choose(common_options.device, &job.device)))
        return rc;
    if (!(rc = prepare(&job)) && !(rc = train(&job)) && !(rc = write_model(&job)) && options.log)
        rc = output_commit(&job.log);
    output_close(&job.log);
    trainer_close(&job.trainer);
    parameters_close(&job.parameters);
    network_free(&job.student);
    network_free(&job.teacher);
    calibration_text_close(&job.text);
    json_drop(job.about);
    return rc;
}
