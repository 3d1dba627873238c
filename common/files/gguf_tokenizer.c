/* gguf_tokenizer.c - a vocabulary as tokenizer.json (the format of Hugging Face's tokenizers) and
 * tokenizer_config.json.
 *
 * GGUF names the pre-tokenizer by a word; what it does is known here, in one table. The parts of the JSON are trees,
 * except the vocabulary and the merges, which are written straight: as trees they would take a hundred megabytes. */
#include "files/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- pre-tokenizers of byte-level models ---- */

enum split {
    SPLIT_GPT2,                  /* GPT-2's expression, which the ByteLevel step has built in */
    SPLIT_DIGITS,                /* single digits before it */
    SPLIT_OWN,                   /* an expression of its own in its place */
};

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define WORDS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define SIGNS_AND_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

#define LLAMA3 CONTRACTIONS WORDS "\\p{N}{1,3}" SIGNS_AND_SPACES
#define QWEN2 CONTRACTIONS WORDS "\\p{N}" SIGNS_AND_SPACES
#define TEKKEN "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}" \
               "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct pre {
    const char *name;            /* tokenizer.ggml.pre */
    enum split split;
    const char *expression;
    bool nfc;                    /* text is normalized first */
    bool whole_words;            /* a word that is a token needs no merges */
    bool bos;                    /* begins with BOS where no key says otherwise */
};

static const struct pre pres[] = {
    {"gpt-2", SPLIT_GPT2, NULL, false, false, false}, {"default", SPLIT_GPT2, NULL, false, false, false},
    {"olmo", SPLIT_GPT2, NULL, false, false, false}, {"smollm", SPLIT_DIGITS, NULL, false, false, false},
    {"starcoder", SPLIT_DIGITS, NULL, false, false, false}, {"refact", SPLIT_DIGITS, NULL, false, false, false},
    {"codeshell", SPLIT_DIGITS, NULL, false, false, false}, {"command-r", SPLIT_DIGITS, NULL, false, false, false},
    {"exaone", SPLIT_DIGITS, NULL, false, false, false}, {"minerva-7b", SPLIT_DIGITS, NULL, false, false, false},
    {"llama-bpe", SPLIT_OWN, LLAMA3, false, true, true}, {"llama3", SPLIT_OWN, LLAMA3, false, true, true},
    {"llama-v3", SPLIT_OWN, LLAMA3, false, true, true}, {"falcon3", SPLIT_OWN, LLAMA3, false, true, true},
    {"dbrx", SPLIT_OWN, LLAMA3, false, false, false}, {"smaug-bpe", SPLIT_OWN, LLAMA3, false, false, false},
    {"qwen2", SPLIT_OWN, QWEN2, true, false, false}, {"deepseek-r1-qwen", SPLIT_OWN, QWEN2, true, false, false},
    {"tekken", SPLIT_OWN, TEKKEN, false, true, true},
};

static int find_pre(const struct gguf *g, const struct pre **pre)
{
    struct gguf_string name = {0};
    char shown[84];
    int rc = gguf_text(g, "tokenizer.ggml.pre", &name);

    if (rc)
        return rc;
    *pre = &pres[0];
    if (!name.data) {
        note("'%s' names no pre-tokenizer (tokenizer.ggml.pre): GPT-2's is taken", g->path);
        return EX_OK;
    }
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
        if (name.length == strlen(pres[i].name) && !memcmp(name.data, pres[i].name, name.length)) {
            *pre = &pres[i];
            return EX_OK;
        }
    return gguf_fail(g, "key 'tokenizer.ggml.pre': '%s' is not supported", gguf_show(name, shown));
}

/* ---- the parts ---- */

/* What the tokenizer does besides merging. */
struct manner {
    const struct gguf_vocab *vocab;
    const struct pre *pre;       /* of byte-level models */
    bool bos, eos, space;        /* put before, behind the text; a space before it (SentencePiece only) */
};

/* A part that never varies. */
static struct json *constant(const char *text)
{
    return json_parse(text, strlen(text), "a part of tokenizer.json");
}

static struct json *token_text(const struct gguf_vocab *vocab, int64_t id)
{
    return id < 0 ? json_make_null() : json_make_stringn(vocab->token[id].data, vocab->token[id].length);
}

static struct json *normalizer(const struct manner *manner)
{
    if (manner->vocab->byte_level)
        return manner->pre->nfc ? constant("{\"type\":\"NFC\"}") : json_make_null();
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}"
    if (!manner->space)
        return constant(REPLACE);
    return constant("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
                    REPLACE "]}");
#undef REPLACE
}

#define BYTE_LEVEL(regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true," \
                          "\"use_regex\":" regex "}"

static struct json *pre_tokenizer(const struct manner *manner)
{
    struct json *sequence, *steps, *step, *pattern;

    if (!manner->vocab->byte_level)
        return json_make_null();
    if (manner->pre->split == SPLIT_GPT2)
        return constant(BYTE_LEVEL("true"));
    if (manner->pre->split == SPLIT_DIGITS)
        return constant("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
                        BYTE_LEVEL("true") "]}");
    sequence = constant("{\"type\":\"Sequence\"}");
    steps = json_make_array();
    step = constant("{\"type\":\"Split\"}");
    pattern = json_make_object();
    json_put(pattern, "Regex", json_make_string(manner->pre->expression));
    json_put(step, "pattern", pattern);
    json_put(step, "behavior", json_make_string("Isolated"));
    json_put(step, "invert", json_make_bool(false));
    json_append(steps, step);
    json_append(steps, constant(BYTE_LEVEL("false")));
    json_put(sequence, "pretokenizers", steps);
    return sequence;
}

static struct json *decoder(const struct manner *manner)
{
#define SPACES "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"}," \
               "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
    if (manner->vocab->byte_level)
        return constant("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}");
    if (!manner->space)
        return constant(SPACES "]}");
    return constant(SPACES ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}");
#undef SPACES
}

/* One step of a template: the text ("A", "B") or a special token. */
static void add_step(const struct gguf_vocab *vocab, struct json *steps, const char *text, int64_t id, int type)
{
    struct json *step = json_make_object(), *body = json_make_object();

    json_put(body, "id", text ? json_make_string(text) : token_text(vocab, id));
    json_put(body, "type_id", json_make_int(type));
    json_put(step, text ? "Sequence" : "SpecialToken", body);
    json_append(steps, step);
}

static void add_special(const struct gguf_vocab *vocab, struct json *special, int64_t id)
{
    struct json *entry = json_make_object(), *ids = json_make_array(), *tokens = json_make_array();
    char *name = xstrndup(vocab->token[id].data, vocab->token[id].length);

    json_append(ids, json_make_int(id));
    json_append(tokens, token_text(vocab, id));
    json_put(entry, "id", token_text(vocab, id));
    json_put(entry, "ids", ids);
    json_put(entry, "tokens", tokens);
    json_put(special, name, entry);
    free(name);
}

static struct json *post_processor(const struct manner *manner)
{
    const struct gguf_vocab *vocab = manner->vocab;
    struct json *processor, *single = json_make_array(), *pair = json_make_array(), *special = json_make_object();

    for (int type = 0; type < 2; type++) {
        struct json *lists[2] = {pair, type ? NULL : single};

        for (int i = 0; i < 2 && lists[i]; i++) {
            if (manner->bos)
                add_step(vocab, lists[i], NULL, vocab->special.bos, type);
            add_step(vocab, lists[i], type ? "B" : "A", -1, type);
            if (manner->eos)
                add_step(vocab, lists[i], NULL, vocab->special.eos, type);
        }
    }
    if (manner->bos)
        add_special(vocab, special, vocab->special.bos);
    if (manner->eos)
        add_special(vocab, special, vocab->special.eos);
    processor = constant("{\"type\":\"TemplateProcessing\"}");
    json_put(processor, "single", single);
    json_put(processor, "pair", pair);
    json_put(processor, "special_tokens", special);
    return processor;
}

/* Tokens that are found whole in the text before anything else is done with it. */
static struct json *added_tokens(const struct gguf_vocab *vocab)
{
    struct json *list = json_make_array();

    for (int64_t id = 0; id < vocab->size; id++) {
        struct json *entry;

        if ((vocab->kind[id] != GGUF_CONTROL && vocab->kind[id] != GGUF_UNKNOWN && vocab->kind[id] != GGUF_USER) ||
            !vocab->token[id].length)
            continue;
        entry = json_make_object();
        json_put(entry, "id", json_make_int(id));
        json_put(entry, "content", token_text(vocab, id));
        json_put(entry, "single_word", json_make_bool(false));
        json_put(entry, "lstrip", json_make_bool(false));
        json_put(entry, "rstrip", json_make_bool(false));
        json_put(entry, "normalized", json_make_bool(false));
        json_put(entry, "special", json_make_bool(vocab->kind[id] != GGUF_USER));
        json_append(list, entry);
    }
    return list;
}

/* ---- writing ---- */

/* A JSON string; the bytes are known to be UTF-8. */
static void quote(struct text *out, struct gguf_string string)
{
    size_t from = 0;

    text_append(out, "\"", 1);
    for (size_t i = 0; i < string.length; i++) {
        unsigned char byte = (unsigned char)string.data[i];

        if (byte >= ' ' && byte != '"' && byte != '\\')
            continue;
        text_append(out, string.data + from, i - from);
        if (byte < ' ')
            text_format(out, "\\u%04x", byte);
        else
            text_format(out, "\\%c", byte);
        from = i + 1;
    }
    text_append(out, string.data + from, string.length - from);
    text_append(out, "\"", 1);
}

/* `"name": value`, the value released. */
static void write_member(struct text *out, const char *name, struct json *value)
{
    char *written = json_write(value, 0);

    text_format(out, "\"%s\":%s,\n", name, written);
    free(written);
    json_drop(value);
}

static void write_model(struct text *out, const struct manner *manner)
{
    const struct gguf_vocab *vocab = manner->vocab;
    bool pieces = !vocab->byte_level;
    const char *fallback = pieces ? "true" : "false";

    text_format(out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (pieces && vocab->special.unknown >= 0)
        quote(out, vocab->token[vocab->special.unknown]);
    else
        text_format(out, "null");
    text_format(out, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":%s,"
                "\"byte_fallback\":%s,\"ignore_merges\":%s,\n\"vocab\":{", fallback, fallback,
                !pieces && manner->pre->whole_words ? "true" : "false");
    for (int64_t id = 0; id < vocab->size; id++) {
        text_append(out, ",\n", id ? 2 : 0);
        quote(out, vocab->token[id]);
        text_format(out, ":%lld", (long long)id);
    }
    text_format(out, "},\n\"merges\":[");
    for (int64_t i = 0; i < vocab->merges; i++) {
        text_append(out, ",\n[", i ? 3 : 0);
        text_append(out, "[", i ? 0 : 1);
        quote(out, vocab->token[vocab->merge[i].left]);
        text_append(out, ",", 1);
        quote(out, vocab->token[vocab->merge[i].right]);
        text_append(out, "]", 1);
    }
    text_format(out, "]}");
}

static void add_tokenizer(const struct manner *manner, struct model *model)
{
    struct text out = {0};

    text_format(&out, "{\"version\":\"1.0\",\n\"truncation\":null,\n\"padding\":null,\n");
    write_member(&out, "added_tokens", added_tokens(manner->vocab));
    write_member(&out, "normalizer", normalizer(manner));
    write_member(&out, "pre_tokenizer", pre_tokenizer(manner));
    write_member(&out, "post_processor", post_processor(manner));
    write_member(&out, "decoder", decoder(manner));
    write_model(&out, manner);
    text_format(&out, "}\n");
    model_add_memory(model, "tokenizer.json", out.data, out.length);
}

/* The class is the one that takes tokenizer.json as it is; others would rebuild it with a pre-tokenizer of their
 * own. */
static int add_configuration(const struct gguf *g, const struct gguf_plan *plan, const struct manner *manner,
                             struct model *model)
{
    const struct gguf_vocab *vocab = manner->vocab;
    struct gguf_string template = {0};
    struct json *config, *text = NULL;
    char *written;
    int rc = gguf_text(g, "tokenizer.chat_template", &template);

    if (rc)
        return rc;
    if (template.data && !(text = json_make_stringn(template.data, template.length)))
        return gguf_fail(g, "key 'tokenizer.chat_template': expected UTF-8");
    config = json_make_object();
    json_put(config, "tokenizer_class", json_make_string("PreTrainedTokenizerFast"));
    json_put(config, "add_bos_token", json_make_bool(manner->bos));
    json_put(config, "add_eos_token", json_make_bool(manner->eos));
    json_put(config, "bos_token", token_text(vocab, vocab->special.bos));
    json_put(config, "eos_token", token_text(vocab, vocab->special.eos));
    json_put(config, "unk_token", token_text(vocab, vocab->special.unknown));
    json_put(config, "pad_token", token_text(vocab, vocab->special.pad));
    json_put(config, "clean_up_tokenization_spaces", json_make_bool(false));
    json_put(config, "model_max_length", json_make_int(plan->context));
    if (text)
        json_put(config, "chat_template", text);
    written = json_document(config);
    model_add_memory(model, "tokenizer_config.json", written, strlen(written));
    json_drop(config);
    return EX_OK;
}

int gguf_tokenizer(const struct gguf *g, const struct gguf_plan *plan, struct model *model)
{
    struct gguf_vocab vocab = {0};
    struct manner manner = {.vocab = &vocab, .space = true};
    int rc = gguf_vocab(g, &vocab);

    if (!rc && !vocab.size)
        note("'%s' has no tokenizer", g->path);
    if (rc || !vocab.size)
        goto done;
    if (vocab.size > plan->vocab) {
        rc = gguf_fail(g, "key 'tokenizer.ggml.tokens': found %lld tokens, expected at most the %lld of the embedding",
                       (long long)vocab.size, (long long)plan->vocab);
        goto done;
    }
    if (vocab.byte_level && (rc = find_pre(g, &manner.pre)))
        goto done;
    manner.bos = vocab.byte_level ? manner.pre->bos : true;
    if ((rc = gguf_bool(g, "tokenizer.ggml.add_bos_token", &manner.bos)) ||
        (rc = gguf_bool(g, "tokenizer.ggml.add_eos_token", &manner.eos)) ||
        (rc = gguf_bool(g, "tokenizer.ggml.add_space_prefix", &manner.space)))
        goto done;
    manner.bos = manner.bos && vocab.special.bos >= 0;
    manner.eos = manner.eos && vocab.special.eos >= 0;
    if (!(rc = add_configuration(g, plan, &manner, model)))
        add_tokenizer(&manner, model);
done:
    gguf_vocab_free(&vocab);
    return rc;
}
