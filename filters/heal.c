/* heal - train what was cut of a model: cores, scales and norms, on a text, to be like the dense model again. */
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/options.h"
#include "measure/healing_blocks.h"
#include "measure/healing_options.h"
#include "measure/passage.h"
#include "operator/filter.h"
#include "train/store.h"
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct program program = {
    .name = "heal",
    .operands = "MODEL DATA...",
    .purpose = "Train what was cut of a model, on a text, to be like the dense model again.",
    .details = "MODEL is a directory, a GGUF file or a stream; DATA are texts, or JSON, lines or an array, with "
               "\"text\" or conversations (\"messages\", ShareGPT's \"conversations\", Alpaca's \"instruction\", "
               "\"input\", \"output\"), '-' for standard input, cut into windows whose order --seed says; documents "
               "don't see each other. A tensor stream of the model goes to standard output, with what was trained in "
               "place of what it was; all else is as it came. The embedding, and a head that is the embedding, are "
               "never trained.",
    .example = "  mpo-decompose model --chi 8 -o cut.tns\n"
               "  echo 'Once upon a time, there was a girl named Lily.' > text\n"
               "  heal cut.tns text --teacher model --steps 3 --context 8 -o healed.tns",
    .table = heal_table,
    .parse = heal_parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_SEED | OPTION_MATCH | OPTION_DEVICE,
};

struct job {
    const struct device *device;
    struct selection selection;
    struct network student, teacher;
    struct training_text text, evaluation;
    struct teacher_logits logits;
    struct parameters parameters;
    struct trainer trainer;
    struct healing healing;
    struct healing_blocks blocks;                /* with --scope block */
    uint64_t student_hash, teacher_hash;         /* of all their weights; with --scope block in blocks */
    int64_t stored;              /* bytes of weights that models read so far have on disk */
    int held;                    /* what came of getting hold of a block */
    struct json *about, *history;
    char *work;
};

/* How many steps, where it isn't said in steps. */
static int64_t steps_for(const struct training_text *text)
{
    double windows = (double)(heal_options.batch * heal_options.accumulate);

    if (heal_options.tokens)
        return (int64_t)ceil((double)heal_options.tokens / (windows * (double)text->context));
    if (heal_options.epochs > 0)
        return (int64_t)ceil(heal_options.epochs * (double)text->windows / windows);
    return heal_options.training.steps;
}

static int read_texts(struct job *job, const struct loader *loader)
{
    struct training_text_options how = {heal_options.context, common_options.seed, heal_options.all,
                                        heal_options.template, heal_options.date, heal_options.limit, false};
    int rc = training_text_open(&job->text, heal_options.data, heal_options.count, loader, &how);

    if (!rc && heal_options.eval_text) {
        how.seed = 0;
        how.measured = true;
        rc = training_text_open(&job->evaluation, &heal_options.eval_text, 1, loader, &how);
    }
    if (!rc)
        heal_options.training.steps = steps_for(&job->text);
    if (!rc && heal_options.teacher_logits)
        rc = teacher_logits_open(&job->logits, heal_options.teacher_logits, &job->text, loader->config.vocab_size);
    heal_options.training.top = job->logits.top.k;
    return rc;
}

/* Weights that don't fit are not worth reading; what training takes besides is planned behind. */
static int load_weights(struct network *network, struct loader *loader, struct job *job, uint64_t *value)
{
    struct hash *hash = loader->hash = hash_new();
    double limit = memory_limit() / heal_options.training.ranks->local;
    int rc = EX_OK;

    job->stored += loader_stored_bytes(loader);
    if ((double)job->stored > limit)
        rc = fail(EX_OSERR, "'%s': %.0f MiB of memory would be needed for weights alone, there are %.0f%s",
                  loader_name(loader), (double)job->stored / 0x1p20, limit / 0x1p20,
                  heal_options.training.ranks->count > 1 ? "" : ": --scope block holds one block at a time");
    else
        rc = network_load(network, loader);
    *value = hash_value(hash);
    hash_free(hash);
    return rc;
}

static int load(struct network *network, const char *path, struct selection *selection, struct job *job)
{
    struct loader loader;
    int rc = loader_open(&loader, path, job->device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    if (!heal_options.context)
        heal_options.context = least(HEAL_CONTEXT, loader.config.max_position);
    if (heal_options.context > loader.config.max_position)
        rc = fail(EX_USAGE, "--context: %lld, but '%s' has %lld positions", (long long)heal_options.context,
                  loader_name(&loader), (long long)loader.config.max_position);
    else if (selection) {        /* the student, whose tokenizer reads the text */
        loader.train = selection_classes;
        loader.train_context = selection;
        rc = read_texts(job, &loader);
    }
    if (!rc && heal_options.scope == SCOPE_MODEL)
        rc = load_weights(network, &loader, job, selection ? &job->student_hash : &job->teacher_hash);
    loader_close(&loader);
    return rc;
}

/* What the result depends on: the options, and all weights. */
static struct json *about(const struct job *job)
{
    bool blocks = heal_options.scope == SCOPE_BLOCK;
    struct json *all = json_clone(job->history);
    char hash[HASH_TEXT];

    json_put(all, "weights", json_make_string(hash_text(blocks ? job->blocks.student_hash : job->student_hash, hash)));
    if (heal_options.teacher)
        json_put(all, "teacher",
                 json_make_string(hash_text(blocks ? job->blocks.teacher_hash : job->teacher_hash, hash)));
    return all;
}

/* Those that were started, or with --plan any number. */
static int choose_ranks(struct ranks **ranks)
{
    int plan = heal_options.plan, rc = ranks_open(ranks);

    if (rc || plan <= 0 || (plan == (*ranks)->count && !heal_options.link))
        return rc;
    if ((*ranks)->count == 1)
        return *ranks = ranks_imagine(plan), EX_OK;
    rc = plan == (*ranks)->count
             ? fail(EX_USAGE, "--link is of ranks that aren't there, but all %d of --plan were started", plan)
             : fail(EX_USAGE, "--plan=%d, but %d ranks were started", plan, (*ranks)->count);
    rc = ranks_agree(*ranks, rc);
    ranks_close(*ranks, rc);
    return rc;
}

static int inputs_check(const struct ranks *ranks)
{
    const char **inputs = xmallocarray((size_t)heal_options.count + 2, sizeof *inputs);
    int count = 0, rc;

    for (; count < heal_options.count; count++)
        inputs[count] = heal_options.data[count];
    if (heal_options.teacher)
        inputs[count++] = heal_options.teacher;
    if (heal_options.eval_text)
        inputs[count++] = heal_options.eval_text;
    rc = passage_one_stream(inputs, count);
    for (int i = 0; i < count && !rc && ranks->count > 1; i++)
        if (file_is_stdin(inputs[i]))
            rc = fail(EX_USAGE, "standard input goes to one of %d ranks: all of them need a file", ranks->count);
    free(inputs);
    return rc;
}

/* That what is asked for can be done here, by so many. */
static int check(const struct device *device, const struct ranks *ranks)
{
    int rc;

    if (!device->products(heal_options.products))
        return fail(EX_UNAVAILABLE, "--products %s: this processor can't (AVX512-BF16), or not on this device",
                    product_names[heal_options.products]);
    if (heal_options.scope == SCOPE_BLOCK && ranks->count > 1)
        return fail(EX_USAGE, "--scope block is for one process: the states that leave a block go on in its memory, "
                    "%d ranks were started", ranks->count);
    rc = inputs_check(ranks);
    return rc || heal_options.plan || ranks->rank ? rc : output_try(common_options.output, true);
}

static void set_healing(struct job *job)
{
    const char *output = common_options.output;

    if (heal_options.work)
        job->work = xstrdup(heal_options.work);
    else if (output && strcmp(output, "-"))
        job->work = xasprintf("%s.work", output);
    job->history = json_clone(job->text.about);
    heal_describe(job->history);
    if (heal_options.teacher_logits)
        json_put(job->history, "teacher_logits", teacher_logits_about(&job->logits));
    job->healing = (struct healing){.lock = -1, .log_fd = -1, .block = -1, .trainer = &job->trainer,
                                    .text = &job->text, .logits = heal_options.teacher_logits ? &job->logits : NULL,
                                    .ranks = heal_options.training.ranks, .batch = heal_options.batch,
                                    .accumulate = heal_options.accumulate, .work = job->work, .log = heal_options.log,
                                    .products = heal_options.products,
                                    .checkpoint_every = heal_options.checkpoint_every,
                                    .evaluation = heal_options.eval_text ? &job->evaluation : NULL,
                                    .evaluate_every = heal_options.eval_every};
}

static void tell_numbers(int64_t cores, int64_t matrices, int64_t scales, int64_t norms)
{
    inform("%lld numbers are trained: %lld of cores, %lld of matrices, %lld scales, %lld of norms",
           (long long)(cores + matrices + scales + norms), (long long)cores, (long long)matrices, (long long)scales,
           (long long)norms);
}

static int prepare_blocks(struct job *job)
{
    int rc;

    job->blocks = (struct healing_blocks){
        .healing = &job->healing, .model = heal_options.model, .teacher_path = heal_options.teacher,
        .device = job->device, .selection = &job->selection, .training = &heal_options.training,
        .student = &job->student, .teacher = &job->teacher, .parameters = &job->parameters};
    set_healing(job);
    if (!job->work)
        return fail(EX_USAGE, "--scope block keeps what was trained of blocks in a folder: it needs --work, or -o");
    if ((rc = healing_blocks_survey(&job->blocks)))
        return rc;
    tell_numbers(job->blocks.numbers[0], job->blocks.numbers[1], job->blocks.numbers[2], job->blocks.numbers[3]);
    job->healing.about = job->about = about(job);
    return healing_blocks_plan(&job->blocks);
}

static int prepare(struct job *job)
{
    const struct parameters *p = &job->parameters;
    int rc = check(job->device, heal_options.training.ranks);

    job->selection = (struct selection){.classes = heal_options.classes, .match = &common_options.match,
                                        .blocks = heal_options.training.loss == LOSS_FEATURE};
    if (rc || (rc = load(&job->student, heal_options.model, &job->selection, job))
        || (heal_options.teacher && (rc = load(&job->teacher, heal_options.teacher, NULL, job))))
        return rc;
    if (heal_options.scope == SCOPE_BLOCK)
        return prepare_blocks(job);
    if ((rc = parameters_open(&job->parameters, &job->student, &job->selection)))
        return rc;
    tell_numbers(parameters_count(p, TRAIN_CORES), parameters_count(p, TRAIN_MATRICES),
                 parameters_count(p, TRAIN_SCALES), parameters_count(p, TRAIN_NORMS));
    if ((rc = trainer_open(&job->trainer, &job->student, heal_options.teacher ? &job->teacher : NULL, &job->parameters,
                           &heal_options.training)))
        return rc;
    set_healing(job);
    job->healing.about = job->about = about(job);
    return healing_plan(&job->healing, !heal_options.plan);
}

static int train(struct job *job)
{
    if (heal_options.scope == SCOPE_BLOCK)
        return ranks_agree(job->healing.ranks, healing_blocks_run(&job->blocks));
    return healing_run(&job->healing);
}

/* ---- the model, with what was trained ---- */

static const struct dtype *stored_dtype(void)
{
    static struct dtype dtype;

    if (heal_options.dtype < 0)
        return NULL;
    dtype_parse(dtype_float_names[heal_options.dtype], &dtype);
    return &dtype;
}

static bool wants(void *context, const struct record *record)
{
    struct job *job = context;

    if (heal_options.scope == SCOPE_BLOCK && (job->held = healing_blocks_hold(&job->blocks, record->name)))
        return true;             /* change() ends it */
    return store_wants(&job->parameters, record->name);
}

static int change(void *context, struct operator *op)
{
    struct job *job = context;

    return job->held ? job->held : store_operator(&job->parameters, op, stored_dtype());
}

static int change_tensor(void *context, const char *name, struct tensor *tensor)
{
    struct job *job = context;

    return job->held ? job->held : store_vector(&job->parameters, name, tensor, stored_dtype());
}

/* The first rank does. */
static int write_model(struct job *job)
{
    if (heal_options.training.ranks->rank)
        return EX_OK;
    common_options.input = heal_options.model;
    return filter_run(&(struct filter){.program = program.name, .doing = "writing", .options = json_clone(job->history),
                                       .wants = wants, .change = change, .wants_tensor = wants,
                                       .change_tensor = change_tensor, .context = job});
}

static int run(struct job *job)
{
    struct ranks *ranks = heal_options.training.ranks;
    int rc = ranks_agree(ranks, prepare(job));

    if (!rc && heal_options.plan)
        return ranks_agree(ranks, healing_forecast(&job->healing, (double)heal_options.link));
    if (!rc && !(rc = train(job)))
        rc = ranks_agree(ranks, write_model(job));
    healing_blocks_close(&job->blocks, !rc);
    healing_close(&job->healing, !rc);
    return rc;
}

int main(int argc, char **argv)
{
    struct job job = {.healing = {.lock = -1, .log_fd = -1}, .logits.fd = -1};
    struct ranks *ranks;
    int rc;

    heal_options.training = training_usual;
    options_parse(&program, argc, argv);
    if ((rc = device_choose(common_options.device, &job.device)) || (rc = choose_ranks(&ranks)))
        return rc;
    heal_options.training.ranks = ranks;
    rc = run(&job);
    ranks_close(ranks, rc);
    trainer_close(&job.trainer);
    parameters_close(&job.parameters);
    network_free(&job.student);
    network_free(&job.teacher);
    training_text_close(&job.text);
    training_text_close(&job.evaluation);
    teacher_logits_close(&job.logits);
    json_drop(job.about);
    json_drop(job.history);
    free(job.work);
    free(heal_options.data);
    return rc;
}
