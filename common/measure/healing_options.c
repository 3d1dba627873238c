/* healing_options.c - options of heal. */
#include "measure/healing_options.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "tensor/dtype.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_TEACHER = OPTION_KEYS, KEY_LOSS, KEY_MIX, KEY_TRAIN, KEY_STEPS, KEY_BATCH, KEY_CONTEXT, KEY_ACCUMULATE,
       KEY_RATE, KEY_SCHEDULE, KEY_WARMUP, KEY_CLIP, KEY_DECAY, KEY_BETAS, KEY_MEMORY, KEY_LOG, KEY_DTYPE, KEY_TOKENS,
       KEY_EPOCHS, KEY_SKIP, KEY_WORK, KEY_CHECKPOINT, KEY_EVAL_EVERY, KEY_EVAL_TEXT, KEY_ALL, KEY_TEMPLATE, KEY_DATE,
       KEY_SHARD, KEY_PLAN, KEY_LINK, KEY_PRODUCTS, KEY_LIMIT, KEY_LOGITS, KEY_SCOPE };

static const struct {
    const char *name;
    unsigned classes;
} classes[] = {{"cores", TRAIN_CORES}, {"norms", TRAIN_NORMS}, {"scales", TRAIN_SCALES}, {"matrices", TRAIN_MATRICES},
               {"all", TRAIN_ALL}};

static const char *const scopes[] = {"model", "block", NULL};

enum { CHECKPOINT_USUAL = 100 };  /* steps */

struct heal_options heal_options = {.batch = 8, .accumulate = 1, .dtype = -1, .checkpoint_every = -1};

const struct argp_option heal_table[] = {
    {NULL, 0, NULL, 0, "What is learnt:", 1},
    {"teacher", KEY_TEACHER, "DENSE", 0, "the dense model, of the same vocabulary", 1},
    {"teacher-logits", KEY_LOGITS, "FILE", 0, "or its predictions of this text in these windows (evaluate logits): the "
     "most likely ids of each token, and all others as one", 1},
    {"loss", KEY_LOSS, "LOSS", 0, "kl: the divergence from the teacher's predictions (the default with a teacher); ce: "
     "the cross entropy of the next token (the default without); mix: of both; feature: how far the states behind each "
     "block are from the teacher's (the default with --scope block); final norm and head learn nothing from it", 1},
    {"mix", KEY_MIX, "W", 0, "of --loss mix: W times ce, 1 - W times kl (default: 0.5)", 1},
    {"scope", KEY_SCOPE, "SCOPE", 0, "model: all blocks together (the default); block: one after the other, each to "
     "give what the teacher's block does for the states that leave those before it; only one block of each model is in "
     "memory, of one process. Steps, and what is said in steps, are of each block", 1},
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
    {"lr", KEY_RATE, "RATE", 0, "the highest learning rate (default: 0.001); of scales: relative to "
     "their size", 3},
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
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "for templates that state it (default: 2025-01-01, so that the same "
     "command gives the same model on any day)", 4},
    {"limit", KEY_LIMIT, "N", 0, "of each file of JSON the first N documents (default: all)", 4},
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
    {"dtype", KEY_DTYPE, "TYPE", 0, "store trained cores and norms as f32, f16 or bf16 (default: as they were, packed "
     "ones rounded to nearest in their format); where scales are trained, codes stay", 7},
    {"products", KEY_PRODUCTS, "TYPE", 0, "multiply in f32 (the default), or in bf16, summed in f32: faster where the "
     "processor can, and less exact; perplexities on the way are measured in f32", 7},
    {"memory", KEY_MEMORY, "SIZE", 0, "spend up to SIZE bytes on results that would otherwise be computed twice "
     "(default: 1G); with --scope block: on hidden states, which are in a file in $TMPDIR otherwise", 7},
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

/* The loss, and what goes with it. */
static void check_loss(void)
{
    struct training *t = &heal_options.training;
    bool block = heal_options.scope == SCOPE_BLOCK;
    const char *logits = heal_options.teacher_logits;

    if (block && !heal_options.teacher)
        die(EX_USAGE, "--scope block needs --teacher: its blocks are what those of the model are to be like");
    if (block && !strcmp(heal_options.teacher, "-"))
        die(EX_USAGE, "--scope block reads the teacher twice: it can't come from standard input");
    if (block && heal_options.loss_given && t->loss != LOSS_FEATURE)
        die(EX_USAGE, "--scope block has no predictions of a whole model, which --loss %s is about: its loss is "
            "feature", loss_names[t->loss]);
    if (block && heal_options.eval_text)
        die(EX_USAGE, "--scope block has no whole model to measure on --eval-text: evaluate does it behind");
    if (block && heal_options.plan)
        die(EX_USAGE, "--scope block is for one process, and --plan for steps of a whole model");
    if (heal_options.teacher && logits)
        die(EX_USAGE, "--teacher, --teacher-logits: one of them is the teacher");
    if (logits && !strcmp(logits, "-"))
        die(EX_USAGE, "--teacher-logits can't come from standard input: it is read in any order");
    if (!heal_options.loss_given)
        t->loss = block ? LOSS_FEATURE : heal_options.teacher || logits ? LOSS_KL : LOSS_CE;
    if (t->loss == LOSS_FEATURE && !heal_options.teacher)
        die(EX_USAGE, "--loss feature needs --teacher: it is about the states of its blocks");
    if (t->loss != LOSS_CE && !heal_options.teacher && !logits)
        die(EX_USAGE, "--loss %s needs --teacher or --teacher-logits", loss_names[t->loss]);
    if (t->loss == LOSS_CE && logits)
        die(EX_USAGE, "--loss ce has no use for --teacher-logits");
    if (t->loss == LOSS_CE && heal_options.teacher)
        die(EX_USAGE, "--loss ce has no use for --teacher");
    if (heal_options.mix_given && t->loss != LOSS_MIX)
        die(EX_USAGE, "--mix needs --loss mix");
}

static void check(void)
{
    if (!heal_options.count)
        die(EX_USAGE, "a model and a text are needed: heal MODEL DATA...");
    if (heal_options.lengths > 1)
        die(EX_USAGE, "--steps, --tokens, --epochs: one of them says how long");
    if (heal_options.eval_every && !heal_options.eval_text)
        die(EX_USAGE, "--eval-every needs --eval-text");
    if (heal_options.link && heal_options.plan <= 1)
        die(EX_USAGE, "--link needs --plan=N of several: it is how fast messages of ranks that aren't there are");
    if (heal_options.checkpoint_every > 0 && !heal_options.work
        && (!common_options.output || !strcmp(common_options.output, "-")))
        die(EX_USAGE, "--checkpoint-every needs a folder: --work, or -o");
    if (heal_options.checkpoint_every < 0)
        heal_options.checkpoint_every = CHECKPOINT_USUAL;
    check_loss();
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
    case KEY_LIMIT:
        return heal_options.limit = option_int("--limit", value, 1, (int64_t)1 << 50), 0;
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
    case KEY_LOGITS:
        return heal_options.teacher_logits = value, 0;
    case KEY_SCOPE:
        return heal_options.scope = (enum scope)option_word("--scope", value, scopes), 0;
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
    case KEY_PRODUCTS:
        return heal_options.products = (enum products)option_word("--products", value, product_names), 0;
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
    if (heal_options.scope == SCOPE_BLOCK)
        json_put(about, "scope", json_make_string(scopes[heal_options.scope]));
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
    if (heal_options.products)
        json_put(about, "products", json_make_string(product_names[heal_options.products]));
    if (heal_options.dtype >= 0)
        json_put(about, "dtype", json_make_string(dtype_float_names[heal_options.dtype]));
}
