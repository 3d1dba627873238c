/* heal - train what was cut of a model: cores, scales and norms, on a text, to be like the dense model again. */
#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/options.h"
#include "measure/healing.h"
#include "measure/passage.h"
#include "operator/filter.h"
#include "train/store.h"
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TEACHER = 1, KEY_LOSS, KEY_MIX, KEY_TRAIN, KEY_STEPS, KEY_BATCH, KEY_CONTEXT, KEY_ACCUMULATE, KEY_RATE,
       KEY_SCHEDULE, KEY_WARMUP, KEY_CLIP, KEY_DECAY, KEY_BETAS, KEY_MEMORY, KEY_LOG, KEY_DTYPE, KEY_TOKENS, KEY_EPOCHS,
       KEY_SKIP, KEY_WORK, KEY_CHECKPOINT, KEY_EVAL_EVERY, KEY_EVAL_TEXT, KEY_ALL, KEY_TEMPLATE, KEY_DATE };

enum { CONTEXT_HEAL = 256 };

static const struct {
    const char *name;
    unsigned classes;
} classes[] = {{"cores", TRAIN_CORES}, {"norms", TRAIN_NORMS}, {"scales", TRAIN_SCALES}, {"matrices", TRAIN_MATRICES},
               {"all", TRAIN_ALL}};

static struct {
    const char *model, *teacher, *log, *work, *eval_text, *template, *date;
    const char **data;           /* [count] */
    int count;
    struct training training;
    int64_t tokens, checkpoint_every, eval_every;
    double epochs;
    int lengths;                 /* options given that say how long */
    bool all;
    unsigned classes;
    int64_t batch, accumulate;
    int64_t context;             /* 0: CONTEXT_HEAL, or what the model takes */
    bool loss_given, mix_given;
    int dtype;                   /* in dtype_float_names; -1: as it is stored */
} options = {.batch = 8, .accumulate = 1, .dtype = -1, .checkpoint_every = 100};

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "What is learnt:", 1},
    {"teacher", KEY_TEACHER, "DENSE", 0, "the dense model, of the same vocabulary", 1},
    {"loss", KEY_LOSS, "LOSS", 0, "kl: the divergence from the teacher's predictions (the default with --teacher); ce: "
     "the cross entropy of the next token (the default without); mix: of both", 1},
    {"mix", KEY_MIX, "W", 0, "of --loss mix: W times ce, 1 - W times kl (default: 0.5)", 1},
    {"train", KEY_TRAIN, "LIST", 0, "what is trained: cores, norms, scales of packed cores, matrices that are whole, "
     "joined by commas, or all: the first three (the default)", 1},
    {NULL, 0, NULL, 0, "How long:", 2},
    {"steps", KEY_STEPS, "N", 0, "N steps (default: 100); where the text has too few windows, they come again, in "
     "another order", 2},
    {"tokens", KEY_TOKENS, "N", 0, "or as many steps as take N tokens", 2},
    {"epochs", KEY_EPOCHS, "E", 0, "or E times through the text", 2},
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
    {"skip", KEY_SKIP, NULL, 0, "leave out a step whose loss or gradient isn't finite, and say so, instead of "
     "stopping; ten in a row stop it", 3},
    {"betas", KEY_BETAS, "B1,B2", 0, "decay of the gradient's and the square's averages (default: 0.9,0.95)", 3},
    {NULL, 0, NULL, 0, "The text:", 4},
    {"all", KEY_ALL, NULL, 0, "learn everything in conversations, not the answers only", 4},
    {"template", KEY_TEMPLATE, "NAME|FILE", 0, "of conversations: granite, chatml, llama2, llama3, mistral, or a file "
     "(default: the model's own)", 4},
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "for templates that state it (default: today)", 4},
    {NULL, 0, NULL, 0, "On the way:", 5},
    {"work", KEY_WORK, "DIR", 0, "a folder for the log and the checkpoints: the same command goes on from the newest "
     "one (default: that of -o with .work behind it; without -o none)", 5},
    {"checkpoint-every", KEY_CHECKPOINT, "N", 0, "write one every N steps, and keep two; 0: never (default: 100)", 5},
    {"log", KEY_LOG, "FILE", 0, "a line of JSON for each step (default: DIR/log)", 5},
    {"eval-text", KEY_EVAL_TEXT, "FILE", 0, "measure the perplexity of FILE, in windows of the same size, at the "
     "end", 5},
    {"eval-every", KEY_EVAL_EVERY, "N", 0, "and every N steps", 5},
    {NULL, 0, NULL, 0, "Of all:", 6},
    {"dtype", KEY_DTYPE, "TYPE", 0, "store trained cores and norms as f32, f16 or bf16 (default: as they were; packed "
     "ones are rounded to nearest)", 6},
    {"memory", KEY_MEMORY, "SIZE", 0, "spend up to SIZE bytes on results that would otherwise be computed twice "
     "(default: 1G)", 6},
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
    if (!options.count)
        die(EX_USAGE, "a model and a text are needed: heal MODEL DATA...");
    if (options.lengths > 1)
        die(EX_USAGE, "--steps, --tokens, --epochs: one of them says how long");
    if (options.eval_every && !options.eval_text)
        die(EX_USAGE, "--eval-every needs --eval-text");
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
        options.lengths++;
        return t->steps = option_int("--steps", value, 1, 1 << 30), 0;
    case KEY_TOKENS:
        options.lengths++;
        return options.tokens = option_int("--tokens", value, 1, (int64_t)1 << 50), 0;
    case KEY_EPOCHS:
        options.lengths++;
        return options.epochs = option_real("--epochs", value, 1e-9, 1e6), 0;
    case KEY_SKIP:
        return t->skip = true, 0;
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

static error_t parse_way(int key, const char *value)
{
    switch (key) {
    case KEY_WORK:
        return options.work = value, 0;
    case KEY_CHECKPOINT:
        return options.checkpoint_every = option_int("--checkpoint-every", value, 0, 1 << 30), 0;
    case KEY_LOG:
        return options.log = value, 0;
    case KEY_EVAL_TEXT:
        return options.eval_text = value, 0;
    case KEY_EVAL_EVERY:
        return options.eval_every = option_int("--eval-every", value, 1, 1 << 30), 0;
    case KEY_ALL:
        return options.all = true, 0;
    case KEY_TEMPLATE:
        return options.template = value, 0;
    case KEY_DATE:
        return options.date = value, 0;
    default:
        return parse_training(key, value);
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
    case ARGP_KEY_ARG:
        if (!options.model)
            return options.model = value, 0;
        options.data = xreallocarray(options.data, (size_t)options.count + 1, sizeof *options.data);
        return options.data[options.count++] = value, 0;
    case ARGP_KEY_END:
        return check(), 0;
    default:
        return parse_way(key, value);
    }
}

static const struct program program = {
    .name = "heal",
    .operands = "MODEL DATA...",
    .purpose = "Train what was cut of a model, on a text, to be like the dense model again.",
    .details = "MODEL is a directory, a GGUF file or a stream; DATA are texts, or JSON lines with \"text\" or "
               "conversations (\"messages\", ShareGPT's \"conversations\", Alpaca's \"instruction\", \"input\", "
               "\"output\"), '-' for standard input, cut into windows whose order --seed says; documents don't see "
               "each other. A tensor stream of the model goes to standard output, with what was trained in place of what it "
               "was; all else is as it came. The embedding, and a head that is the embedding, are never trained.",
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
    struct training_text text, evaluation;
    struct parameters parameters;
    struct trainer trainer;
    struct healing healing;
    struct json *about, *history;
    char *work;
};

/* How many steps, where it isn't said in steps. */
static int64_t steps_for(const struct training_text *text)
{
    double windows = (double)(options.batch * options.accumulate);

    if (options.tokens)
        return (int64_t)ceil((double)options.tokens / (windows * (double)text->context));
    if (options.epochs > 0)
        return (int64_t)ceil(options.epochs * (double)text->windows / windows);
    return options.training.steps;
}

static int read_texts(struct job *job, const struct loader *loader)
{
    struct training_text_options how = {options.context, common_options.seed, options.all, options.template,
                                        options.date};
    int rc = training_text_open(&job->text, options.data, options.count, loader, &how);

    if (!rc && options.eval_text) {
        how.seed = 0;
        rc = training_text_open(&job->evaluation, &options.eval_text, 1, loader, &how);
    }
    if (!rc)
        options.training.steps = steps_for(&job->text);
    return rc;
}

static int load(struct network *network, const char *path, const struct device *device, struct selection *selection,
                struct job *job)
{
    struct loader loader;
    int rc = loader_open(&loader, path, device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    if (!options.context)
        options.context = least(CONTEXT_HEAL, loader.config.max_position);
    if (options.context > loader.config.max_position)
        rc = fail(EX_USAGE, "--context: %lld, but '%s' has %lld positions", (long long)options.context,
                  loader_name(&loader), (long long)loader.config.max_position);
    else if (selection) {        /* the student, whose tokenizer reads the text */
        loader.train = selection_classes;
        loader.train_context = selection;
        rc = read_texts(job, &loader);
    }
    if (!rc)
        rc = network_load(network, &loader);
    loader_close(&loader);
    return rc;
}

static struct json *history(const struct job *job);

/* What the result depends on beside the options: the numbers that training starts from, and the size of everything. */
static struct json *about(const struct job *job)
{
    struct json *all = json_clone(job->history);
    const struct parameters *p = &job->parameters;
    struct hash *hash = hash_new();
    char *text;

    for (int i = 0; i < p->count; i++) {
        size_t bytes = (size_t)p->list[i].trainable.count * sizeof(float);
        float *host = xaligned(bytes, 1);

        p->device->download(host, p->list[i].trainable.values, bytes);
        hash_update(hash, p->list[i].name, strlen(p->list[i].name));
        hash_update(hash, host, bytes);
        free(host);
    }
    text = xasprintf("%016llx", (unsigned long long)hash_value(hash));
    json_put(all, "start", json_make_string(text));
    json_put(all, "weights", json_make_int(job->student.bytes));
    json_put(all, "teacher", json_make_int(job->teacher.bytes));
    hash_free(hash);
    free(text);
    return all;
}

static int inputs_check(void)
{
    const char **inputs = xmallocarray((size_t)options.count + 2, sizeof *inputs);
    int count = 0, rc;

    for (; count < options.count; count++)
        inputs[count] = options.data[count];
    if (options.teacher)
        inputs[count++] = options.teacher;
    if (options.eval_text)
        inputs[count++] = options.eval_text;
    rc = passage_one_stream(inputs, count);
    free(inputs);
    return rc;
}

static void set_healing(struct job *job)
{
    const char *output = common_options.output;

    if (options.work)
        job->work = xstrdup(options.work);
    else if (output && strcmp(output, "-"))
        job->work = xasprintf("%s.work", output);
    job->history = history(job);
    job->about = about(job);
    job->healing = (struct healing){.lock = -1, .log_fd = -1, .trainer = &job->trainer, .text = &job->text,
                                    .batch = options.batch,
                                    .accumulate = options.accumulate, .about = job->about, .work = job->work,
                                    .log = options.log, .checkpoint_every = options.checkpoint_every,
                                    .evaluation = options.eval_text ? &job->evaluation : NULL,
                                    .evaluate_every = options.eval_every};
}

static int prepare(struct job *job)
{
    int rc = inputs_check();

    job->selection = (struct selection){options.classes, &common_options.match};
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
    if ((rc = trainer_open(&job->trainer, &job->student, options.teacher ? &job->teacher : NULL, &job->parameters,
                           &options.training)))
        return rc;
    set_healing(job);
    return healing_plan(&job->healing);
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
    struct json *about = json_clone(job->text.about), *trained = json_make_array();

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
    return filter_run(&(struct filter){.program = program.name, .doing = "writing", .options = json_clone(job->history),
                                       .wants = wants, .change = change, .wants_tensor = wants,
                                       .change_tensor = change_tensor, .context = job});
}

int main(int argc, char **argv)
{
    struct job job = {.healing = {.lock = -1, .log_fd = -1}};
    int rc;

    options.training = training_usual;
    options_parse(&program, argc, argv);
    if ((rc = device_choose(common_options.device, &job.device)))
        return rc;
    if (!(rc = prepare(&job)) && !(rc = healing_run(&job.healing)))
        rc = write_model(&job);
    healing_close(&job.healing, !rc);
    trainer_close(&job.trainer);
    parameters_close(&job.parameters);
    network_free(&job.student);
    network_free(&job.teacher);
    training_text_close(&job.text);
    training_text_close(&job.evaluation);
    json_drop(job.about);
    json_drop(job.history);
    free(job.work);
    free(options.data);
    return rc;
}
