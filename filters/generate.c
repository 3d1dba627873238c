/* generate - text from a model: what follows a prompt, or the answer to a conversation. */
#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "model/chat_model.h"
#include "model/drawing.h"
#include "model/generation.h"
#include "text/continuation.h"
#include "text/prompts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_FILE = OPTION_KEYS, KEY_MESSAGES, KEY_MAX_TOKENS, KEY_TEMPERATURE, KEY_TOP_P, KEY_TOP_K, KEY_CHAT, KEY_SYSTEM,
       KEY_THINKING, KEY_TEMPLATE, KEY_DATE, KEY_JSON, KEY_CORPUS, KEY_FIRST, KEY_BATCH };

static struct {
    struct prompts prompts;
    int64_t max_tokens, top_k, corpus, first, batch;     /* corpus 0: none; batch 0: not given */
    double temperature, top_p;   /* temperature below 0: not given */
    const char *system, *template, *date;
    bool chat, thinking, json, narrowed;
} options = {.max_tokens = 256, .top_p = 1, .temperature = -1, .first = -1};

enum { BATCH = 64 };             /* documents at once */

static const struct argp_option table[] = {
    {"prompt", 'p', "TEXT", 0, "continue this text", 1},
    {"file", KEY_FILE, "FILE", 0, "continue the text in FILE, without the newline at its end", 1},
    {"messages", KEY_MESSAGES, "FILE", 0, "answer conversations, one a line as JSON: [{\"role\": \"user\", "
     "\"content\": \"...\"}, ...], or an object with these as \"messages\"", 1},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0, "stop after N tokens (default: 256)", 2},
    {"temperature", KEY_TEMPERATURE, "T", 0, "draw from the distribution with its logits divided by T; 0 (the "
     "default, of a corpus 1) takes the most likely token", 2},
    {"top-k", KEY_TOP_K, "K", 0, "draw from the K most likely tokens", 2},
    {"top-p", KEY_TOP_P, "P", 0, "draw from the most likely tokens that have probability P together", 2},
    {"chat", KEY_CHAT, NULL, 0, "take prompts as messages of a user, in the model's chat template; the options below "
     "and --messages mean that too", 3},
    {"system", KEY_SYSTEM, "TEXT", 0, "the system message", 3},
    {"thinking", KEY_THINKING, NULL, 0, "ask for thoughts before the answer (Granite, Qwen3)", 3},
    {"template", KEY_TEMPLATE, "NAME|FILE", 0, "use this chat template instead of the model's: granite, chatml, "
     "llama2, llama3, mistral, or a file with one of these in Jinja", 3},
    {"date", KEY_DATE, "YYYY-MM-DD", 0, "the date, in templates that state it (default: today)", 3},
    {"json", KEY_JSON, NULL, 0, "one line of JSON for each prompt: texts, tokens, counts, speed", 4},
    {NULL, 0, NULL, 0, "A corpus:", 5},
    {"corpus", KEY_CORPUS, "N", 0, "draw N documents, all beginning with --prompt where it is given; a line of JSON "
     "with \"text\" for each, as heal takes them", 5},
    {"first", KEY_FIRST, "M", 0, "from document number M on (default: 0): each depends on seed and number alone, so a "
     "corpus can go on, or be made in parts", 5},
    {"batch", KEY_BATCH, "N", 0, "draw N at once, 16 or more (default: 64)", 5},
    {0},
};

static void check_corpus(void)
{
    const struct prompts *from = &options.prompts;

    if (!options.corpus && (options.first >= 0 || options.batch || common_options.output))
        die(EX_USAGE, "--%s needs --corpus", options.first >= 0 ? "first" : options.batch ? "batch" : "output");
    if (options.corpus && (from->file || from->messages || options.chat || options.json))
        die(EX_USAGE, "--corpus makes plain documents: it goes with --prompt, not with files, chat or --json");
    if (options.corpus && (!options.temperature || !options.max_tokens))
        die(EX_USAGE, "--corpus draws: --%s must be above 0", options.max_tokens ? "temperature" : "max-tokens");
    if (options.temperature < 0)
        options.temperature = options.corpus ? 1 : 0;
}

static error_t parse_end(void)
{
    const struct prompts *from = &options.prompts;

    check_corpus();
    if (!!from->prompt + !!from->file + !!from->messages > 1)
        die(EX_USAGE, "of --prompt, --file and --messages only one can be given");
    if (from->messages && options.system)
        die(EX_USAGE, "--system does not go with --messages: conversations have system messages of their own");
    if (!options.corpus && !from->prompt && file_is_stdin(from->file ? from->file : from->messages)
        && file_is_stdin(common_options.input))
        die(EX_USAGE, "the model comes from standard input: the prompt must come by --prompt, or from a file");
    if (options.narrowed && !options.temperature)
        die(EX_USAGE, "--top-k and --top-p need a --temperature above 0");
    if (common_options.seeded && !options.temperature)
        die(EX_USAGE, "--seed needs a --temperature above 0");
    return 0;
}

static error_t parse_corpus(int key, const char *value)
{
    switch (key) {
    case KEY_CORPUS:
        return options.corpus = option_int("--corpus", value, 1, 1 << 24), 0;
    case KEY_FIRST:
        return options.first = option_int("--first", value, 0, (int64_t)1 << 40), 0;
    case KEY_BATCH:
        return options.batch = option_int("--batch", value, DRAWING_LANES, 4096), 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    options.chat |= key == KEY_MESSAGES || (key >= KEY_CHAT && key <= KEY_DATE);
    options.narrowed |= key == KEY_TOP_K || key == KEY_TOP_P;
    switch (key) {
    case 'p':
        options.prompts.prompt = value;
        return 0;
    case KEY_FILE:
        options.prompts.file = value;
        return 0;
    case KEY_MESSAGES:
        options.prompts.messages = value;
        return 0;
    case KEY_MAX_TOKENS:
        options.max_tokens = option_int("--max-tokens", value, 0, INT32_MAX);
        return 0;
    case KEY_TEMPERATURE:
        options.temperature = option_real("--temperature", value, 0, 1000);
        return 0;
    case KEY_TOP_P:
        options.top_p = option_real("--top-p", value, 0, 1);
        return 0;
    case KEY_TOP_K:
        options.top_k = option_int("--top-k", value, 1, INT32_MAX);
        return 0;
    case KEY_CHAT:
        return 0;
    case KEY_SYSTEM:
        options.system = value;
        return 0;
    case KEY_THINKING:
        options.thinking = true;
        return 0;
    case KEY_TEMPLATE:
        options.template = value;
        return 0;
    case KEY_DATE:
        options.date = value;
        return 0;
    case KEY_JSON:
        options.json = true;
        return 0;
    case ARGP_KEY_END:
        return parse_end();
    default:
        return parse_corpus(key, value);
    }
}

static const struct program program = {
    .name = "generate",
    .operands = "[MODEL]",
    .purpose = "Generate text with a model: what follows a prompt, or the answer to a conversation.",
    .details = "MODEL is a directory, a GGUF file or a stream; standard input otherwise. Without --prompt, --file or "
               "--messages each line of standard input is a prompt, and each by itself. Printed is what was generated, "
               "without the prompt and with a newline at its end; it comes as it is made. Text ends at a token of the "
               "model that says so, after --max-tokens, or where the context is full.\n\n"
               "A corpus for healing without data comes from the model alone: documents that begin with what begins "
               "a text for it (its tokenizer's BOS, or where that adds none the token between documents that it was "
               "trained with). On standard output each line comes when all before it are there, and an interrupt "
               "leaves whole ones: --first goes on behind them. A file (-o) appears when all are there.",
    .example = "  generate model -p 'Once upon a time' --max-tokens 20\n"
               "  generate model --corpus 3 --max-tokens 20 -o corpus.jsonl",
    .table = table,
    .parse = parse,
    .common = OPTION_SEED | OPTION_THREADS | OPTION_DEVICE | OPTION_ACTIVATIONS | OPTION_INPUT
              | OPTION_OUTPUT,
};

struct session {
    struct network network;
    struct tokenizer *tokenizer;
    struct chat_model template;
    struct ids stop, start;      /* start: of a corpus */
    struct continuation continuation;    /* of the prompt at hand */
    uint64_t prompts;            /* so far */
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    interrupted = signal;
}

/* The next interrupt ends generation, one more the program. */
static void catch_interrupt(void)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}, old;

    if (!sigaction(SIGINT, NULL, &old) && old.sa_handler != SIG_IGN)
        sigaction(SIGINT, &action, NULL);
}

/* EX_IOERR without a message where it can't be printed: the message comes when stdout is closed. An interrupt may fail
 * the write that it met; then that isn't the trouble. */
static int flush(void)
{
    return fflush(stdout) && !interrupted ? EX_IOERR : EX_OK;
}

static int print_piece(const char *piece, size_t length)
{
    if (options.json || !length)
        return EX_OK;
    fwrite(piece, 1, length, stdout);
    return flush();
}

static int take_token(void *context, int32_t token)
{
    struct session *session = context;
    const char *piece;
    size_t length = continuation_take(&session->continuation, token, &piece);

    return print_piece(piece, length);
}

static void print_json(const struct session *session, const struct text *prompt, size_t prompt_tokens,
                       const struct generated *generated)
{
    struct text answer = continuation_text(&session->continuation);
    struct json *line = generated_json(generated, prompt, (int64_t)prompt_tokens, &answer, options.chat);
    char *written;

    json_put(line, "device", json_make_string(session->network.device->name));
    json_put(line, "activations", json_make_string(activations_names[common_options.activations]));
    written = json_write(line, 0);
    puts(written);
    free(written);
    json_drop(line);
}

/* Generates from a text that is as the model gets it. */
static int run(struct session *session, const struct text *prompt)
{
    const struct config *config = &session->network.config;
    struct ids ids = {0};
    struct generated generated = {0};
    struct generation generation = {
        .network = &session->network, .max_tokens = options.max_tokens, .stop = &session->stop,
        .interrupted = &interrupted, .take = take_token, .context = session,
        .sampling = {options.temperature, options.top_k, options.top_p, common_options.seed, session->prompts++},
    };
    const char *piece;
    size_t length;
    int rc;

    tokenizer_encode(session->tokenizer, prompt->data, prompt->length, options.chat ? TOKENIZE_PLAIN :
                     TOKENIZE_TEMPLATE, &ids);
    if (!ids.count && config->bos >= 0 && config->bos < config->vocab_size)
        ids_append(&ids, (int32_t)config->bos);
    continuation_begin(&session->continuation, session->tokenizer, ids.id, options.chat ? 0 : ids.count);
    rc = generate(&generation, ids.id, (int64_t)ids.count, &generated);
    length = continuation_end(&session->continuation, &piece);
    if (!rc)
        rc = print_piece(piece, length);
    if (!rc && options.json)
        print_json(session, prompt, ids.count, &generated);
    else if (!rc)
        putchar('\n');
    if (!rc && generated.finish == FINISH_CONTEXT)
        note("the model's context of %lld tokens is full", (long long)config->max_position);
    ids_free(&ids);
    ids_free(&generated.ids);
    return rc ? rc : flush();
}

/* Generates the answer to a conversation. */
static int answer(struct session *session, const struct message *messages, int count)
{
    struct text text = {0};
    int rc = chat_write(&session->template.chat, messages, count, true, &text);

    if (!rc)
        rc = run(session, &text);
    text_free(&text);
    return rc;
}

static int run_all(struct session *session)
{
    struct prompts *prompts = &options.prompts;
    struct message messages[2] = {{"system", options.system}};
    bool more = true;
    int rc = EX_OK;

    catch_interrupt();           /* until here one ends the program */
    while (!rc && !interrupted && !(rc = prompts_next(prompts, &more)) && more) {
        messages[1] = (struct message){"user", prompts->text.data};
        if (options.chat && strlen(prompts->text.data) < prompts->text.length)
            rc = fail(EX_DATAERR, "the prompt has a NUL byte, which a message can't have");
        else if (prompts->messages)
            rc = answer(session, prompts->conversation.messages, prompts->conversation.count);
        else if (options.chat)
            rc = answer(session, messages + !options.system, 1 + !!options.system);
        else
            rc = run(session, &prompts->text);
    }
    return rc;
}

/* ---- a corpus ---- */

/* In one write: an interrupt comes before or behind the line. */
static int write_document(void *context, const char *text, size_t length)
{
    struct json *line = json_make_object();
    char *written;
    struct text whole = {0};
    int rc;

    json_put(line, "text", json_make_stringn(text, length));
    written = json_write(line, 0);
    text_format(&whole, "%s\n", written);
    rc = output_write(context, whole.data, whole.length);
    text_free(&whole);
    free(written);
    json_drop(line);
    return rc;
}

static int draw(struct session *session, struct output *output)
{
    struct drawing drawing = {
        .network = &session->network, .tokenizer = session->tokenizer, .start = session->start, .stop = session->stop,
        .sampling = {options.temperature, options.top_k, options.top_p, common_options.seed, 0},
        .first = options.first < 0 ? 0 : options.first, .count = options.corpus, .max_tokens = options.max_tokens,
        .lanes = (int)(options.batch ? options.batch : BATCH), .interrupted = &interrupted, .take = write_document,
        .context = output,
    };
    struct drawn drawn;
    int rc;

    catch_interrupt();
    if (!(rc = drawing_run(&drawing, &drawn)) && drawn.documents == options.corpus)
        rc = output_commit(output);
    else if (!rc && !output->part)
        note("stopped: --first %lld goes on", (long long)(drawing.first + drawn.documents));
    if (!rc)
        note("%lld documents, %lld of which end by themselves, of %lld tokens in %.1f s (%.0f per second)",
             (long long)drawn.documents, (long long)drawn.ended, (long long)drawn.tokens, drawn.seconds,
             (double)drawn.tokens / drawn.seconds);
    return rc;
}

static int run_corpus(struct session *session)
{
    struct output output;
    int rc = output_open(&output, common_options.output, false);

    if (!rc)
        rc = draw(session, &output);
    output_close(&output);
    return rc;
}

/* All that is needed of the model. */
static int session_open(struct session *session)
{
    const struct device *device;
    struct loader loader;
    int rc;

    if ((rc = device_choose(common_options.device, &device)) ||
        (rc = loader_open(&loader, common_options.input, device, (enum activations)common_options.activations)))
        return rc;
    if (!(rc = loader_tokenizer(&loader, &session->tokenizer)) && options.chat &&
        !(rc = chat_model_open(&session->template, &loader, session->tokenizer, options.template))) {
        session->template.chat.thinking = options.thinking;
        session->template.chat.date = options.date;
    }
    if (!rc)
        rc = stop_tokens(&loader, session->tokenizer, options.chat ? &session->template.chat : NULL, &session->stop);
    if (!rc && options.corpus)
        rc = drawing_start(&loader, session->tokenizer, options.prompts.prompt ? options.prompts.prompt : "",
                           &session->start);
    if (!rc)
        rc = network_load(&session->network, &loader);
    loader_close(&loader);
    return rc;
}

static void session_close(struct session *session)
{
    if (session->network.device)
        network_free(&session->network);
    tokenizer_close(session->tokenizer);
    chat_model_close(&session->template);
    ids_free(&session->stop);
    ids_free(&session->start);
    continuation_free(&session->continuation);
    prompts_close(&options.prompts);
}

int main(int argc, char **argv)
{
    struct session session = {0};
    int rc;

    options_parse(&program, argc, argv);
    if (!(rc = session_open(&session)))
        rc = options.corpus ? run_corpus(&session) : run_all(&session);
    session_close(&session);
    if (interrupted && !rc) {
        fflush(stdout);
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    return rc;
}
