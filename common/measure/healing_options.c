/* healing_options.c - options of heal. */
#include "measure/healing_options.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "tensor/dtype.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_TEACHER = 1, KEY_LOSS, KEY_MIX, KEY_TRAIN, KEY_STEPS, KEY_BATCH, KEY_CONTEXT, KEY_ACCUMULATE, KEY_RATE,
       KEY_SCHEDULE, KEY_WARMUP, KEY_CLIP, KEY_DECAY, KEY_BETAS, KEY_MEMORY, KEY_LOG, KEY_DTYPE, KEY_TOKENS, KEY_EPOCHS,
       KEY_SKIP, KEY_WORK, KEY_CHECKPOINT, KEY_EVAL_EVERY, KEY_EVAL_TEXT, KEY_ALL, KEY_TEMPLATE, KEY_DATE,
       KEY_SHARD, KEY_PLAN, KEY_LINK };

static const struct {
    const char *name;
    unsigned classes;
} classes[] = {{"cores", TRAIN_CORES}, {"norms", TRAIN_NORMS}, {"scales", TRAIN_SCALES}, {"matrices", TRAIN_MATRICES},
               {"all", TRAIN_ALL}};

struct heal_options heal_options = {.batch = 8, .accumulate = 1, .dtype = -1, .checkpoint_every = 100};

const struct argp_option heal_table[] = {
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
    {NULL, 0, NULL, 0, "Many processes, which share each step (mpirun -n N heal ...):", 6},
    {"shard", KEY_SHARD, NULL, 0, "share the optimizer's moments and its work out, too (ZeRO, stage 1): less memory, "
     "the same numbers", 6},
    {"plan", KEY_PLAN, "N", OPTION_ARG_OPTIONAL, "train nothing: measure a step as one of N ranks (default: those that "
     "were started) has it, and print the memory, messages and time that it takes", 6},
    {"link", KEY_LINK, "SIZE", 0, "of --plan: SIZE bytes a second from each rank to the others (default: as fast as "
     "memory is copied here)", 6},
    {NULL, 0, NULL, 0, "Of all:", 7},
    {"dtype", KEY_DTYPE, "TYPE", 0, "store trained cores and norms as f32, f16 or bf16 (default: as they were; packed "
     "ones are rounded to nearest)", 7},
    {"memory", KEY_MEMORY, "SIZE", 0, "spend up to SIZE bytes on results that would otherwise be computed twice "
     "(default: 1G)", 7},
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
    heal_options.training.beta1 = option_real("--betas", value, 0, 0.9999999);
    heal_options.training.beta2 = option_real("--betas", second, 0, 0.9999999);
}

static void check(void)
{
    if (!heal_options.count)
        die(EX_USAGE, "a model and a text are needed: heal MODEL DATA...");
    if (heal_options.lengths > 1)
        die(EX_USAGE, "--steps, --tokens, --epochs: one of them says how long");
    if (heal_options.eval_every && !heal_options.eval_text)
        die(EX_USAGE, "--eval-every needs --eval-text");
    if (heal_options.link && !heal_options.plan)
        die(EX_USAGE, "--link needs --plan");
    if (!heal_options.loss_given)
        heal_options.training.loss = heal_options.teacher ? LOSS_KL : LOSS_CE;
    if (heal_options.training.loss != LOSS_CE && !heal_options.teacher)
        die(EX_USAGE, "--loss %s needs --teacher", loss_names[heal_options.training.loss]);
    if (heal_options.training.loss == LOSS_CE && heal_options.teacher)
        die(EX_USAGE, "--loss ce has no use for --teacher");
    if (heal_options.mix_given && heal_options.training.loss != LOSS_MIX)
        die(EX_USAGE, "--mix needs --loss mix");
    if (!heal_options.classes)
        heal_options.classes = TRAIN_ALL;
    if (!strcmp(heal_options.model, "-"))
        die(EX_USAGE, "the model can't come from standard input: it is read twice");
}

static error_t parse_training(int key, const char *value)
{
    struct training *t = &heal_options.training;

    switch (key) {
    case KEY_LOSS:
        heal_options.loss_given = true;
        return t->loss = (enum loss)option_word("--loss", value, loss_names), 0;
    case KEY_MIX:
        heal_options.mix_given = true;
        return t->cross_weight = option_real("--mix", value, 0, 1), 0;
    case KEY_STEPS:
        heal_options.lengths++;
        return t->steps = option_int("--steps", value, 1, 1 << 30), 0;
    case KEY_TOKENS:
        heal_options.lengths++;
        return heal_options.tokens = option_int("--tokens", value, 1, (int64_t)1 << 50), 0;
    case KEY_EPOCHS:
        heal_options.lengths++;
        return heal_options.epochs = option_real("--epochs", value, 1e-9, 1e6), 0;
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
        return heal_options.work = value, 0;
    case KEY_CHECKPOINT:
        return heal_options.checkpoint_every = option_int("--checkpoint-every", value, 0, 1 << 30), 0;
    case KEY_LOG:
        return heal_options.log = value, 0;
    case KEY_EVAL_TEXT:
        return heal_options.eval_text = value, 0;
    case KEY_EVAL_EVERY:
        return heal_options.eval_every = option_int("--eval-every", value, 1, 1 << 30), 0;
    case KEY_ALL:
        return heal_options.all = true, 0;
    case KEY_TEMPLATE:
        return heal_options.template = value, 0;
    case KEY_DATE:
        return heal_options.date = value, 0;
    case KEY_SHARD:
        return heal_options.training.shard = true, 0;
    case KEY_PLAN:
        return heal_options.plan = value ? (int)option_int("--plan", value, 1, RANKS_MOST) : -1, 0;
    case KEY_LINK:
        return heal_options.link = option_size("--link", value, 1), 0;
    default:
        return parse_training(key, value);
    }
}

error_t heal_parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case KEY_TEACHER:
        return heal_options.teacher = value, 0;
    case KEY_TRAIN:
        return heal_options.classes = parse_classes(value), 0;
    case KEY_BATCH:
        return heal_options.batch = option_int("--batch", value, 1, 1 << 20), 0;
    case KEY_CONTEXT:
        return heal_options.context = option_int("--context", value, 2, INT32_MAX), 0;
    case KEY_ACCUMULATE:
        return heal_options.accumulate = option_int("--accumulate", value, 1, 1 << 20), 0;
    case KEY_BETAS:
        return parse_betas(value), 0;
    case KEY_DTYPE:
        return heal_options.dtype = option_word("--dtype", value, dtype_float_names), 0;
    case ARGP_KEY_ARG:
        if (!heal_options.model)
            return heal_options.model = value, 0;
        heal_options.data = xreallocarray(heal_options.data, (size_t)heal_options.count + 1, sizeof *heal_options.data);
        return heal_options.data[heal_options.count++] = value, 0;
    case ARGP_KEY_END:
        return check(), 0;
    default:
        return parse_way(key, value);
    }
}

void heal_describe(struct json *about)
{
    const struct training *t = &heal_options.training;
    struct json *trained = json_make_array();

    for (size_t i = 0; i + 1 < sizeof classes / sizeof *classes; i++)
        if (heal_options.classes & classes[i].classes)
            json_append(trained, json_make_string(classes[i].name));
    json_put(about, "train", trained);
    json_put(about, "loss", json_make_string(loss_names[t->loss]));
    if (t->loss == LOSS_MIX)
        json_put(about, "mix", json_make_number(t->cross_weight));
    json_put(about, "steps", json_make_int(t->steps));
    json_put(about, "batch", json_make_int(heal_options.batch));
    json_put(about, "accumulate", json_make_int(heal_options.accumulate));
    json_put(about, "lr", json_make_number(t->rate));
    json_put(about, "schedule", json_make_string(schedule_names[t->schedule]));
    json_put(about, "warmup", json_make_int(t->warmup));
    json_put(about, "clip", json_make_number(t->clip));
    json_put(about, "weight_decay", json_make_number(t->decay));
    json_put(about, "beta1", json_make_number(t->beta1));
    json_put(about, "beta2", json_make_number(t->beta2));
    if (heal_options.dtype >= 0)
        json_put(about, "dtype", json_make_string(dtype_float_names[heal_options.dtype]));
}
