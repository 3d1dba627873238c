/* calibrate - what the linear layers of a model see: second moments of their inputs, over a text. */
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/options.h"
#include "base/progress.h"
#include "measure/calibration_text.h"
#include "measure/passage.h"
#include "model/calibration.h"
#include "model/hidden_file.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_SEQUENCES = 1, KEY_CONTEXT, KEY_SEED, KEY_TEMPLATE, KEY_DATE, KEY_HELD, KEY_EMBEDDING, KEY_BLOCK, KEY_PART,
       KEY_ADVANCE, KEY_IN, KEY_OUT, KEY_REFERENCE, KEY_REFERENCE_IN, KEY_REFERENCE_OUT, KEY_MEMORY, N_KEY };

/* What is done, as bits, for the options that belong to it. */
enum { WHOLE = 1, EMBEDDING = 2, BLOCK = 4, ANY = 7 };

enum { MODEL, REFERENCE, SIDES };

static struct {
    const char *operand[2];
    int n_operand, mode;
    bool given[N_KEY];
    struct calibration_text_options text;
    int64_t held, block, memory;
    enum block_part part;
    const char *model[SIDES], *in[SIDES], *out[SIDES];
} options = {.text.sequences = 128, .held = -1, .block = -1, .memory = 1 << 30, .part = PARTS};

static const struct argp_option table[] = {
    {NULL, 0, NULL, 0, "What text:", 1},
    {"sequences", KEY_SEQUENCES, "N", 0, "use N sequences (default: 128)", 1},
    {"context", KEY_CONTEXT, "N", 0, "of N tokens each (default: 2048, or the model's maximum if that is smaller)", 1},
    {"seed", KEY_SEED, "N", 0, "draw them from the whole text, by this seed, instead of taking the first ones", 1},
    {"template", KEY_TEMPLATE, "NAME", 0, "write conversations in this chat template (default: the model's own)", 1},
    {"date", KEY_DATE, "DATE", 0, "the date that some templates state (default: 2025-01-01, so that the same "
     "command makes the same moments on any day)", 1},
    {"held", KEY_HELD, "N", 0, "hold the last N sequences out, for moments of their own (default: with --reference an "
     "eighth, at least one of several; otherwise none)", 1},
    {NULL, 0, NULL, 0, "Block by block:", 2},
    {"embedding", KEY_EMBEDDING, NULL, 0, "no moments: only look the tokens up and write the hidden states", 2},
    {"block", KEY_BLOCK, "K", 0, "only block K, with the hidden states of --hidden-in and without TEXT; MODEL may be a "
     "stream of this block alone", 2},
    {"part", KEY_PART, "PART", 0, "of --block: only the input of qkv, o, gateup or down, and no further", 2},
    {"advance", KEY_ADVANCE, NULL, 0, "of --block: no moments, only --hidden-out", 2},
    {"hidden-in", KEY_IN, "FILE", 0, "the hidden states that enter the block", 2},
    {"hidden-out", KEY_OUT, "FILE", 0, "write the hidden states that leave it (the embedding, the block)", 2},
    {NULL, 0, NULL, 0, "With the dense model beside it:", 3},
    {"reference", KEY_REFERENCE, "DENSE", 0, "add the moments between its inputs and the model's", 3},
    {"reference-hidden-in", KEY_REFERENCE_IN, "FILE", 0, "of --block: the hidden states that enter its block", 3},
    {"reference-hidden-out", KEY_REFERENCE_OUT, "FILE", 0, "of --block: write those that leave it", 3},
    {NULL, 0, NULL, 0, "Of all:", 4},
    {"memory", KEY_MEMORY, "SIZE", 0, "keep up to SIZE bytes of hidden states in memory, more in $TMPDIR (default: "
     "1G)", 4},
    {0},
};

/* What each option belongs to, and what it can't do without. */
static const struct {
    const char *name;
    int of, needs;
} belongs[N_KEY] = {
    [KEY_SEQUENCES] = {"sequences", WHOLE | EMBEDDING, 0}, [KEY_CONTEXT] = {"context", WHOLE | EMBEDDING, 0},
    [KEY_SEED] = {"seed", WHOLE | EMBEDDING, 0}, [KEY_TEMPLATE] = {"template", WHOLE | EMBEDDING, 0},
    [KEY_DATE] = {"date", WHOLE | EMBEDDING, 0}, [KEY_HELD] = {"held", WHOLE | BLOCK, 0},
    [KEY_EMBEDDING] = {"embedding", EMBEDDING, KEY_OUT}, [KEY_BLOCK] = {"block", BLOCK, KEY_IN},
    [KEY_PART] = {"part", BLOCK, KEY_BLOCK}, [KEY_ADVANCE] = {"advance", BLOCK, KEY_OUT},
    [KEY_IN] = {"hidden-in", BLOCK, KEY_BLOCK}, [KEY_OUT] = {"hidden-out", EMBEDDING | BLOCK, 0},
    [KEY_REFERENCE] = {"reference", WHOLE | BLOCK, 0},
    [KEY_REFERENCE_IN] = {"reference-hidden-in", BLOCK, KEY_REFERENCE},
    [KEY_REFERENCE_OUT] = {"reference-hidden-out", BLOCK, KEY_REFERENCE}, [KEY_MEMORY] = {"memory", ANY, 0},
};

static const char *mode_name(void)
{
    return options.mode == WHOLE ? "a whole model" : options.mode == BLOCK ? "--block" : "--embedding";
}

static bool wants_moments(void)
{
    return options.mode != EMBEDDING && !options.given[KEY_ADVANCE];
}

/* Options that exclude each other. */
static void check_pairs(void)
{
    static const int pairs[][2] = {{KEY_EMBEDDING, KEY_BLOCK}, {KEY_PART, KEY_ADVANCE}, {KEY_PART, KEY_OUT},
                                   {KEY_PART, KEY_REFERENCE_OUT}, {KEY_HELD, KEY_ADVANCE}};

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (options.given[pairs[i][0]] && options.given[pairs[i][1]])
            die(EX_USAGE, "--%s and --%s exclude each other", belongs[pairs[i][0]].name, belongs[pairs[i][1]].name);
}

static void check_outputs(void)
{
    const char *const moments = common_options.output ? common_options.output : wants_moments() ? "-" : NULL;
    const char *const output[] = {moments, options.out[MODEL], options.out[REFERENCE]};

    for (int i = 0; i < 3; i++)
        for (int j = 0; j < i; j++)
            if (output[i] && output[j] && file_same(output[i], output[j]))
                die(EX_USAGE, "two outputs are '%s'%s", output[i], file_is_stdin(output[i]) ? ", standard output" : "");
    if (common_options.output && !wants_moments())
        die(EX_USAGE, "--output: there are no moments to write with --%s",
            options.mode == EMBEDDING ? "embedding" : "advance");
}

static void check_operands(void)
{
    int needed = options.mode == BLOCK ? 1 : 2;

    if (options.n_operand < needed)
        die(EX_USAGE, needed == 1 ? "which model? calibrate MODEL --block K --hidden-in FILE" :
            "a model and a text are needed: calibrate MODEL TEXT");
    if (options.n_operand > needed)
        die(EX_USAGE, "--block takes no text: its tokens are in --hidden-in");
    options.model[MODEL] = options.operand[0];
}

static void check(void)
{
    options.mode = options.given[KEY_BLOCK] ? BLOCK : options.given[KEY_EMBEDDING] ? EMBEDDING : WHOLE;
    check_pairs();
    for (int key = 1; key < N_KEY; key++) {
        int needs = belongs[key].needs;

        if (options.given[key] && needs && !options.given[needs])
            die(EX_USAGE, "--%s needs --%s", belongs[key].name, belongs[needs].name);
        if (options.given[key] && !(belongs[key].of & options.mode))
            die(EX_USAGE, "--%s doesn't belong to %s", belongs[key].name, mode_name());
    }
    if (options.mode == BLOCK && options.given[KEY_REFERENCE] && !options.given[KEY_REFERENCE_IN])
        die(EX_USAGE, "--block with --reference needs --reference-hidden-in");
    check_outputs();
    check_operands();
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    if (key > 0 && key < N_KEY)
        options.given[key] = true;
    switch (key) {
    case KEY_SEQUENCES:
        return options.text.sequences = option_int("--sequences", value, 1, 1 << 30), 0;
    case KEY_CONTEXT:
        return options.text.context = option_int("--context", value, 2, INT32_MAX), 0;
    case KEY_SEED:
        options.text.drawn = true;
        return options.text.seed = (uint64_t)option_int("--seed", value, 0, INT64_MAX), 0;
    case KEY_TEMPLATE:
        return options.text.template = value, 0;
    case KEY_DATE:
        return options.text.date = value, 0;
    case KEY_HELD:
        return options.held = option_int("--held", value, 0, INT64_MAX), 0;
    case KEY_EMBEDDING:
    case KEY_ADVANCE:
        return 0;
    case KEY_BLOCK:
        return options.block = option_int("--block", value, 0, INT32_MAX), 0;
    case KEY_PART:
        return options.part = (enum block_part)option_word("--part", value, part_names), 0;
    case KEY_IN:
        return options.in[MODEL] = value, 0;
    case KEY_OUT:
        return options.out[MODEL] = value, 0;
    case KEY_REFERENCE:
        return options.model[REFERENCE] = value, 0;
    case KEY_REFERENCE_IN:
        return options.in[REFERENCE] = value, 0;
    case KEY_REFERENCE_OUT:
        return options.out[REFERENCE] = value, 0;
    case KEY_MEMORY:
        return options.memory = option_size("--memory", value, 0), 0;
    case ARGP_KEY_ARG:
        if (options.n_operand == 2)
            return ARGP_ERR_UNKNOWN;
        return options.operand[options.n_operand++] = value, 0;
    case ARGP_KEY_END:
        return check(), 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "calibrate",
    .operands = "MODEL TEXT\nMODEL TEXT --embedding --hidden-out FILE\nMODEL --block K --hidden-in FILE",
    .purpose = "Measure what the linear layers of a model see: the second moments of their inputs.",
    .details = "MODEL is a directory, a GGUF file or a stream, '-' for one on standard input; TEXT a text, or JSON "
               "lines with \"text\" or conversations (\"messages\", ShareGPT's \"conversations\", Alpaca's "
               "\"instruction\"), likewise. A stream of moments goes to standard output, for mpo-decompose, quantize "
               "and allot.\n\n"
               "Block by block: --embedding writes the hidden states that enter block 0, and --block K reads "
               "those that enter block K and writes those that leave it. So a block can be compressed on the inputs "
               "that the compressed blocks before it make, and the moments of one block are there at a time.",
    .example = "  echo 'Once upon a time, there was a girl.' > text\n"
               "  calibrate model text -o moments\n"
               "  calibrate model text --embedding --hidden-out in\n"
               "  extract-layer model --layer 0 | calibrate - --block 0 --hidden-in in --hidden-out out -o moments",
    .table = table,
    .parse = parse,
    .common = OPTION_OUTPUT | OPTION_THREADS | OPTION_DEVICE | OPTION_ACTIVATIONS,
};

/* A model on its way through its blocks. */
struct side {
    struct loader loader;
    struct forward forward;
    struct hidden_file in;       /* its hidden states; sequences and history where they came from a file */
    struct pass pass;
    struct writer out;           /* of --hidden-out */
    bool opened;
};

struct job {
    const struct device *device;
    struct side side[SIDES];
    int sides;
    struct calibration_text text;
    const struct sequence *sequence;
    int64_t count, held;         /* sequences */
    struct json *about;          /* options of the history: what the text was */
    struct calibration calibration;
    struct writer moments;
};

static int open_side(struct job *job, int s)
{
    struct side *side = &job->side[s];
    int rc = loader_open(&side->loader, options.model[s], job->device, (enum activations)common_options.activations);

    if (rc)
        return rc;
    side->opened = true;
    forward_begin(&side->forward, job->device, &side->loader.config);
    if (options.block >= side->loader.config.n_layer)
        return fail(EX_USAGE, "--block: %lld, but '%s' has blocks 0 to %lld", (long long)options.block,
                    loader_name(&side->loader), (long long)side->loader.config.n_layer - 1);
    if (!config_same_shapes(&side->loader.config, &job->side[MODEL].loader.config))
        return fail(EX_DATAERR, "'%s' and the reference '%s' are not of the same sizes",
                    loader_name(&job->side[MODEL].loader), loader_name(&side->loader));
    return EX_OK;
}

/* The hidden states: room for the text's. */
static int open_text(struct job *job)
{
    int rc = calibration_text_open(&job->text, options.operand[1], &job->side[MODEL].loader, &options.text);

    if (rc)
        return rc;
    job->sequence = job->text.sequence;
    job->count = job->text.count;
    job->about = calibration_text_history(&job->text, options.operand[1], &options.text);
    for (int s = 0; s < job->sides && !rc; s++)
        rc = hidden_open(&job->side[s].in.hidden, sequences_rows(job->sequence, job->count),
                         job->side[s].loader.config.d_model, options.memory / job->sides);
    return rc;
}

static const struct json *last_entry(const struct json *history)
{
    size_t count = json_count(history);

    return count ? json_item(history, count - 1) : NULL;
}

static int compare_sides(const struct hidden_file *model, const struct hidden_file *reference)
{
    int64_t s = 0;

    while (s < model->count && s < reference->count && model->sequence[s].n == reference->sequence[s].n)
        s++;
    if (model->count != reference->count || s < model->count
        || !json_same(last_entry(model->history), last_entry(reference->history)))
        return fail(EX_DATAERR, "'%s' and '%s' are hidden states of other texts", options.in[MODEL],
                    options.in[REFERENCE]);
    return EX_OK;
}

/* The hidden states: from files. */
static int open_hidden(struct job *job)
{
    int rc = EX_OK;

    for (int s = 0; s < job->sides && !rc; s++)
        rc = hidden_file_read(&job->side[s].in, options.in[s], &job->side[s].loader.config, options.block,
                              options.memory / job->sides);
    if (!rc && job->sides == SIDES)
        rc = compare_sides(&job->side[MODEL].in, &job->side[REFERENCE].in);
    if (rc)
        return rc;
    job->sequence = job->side[MODEL].in.sequence;
    job->count = job->side[MODEL].in.count;
    job->about = json_clone(json_at(last_entry(job->side[MODEL].in.history), "options"));
    if (json_kind(job->about) != JSON_KIND_OBJECT)
        return fail(EX_DATAERR, "'%s': no word of the text in its history", options.in[MODEL]);
    return EX_OK;
}

/* A stream of the model of this side: its history, and calibrate with these options (stolen). */
static int open_stream(struct writer *writer, const char *path, const struct side *side, struct json *entry)
{
    struct json *history = source_history(&side->loader.source);
    int rc;

    json_append(history, history_entry("calibrate", entry));
    rc = writer_open(writer, path, side->loader.source.config, history);
    json_drop(history);
    return rc;
}

static int open_moments(struct job *job)
{
    struct calibration_options wanted = {.part = options.part, .reference = job->sides == SIDES,
                                         .rows = sequences_rows(job->sequence, job->count)};
    struct json *entry = json_clone(job->about);

    job->held = options.held >= 0 ? options.held : job->sides == SIDES ? most(job->count / 8, job->count > 1) : 0;
    if (job->held >= job->count) {
        json_drop(entry);
        return fail(EX_USAGE, "--held: %lld of %lld sequences leave none", (long long)job->held,
                    (long long)job->count);
    }
    if (job->sides == SIDES && !job->held)
        note("no sequences are held out: what fits with these moments can't tell whether those of the reference help, and "
             "leaves them out");
    wanted.held = sequences_rows(job->sequence + job->count - job->held, job->held);
    if (job->held)
        json_put(entry, "held", json_make_int(job->held));
    if (common_options.activations)
        json_put(entry, "activations", json_make_string(activations_names[common_options.activations]));
    if (job->sides == SIDES)
        json_put(entry, "reference", source_history(&job->side[REFERENCE].loader.source));
    calibration_begin(&job->calibration, job->device, &job->side[MODEL].loader.config, &wanted);
    job->side[MODEL].forward.tap = &job->calibration.tap;
    if (job->sides == SIDES)
        job->side[REFERENCE].forward.tap = &job->calibration.reference;
    return open_stream(&job->moments, common_options.output, &job->side[MODEL], entry);
}

/* The outputs that were asked for, before hours of work for nothing. */
static int open_outputs(struct job *job)
{
    int rc = wants_moments() ? open_moments(job) : EX_OK;

    for (int s = 0; s < job->sides && !rc; s++)
        if (options.out[s])
            rc = open_stream(&job->side[s].out, options.out[s], &job->side[s], json_clone(job->about));
    return rc;
}

/* The reference goes first: its inputs are there when the model's come. */
static int run_block(struct job *job, int64_t layer, bool last)
{
    struct pass pass[SIDES];
    struct block block[SIDES] = {0};
    char *label = xasprintf("layer %lld", (long long)layer);
    int rc = EX_OK;

    for (int m = 0; m < job->sides && !rc; m++) {
        struct side *side = &job->side[job->sides - 1 - m];

        if (side->forward.tap && last && !options.out[job->sides - 1 - m])
            side->forward.tap->last = options.part == PARTS ? PART_DOWN : options.part;
        pass[m] = side->pass;
        pass[m].label = label;
        rc = loader_block(&side->loader, layer, &block[m]);
    }
    if (!rc)
        rc = pass_block(pass, block, job->sides, layer);
    free(label);
    for (int m = 0; m < job->sides; m++)
        block_free(&block[m], job->device);
    return rc || !wants_moments() ? rc : calibration_write(&job->calibration, layer, &job->moments);
}

static int begin_sides(struct job *job)
{
    int rc = EX_OK;

    for (int s = 0; s < job->sides && !rc; s++) {
        struct side *side = &job->side[s];
        struct applied *embedding = NULL;

        rc = pass_begin(&side->pass, &side->loader, &side->forward, job->sequence, job->count, &side->in.hidden);
        if (!rc && options.mode == BLOCK)
            rc = loader_seek(&side->loader, options.block);
        else if (!rc)
            rc = pass_embed(&side->pass, &embedding);
        apply_free(embedding);
    }
    return rc;
}

static int run_blocks(struct job *job)
{
    int64_t first = options.mode == BLOCK ? options.block : 0, layers = job->side[MODEL].loader.config.n_layer;
    int64_t end = options.mode == BLOCK ? options.block + 1 : options.mode == WHOLE ? layers : 0;
    int rc = EX_OK;

    progress_start("calibrating", (end - first) * pass_pieces(&job->side[MODEL].pass));
    for (int64_t layer = first; layer < end && !rc; layer++)
        rc = run_block(job, layer, layer == end - 1);
    progress_stop();
    return rc;
}

/* Everything is verified and complete before any file gets its name. */
static int finish(struct job *job)
{
    int64_t next = options.mode == BLOCK ? options.block + 1 : 0;
    int rc = EX_OK;

    for (int s = 0; s < job->sides && !rc; s++)
        rc = loader_finish(&job->side[s].loader);
    for (int s = 0; s < job->sides && !rc; s++)
        if (options.out[s])
            rc = hidden_file_write(&job->side[s].out, &job->side[s].in.hidden, job->sequence, job->count, next);
    if (!rc && wants_moments())
        rc = writer_end(&job->moments);
    for (int s = 0; s < job->sides && !rc; s++)
        if (options.out[s])
            rc = writer_end(&job->side[s].out);
    return rc;
}

/* Standard input, which is read once, may be one of the inputs only. */
static int check_inputs(void)
{
    const char *input[5];
    int count = 0;

    for (int i = 0; i < options.n_operand; i++)
        input[count++] = options.operand[i];
    for (int s = 0; s < SIDES; s++) {
        if (s == REFERENCE && options.model[s])
            input[count++] = options.model[s];
        if (options.in[s])
            input[count++] = options.in[s];
    }
    return passage_one_stream(input, count);
}

static int run(struct job *job)
{
    int rc = check_inputs();

    for (int s = 0; s < job->sides && !rc; s++)
        rc = open_side(job, s);
    if (!rc)
        rc = options.mode == BLOCK ? open_hidden(job) : open_text(job);
    if (!rc && !(rc = open_outputs(job)) && !(rc = begin_sides(job)) && !(rc = run_blocks(job)))
        rc = finish(job);
    return rc;
}

static void close_side(struct side *side)
{
    pass_end(&side->pass);
    hidden_file_close(&side->in);
    writer_close(&side->out);
    if (side->opened) {
        forward_end(&side->forward);
        loader_close(&side->loader);
    }
}

int main(int argc, char **argv)
{
    struct job job = {.moments.output.fd = -1};
    int rc;

    options_parse(&program, argc, argv);
    job.sides = options.given[KEY_REFERENCE] ? SIDES : 1;
    for (int s = 0; s < SIDES; s++)
        job.side[s] = (struct side){.in.hidden.fd = -1, .out.output.fd = -1};
    if ((rc = device_choose(common_options.device, &job.device)))
        return rc;
    rc = run(&job);
    calibration_end(&job.calibration);
    writer_close(&job.moments);
    for (int s = 0; s < SIDES; s++)
        close_side(&job.side[s]);
    calibration_text_close(&job.text);
    json_drop(job.about);
    return rc;
}
