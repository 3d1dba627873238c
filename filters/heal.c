/* heal - train what was cut of a model: cores, scales and norms, on a text, to be like the dense model again. */
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/options.h"
#include "measure/healing.h"
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
    .details = "MODEL is a directory, a GGUF file or a stream; DATA are texts, or JSON lines with \"text\" or "
               "conversations (\"messages\", ShareGPT's \"conversations\", Alpaca's \"instruction\", \"input\", "
               "\"output\"), '-' for standard input, cut into windows whose order --seed says; documents don't see "
               "each other. A tensor stream of the model goes to standard output, with what was trained in place of what it "
               "was; all else is as it came. The embedding, and a head that is the embedding, are never trained.",
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
    struct parameters parameters;
    struct trainer trainer;
    struct healing healing;
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
    struct training_text_options how = {heal_options.context, common_options.seed, heal_options.all, heal_options.template,
                                        heal_options.date};
    int rc = training_text_open(&job->text, heal_options.data, heal_options.count, loader, &how);

    if (!rc && heal_options.eval_text) {
        how.seed = 0;
        rc = training_text_open(&job->evaluation, &heal_options.eval_text, 1, loader, &how);
    }
    if (!rc)
        heal_options.training.steps = steps_for(&job->text);
    return rc;
}

static int load(struct network *network, const char *path, const struct device *device, struct selection *selection,
                struct job *job)
{
    struct loader loader;
    int rc = loader_open(&loader, path, device, ACTIVATIONS_F32);

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
    if (!rc)
        rc = network_load(network, &loader);
    loader_close(&loader);
    return rc;
}

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

/* Those that were started, or with --plan any number. */
static int choose_ranks(struct ranks **ranks)
{
    int plan = heal_options.plan, rc = ranks_open(ranks);

    if (rc || plan <= 0 || plan == (*ranks)->count)
        return rc;
    if ((*ranks)->count == 1)
        return *ranks = ranks_imagine(plan), EX_OK;
    rc = ranks_agree(*ranks, fail(EX_USAGE, "--plan=%d, but %d ranks were started", plan, (*ranks)->count));
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

static void set_healing(struct job *job)
{
    const char *output = common_options.output;

    if (heal_options.work)
        job->work = xstrdup(heal_options.work);
    else if (output && strcmp(output, "-"))
        job->work = xasprintf("%s.work", output);
    job->history = json_clone(job->text.about);
    heal_describe(job->history);
    job->about = about(job);
    job->healing = (struct healing){.lock = -1, .log_fd = -1, .trainer = &job->trainer, .text = &job->text,
                                    .batch = heal_options.batch,
                                    .accumulate = heal_options.accumulate, .about = job->about, .work = job->work,
                                    .log = heal_options.log, .checkpoint_every = heal_options.checkpoint_every,
                                    .evaluation = heal_options.eval_text ? &job->evaluation : NULL,
                                    .evaluate_every = heal_options.eval_every};
}

static int prepare(struct job *job)
{
    int rc = inputs_check(heal_options.training.ranks);

    job->selection = (struct selection){heal_options.classes, &common_options.match};
    if (rc || (rc = load(&job->student, heal_options.model, job->device, &job->selection, job))
        || (heal_options.teacher && (rc = load(&job->teacher, heal_options.teacher, job->device, NULL, job)))
        || (rc = parameters_open(&job->parameters, &job->student, &job->selection)))
        return rc;
    inform("%lld numbers are trained: %lld of cores, %lld of matrices, %lld scales, %lld of norms",
           (long long)parameters_count(&job->parameters, ~0u),
           (long long)parameters_count(&job->parameters, TRAIN_CORES),
           (long long)parameters_count(&job->parameters, TRAIN_MATRICES),
           (long long)parameters_count(&job->parameters, TRAIN_SCALES),
           (long long)parameters_count(&job->parameters, TRAIN_NORMS));
    if ((rc = trainer_open(&job->trainer, &job->student, heal_options.teacher ? &job->teacher : NULL, &job->parameters,
                           &heal_options.training)))
        return rc;
    set_healing(job);
    return healing_plan(&job->healing, !heal_options.plan);
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
    if (!rc && !(rc = healing_run(&job->healing)))
        rc = ranks_agree(ranks, write_model(job));
    healing_close(&job->healing, !rc);
    return rc;
}

int main(int argc, char **argv)
{
    struct job job = {.healing = {.lock = -1, .log_fd = -1}};
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
    json_drop(job.about);
    json_drop(job.history);
    free(job.work);
    free(heal_options.data);
    return rc;
}
