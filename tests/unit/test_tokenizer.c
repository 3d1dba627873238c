/* test_tokenizer.c - each part of tokenizer.json on small made ones, refusals by name, hostile files, stories260K. */
#include "base/error.h"
#include "base/file.h"
#include "check.h"
#include "text/continuation.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char message[4096];

/* A vocabulary of a, b, c, space, digits and what pairs of them make; also with the signs that stand for a space. */
#define VOCAB "\"a\":0,\"b\":1,\"c\":2,\" \":3,\"1\":4,\"2\":5,\"ab\":6,\"abc\":7,\"bc\":8,\" a\":9,\"<unk>\":10," \
    "\"\xe2\x96\x81\":11," \
              "\"\xe2\x96\x81" "a\":12,\"<0xC3>\":13,\"<0xA9>\":14,\"\xc4\xa0\":15,\"\xc4\xa0" "a\":16,\"aa\":17," \
                  "\"<s>\":18"
#define MERGES "[\"b c\",[\"a\",\"b\"],[\"ab\",\"c\"],\"\xe2\x96\x81 a\",[\"\xc4\xa0\",\"a\"],\"a a\"]"

static char *document(const char *model, const char *parts)
{
    return xasprintf("{\"version\":\"1.0\"%s%s,\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},"
        "\"merges\":" MERGES "%s%s}}",
                     *parts ? "," : "", parts, *model ? "," : "", model);
}

static int open_text(const char *json, struct tokenizer **t)
{
    int rc;

    message[0] = '\0';
    error_capture(message, sizeof message);
    rc = tokenizer_open(json, strlen(json), "m", t);
    error_capture(NULL, 0);
    assert_true(!rc == !!*t);
    return rc;
}

static struct tokenizer *made(const char *model, const char *parts)
{
    struct tokenizer *t;
    char *json = document(model, parts);

    if (open_text(json, &t))
        fail_msg("%s", message);
    free(json);
    return t;
}

static void expect_ids(struct tokenizer *t, const char *text, size_t length, enum tokenize how, const char *expected)
{
    struct ids ids = {0};
    struct text shown = {0};

    text_append(&shown, "", 0);
    tokenizer_encode(t, text, length, how, &ids);
    for (size_t i = 0; i < ids.count; i++)
        text_format(&shown, i ? " %d" : "%d", ids.id[i]);
    assert_string_equal(shown.data, expected);
    text_free(&shown);
    ids_free(&ids);
}

/* With these parts text becomes these ids. */
static void check_ids(const char *model, const char *parts, const char *text, const char *expected)
{
    struct tokenizer *t = made(model, parts);

    expect_ids(t, text, strlen(text), TOKENIZE_TEMPLATE, expected);
    tokenizer_close(t);
}

static void check_refused(const char *model, const char *parts, const char *expected)
{
    struct tokenizer *t;
    char *json = document(model, parts);

    assert_int_equal(open_text(json, &t), EX_DATAERR);
    if (!strstr(message, expected) || !strstr(message, "tokenizer.json of 'm'"))
        fail_msg("expected '%s' in '%s'", expected, message);
    free(json);
}

static void check_text(const char *parts, const char *ids, bool skip, const char *expected)
{
    struct tokenizer *t = made("", parts);
    struct text whole = {0}, pieces = {0};
    struct decoding decoding;
    struct ids list = {0};
    char *end;

    for (const char *at = ids; *at; at = end)
        ids_append(&list, (int32_t)strtol(at, &end, 10));
    text_append(&whole, "", 0);
    text_append(&pieces, "", 0);
    tokenizer_decode(t, list.id, list.count, skip, &whole);
    assert_string_equal(whole.data, expected);
    decoding_begin(&decoding, t, skip);
    for (size_t i = 0; i < list.count; i++) {
        decoding_take(&decoding, list.id[i], &pieces);
        assert_true(utf8_is_valid(pieces.data, pieces.length));
        assert_memory_equal(pieces.data, expected, pieces.length);
    }
    decoding_end(&decoding, &pieces);
    assert_string_equal(pieces.data, expected);
    text_free(&whole);
    text_free(&pieces);
    ids_free(&list);
    tokenizer_close(t);
}

#define U(text) "\"unk_token\":\"<unk>\"" text
#define PRE(text) "\"pre_tokenizer\":" text
#define NORMAL(text) "\"normalizer\":" text
#define DECODER(text) "\"decoder\":" text

static void test_merging(void)
{
    check_ids("", "", "", "");
    check_ids("", "", "abc", "0 8");               /* the merge of b and c comes first */
    check_ids("", "", "ab", "6");
    check_ids("", "", "aab", "0 6");
    check_ids("", "", "aaaa", "17 17");            /* leftmost first */
    check_ids("", "", "aaa", "17 0");
    check_ids("\"ignore_merges\":true", "", "abc", "7");
    check_ids("\"ignore_merges\":null,\"dropout\":null,\"continuing_subword_prefix\":\"\","
        "\"end_of_word_suffix\":null", "",
              "abc", "0 8");
    check_ids("\"dropout\":0.0", "", "abc", "0 8");
}

static void test_unknown(void)
{
    check_ids("", "", "axxb", "6");                /* left out, so a and b stand side by side */
    check_ids(U(""), "", "axxb", "0 10 10 1");
    check_ids(U(",\"fuse_unk\":true"), "", "axxb", "0 10 1");
    check_ids(U(",\"byte_fallback\":true"), "", "a\xc3\xa9" "b", "0 13 14 1");
    check_ids(U(",\"byte_fallback\":true"), "", "a\xc3\xaa" "b", "0 10 1");      /* no token <0xAA> */
    check_ids(U(",\"byte_fallback\":true"), "", "x\xc3\xa9" "b", "13 14 10 1");  /* as tokenizers does */
}

static void test_long_words(void)
{
    struct tokenizer *t = made("", "");
    const size_t length = 1000000;
    char *text = xmalloc(length);
    struct ids ids = {0};

    memset(text, 'a', length);
    tokenizer_encode(t, text, length, TOKENIZE_PLAIN, &ids);
    assert_int_equal(ids.count, length / 2);
    ids_free(&ids);
    free(text);
    tokenizer_close(t);
}

#define BYTES(more) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true" more "}"

static void test_pre_tokenizers(void)
{
    check_ids("", PRE(BYTES("")), "a a a", "0 16 16");
    check_ids("", PRE(BYTES(",\"use_regex\":false")), "a a", "0 16");
    check_ids("", PRE("{\"type\":\"ByteLevel\"}"), "a", "16");
    check_ids("", PRE("{\"type\":\"ByteLevel\"}"), " a", "16");
    check_ids("", PRE(BYTES("")), "  a", "15 16");           /* the last space goes with the word */
    check_ids("", PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), "ab12", "6 4 5");
    check_ids("", PRE("{\"type\":\"WhitespaceSplit\"}"), "a\xe2\x80\x83" "b\n a", "0 1 0");
    check_ids("", PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Sequence\",\"pretokenizers\":[]},"
                      "{\"type\":\"Digits\"}," BYTES("") "]}"), "a1 a", "0 4 16");
}

#define SPLIT(pattern, behavior, invert) PRE("{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior \
                                             "\",\"invert\":" invert "}")
#define A_OR_B "\"Regex\":\"[12]\""

static void test_split(void)
{
    check_ids("", SPLIT("\"String\":\"b\"", "Isolated", "false"), "abc", "0 1 2");
    check_ids("", SPLIT("\"String\":\"b\"", "Removed", "false"), "abc", "0 2");
    check_ids("", SPLIT("\"String\":\"b\"", "Removed", "true"), "abcab", "1 1");
    check_ids("", SPLIT("\"String\":\"b\"", "MergedWithPrevious", "false"), "abc", "6 2");
    check_ids("", SPLIT("\"String\":\"b\"", "MergedWithNext", "false"), "abc", "0 8");
    check_ids("", SPLIT("\"String\":\"a\"", "Contiguous", "false"), "aaab", "17 0 1");
    check_ids("", SPLIT("\"String\":\"a\"", "Isolated", "false"), "aaab", "0 0 0 1");
    check_ids("", SPLIT("\"Regex\":\"(?=b)\"", "Isolated", "false"), "abc", "0 8");
    check_ids("", SPLIT("\"Regex\":\"\\\\s\"", "Removed", "false"), "a\xe1\xa0\x8e" "a a", "17 0");
    check_ids("", SPLIT("\"Regex\":\"(?i:A)\"", "Isolated", "false"), "aab", "0 0 1");
    check_refused("", SPLIT("\"Regex\":\"[a[b]]\"", "Isolated", "false"), "'[ in []' in the expression");
    check_refused("", SPLIT("\"Regex\":\"\\\\h\"", "Isolated", "false"), "'\\h' in the expression");
    check_refused("", SPLIT("\"Regex\":\"[a&&b]\"", "Isolated", "false"), "'&&' in the expression");
    check_refused("", SPLIT("\"Regex\":\"(?m:a)\"", "Isolated", "false"), "'(?' in the expression");
    check_refused("", SPLIT("\"Regex\":\"a{2}+\"", "Isolated", "false"), "'{' in the expression");
    check_refused("", SPLIT("\"Regex\":\"(a\"", "Isolated", "false"), "pre_tokenizer 'Split'");
    check_refused("", SPLIT("\"Regex\":\"\\\\\"", "Isolated", "false"), "in the expression");
    check_refused("", SPLIT("\"Regex\":\"\\\\p{Nonsense}\"", "Isolated", "false"), "pre_tokenizer 'Split'");
    check_refused("", SPLIT("\"Glob\":\"b\"", "Isolated", "false"), "expected a pattern");
    check_refused("", SPLIT("\"String\":\"b\"", "Glued", "false"), "behavior 'Glued' is not supported");
    check_refused("", SPLIT("\"String\":\"b\"", "Isolated", "7"), "expected true or false");
}

#define META(more) "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"" more "}"
#define TOKEN(id, content, more) "{\"id\":" #id ",\"content\":\"" content "\",\"special\":true," \
    "\"normalized\":false" more "}"

static void test_metaspace(void)
{
    check_ids("", PRE(META("")), "a a", "12 12");
    check_ids("", PRE(META(",\"prepend_scheme\":\"never\"")), "a a", "0 12");
    check_ids("", PRE(META(",\"add_prefix_space\":false")), "a a", "0 12");
    check_ids("", PRE(META(",\"prepend_scheme\":\"first\"")) ",\"added_tokens\":[" TOKEN(18, "<s>", "") "]", "a<s>a",
              "12 18 0");
    check_ids("", PRE(META("")) ",\"added_tokens\":[" TOKEN(18, "<s>", "") "]", "a<s>a", "12 18 12");
    check_ids("", PRE(META("")), " a", "12");
    check_refused("", PRE(META(",\"prepend_scheme\":\"last\"")), "prepend_scheme 'last'");
    check_refused("", PRE(META(",\"prepend_scheme\":\"first\"")) "," NORMAL("{\"type\":\"NFC\"}"),
        "behind these normalizers");
    check_refused("", PRE("{\"type\":\"Metaspace\",\"replacement\":\"xy\"}"), "expected one character");
}

static void test_normalizers(void)
{
    check_ids("", NORMAL("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
              "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]}"), "a a", "12 12");
    check_ids("", NORMAL("{\"type\":\"Prepend\",\"prepend\":\"b\"}"), "", "");
    check_ids("", NORMAL("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"1+\"},\"content\":\"b\"}"), "a111c", "0 8");
    check_ids("", NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"1\"},\"content\":\"\"}"), "111", "");
    check_ids(U(",\"byte_fallback\":true"), NORMAL("{\"type\":\"NFC\"}"), "e\xcc\x81", "13 14");
    check_ids("", NORMAL("{\"type\":\"NFKC\"}"), "\xef\xbc\x91", "4");          /* fullwidth 1 */
    check_refused("", NORMAL("{\"type\":\"Lowercase\"}"), "normalizer 'Lowercase' is not supported");
    check_refused("", NORMAL("{\"type\":\"Prepend\",\"prepend\":\"b\",\"where\":1}"),
        "member 'where' is not supported");
    check_refused("", NORMAL("{\"type\":\"Prepend\"}"), "expected a string 'prepend'");
}

static void test_added_tokens(void)
{
#define LIST(tokens) "\"added_tokens\":[" tokens "]"
    check_ids("", LIST(TOKEN(18, "<s>", "")), "a<s>bc", "0 18 8");
    check_ids("", LIST(TOKEN(18, "<s>", ",\"lstrip\":true,\"rstrip\":true")), "a  <s> \n b", "0 18 1");
    check_ids("", LIST(TOKEN(19, "\xe2\x80\x83", ",\"lstrip\":true,\"rstrip\":true")),
              "a \xe2\x80\x83 \xe2\x80\x83 b", "0 19 1");
    check_ids("", LIST(TOKEN(19, "\xe2\x80\x83", ",\"rstrip\":true")), "a \xe2\x80\x83 \xe2\x80\x83 b",
              "0 3 19 19 1");
    check_ids("", LIST(TOKEN(19, "\xe2\x80\x83", ",\"lstrip\":true")), "a \xe2\x80\x83 \xe2\x80\x83 b",
              "0 19 19 3 1");
    check_ids("", LIST(TOKEN(17, "aa", ",\"single_word\":true")), "aab aa", "0 6 3 17");
    check_ids("", LIST(TOKEN(19, "[X]", "") "," TOKEN(20, "[X]]", "")), "[X]][X]", "20 19");         /* the longest */
    check_ids("", LIST("{\"id\":19,\"content\":\"1b\",\"normalized\":true}") ","
              NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"1\"},\"content\":\"b\"}"), "abb", "0 19");
    check_ids("", LIST("{\"id\":19,\"content\":\"1b\",\"normalized\":false}") ","
              NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"1\"},\"content\":\"b\"}"), "1bb", "19 1");
    check_ids("", LIST(TOKEN(0, "", "")), "a", "0");
    check_refused("", LIST(TOKEN(18, "<s>", "") "," TOKEN(18, "<s>", "")), "'<s>' stands twice");
    check_refused("", LIST(TOKEN(-1, "<t>", "")), "'<t>': expected an id from 0");
    check_refused("", LIST(TOKEN(99999999, "<t>", "")), "'<t>': expected an id from 0");
    check_refused("", LIST(TOKEN(19, "<t>", ",\"colour\":1")), "member 'colour' is not supported");
    check_refused("", LIST(TOKEN(19, "<\\u0000>", "")), "content without NUL");
    check_refused("", LIST("7"), "added_tokens: expected an object");
    check_refused("", "\"added_tokens\":{}", "expected a list 'added_tokens'");
}

/* Tokens that are spaces, and take spaces along, in a long run of them: not a look at all of it from each. */
static void test_long_spaces(void)
{
    enum { COUNT = 400000 };
    struct tokenizer *t = made("", LIST(TOKEN(19, "\\t", ",\"rstrip\":true") "," TOKEN(20, "\\r", ",\"lstrip\":true")));
    char *text = xmalloc(COUNT);
    struct ids ids = {0};

    memset(text, '\t', COUNT);
    tokenizer_encode(t, text, COUNT, TOKENIZE_PLAIN, &ids);
    assert_int_equal(ids.count, COUNT);
    ids.count = 0;
    for (size_t i = 0; i < COUNT; i++)
        text[i] = "\t\r"[i % 2];
    tokenizer_encode(t, text, COUNT, TOKENIZE_PLAIN, &ids);
    assert_int_equal(ids.count, COUNT / 2);
    ids_free(&ids);
    free(text);
    tokenizer_close(t);
}

/* Byte tokens behind a prompt that ends in some can turn its last character into U+FFFD: the pieces stay text. */
static void test_continuation(void)
{
    struct tokenizer *t = made("", "\"decoder\":{\"type\":\"ByteFallback\"}");
    struct continuation continuation = {0};
    const char *piece;

    continuation_begin(&continuation, t, (const int32_t[]){0, 13, 14}, 3);
    assert_int_equal(continuation_take(&continuation, 13, &piece), 0);
    assert_int_equal(continuation_take(&continuation, 1, &piece), 7);
    assert_memory_equal(piece, "\xef\xbf\xbd\xef\xbf\xbd" "b", 7);
    assert_int_equal(continuation_end(&continuation, &piece), 0);
    assert_int_equal(continuation_text(&continuation).length, 7);
    continuation_free(&continuation);
    tokenizer_close(t);
}

static void test_template(void)
{
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define BOS "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define TEMPLATE(single) "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[]," \
    "\"special_tokens\":{\"<s>\":" \
                         "{\"id\":\"<s>\",\"ids\":[18],\"tokens\":[\"<s>\"]}}}"
#define POST(text) "\"post_processor\":" text
    struct tokenizer *t = made("", POST(TEMPLATE(BOS "," TEXT)));

    expect_ids(t, "ab", 2, TOKENIZE_PLAIN, "6");
    expect_ids(t, "ab", 2, TOKENIZE_TEMPLATE, "18 6");
    expect_ids(t, "", 0, TOKENIZE_TEMPLATE, "18");
    tokenizer_close(t);
    check_ids("", POST(TEMPLATE(BOS "," TEXT "," BOS)), "ab", "18 6 18");
    check_ids("", POST("{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\",\"trim_offsets\":true},"
                       TEMPLATE(TEXT "," BOS) "," TEMPLATE(BOS "," TEXT) "]}"), "ab", "18 6 18");
    check_refused("", POST(TEMPLATE(TEXT "," TEXT)), "expected one text");
    check_refused("", POST(TEMPLATE(BOS)), "no text in 'single'");
    check_refused("", POST("{\"type\":\"TemplateProcessing\",\"single\":[" BOS "," TEXT "],\"pair\":[],"
        "\"special_tokens\":{}}"),
                  "no special token '<s>'");
    check_refused("", POST("{\"type\":\"TemplateProcessing\",\"single\":[" BOS "," TEXT "],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[19]}}}"),
                  "expected an id from 0 to 18, found 19");
    check_refused("", POST("{\"type\":\"RobertaProcessing\"}"), "post_processor 'RobertaProcessing' is not supported");
}

static void test_decoders(void)
{
#define LLAMA "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\"," \
    "\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"}," \
              "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1," \
                  "\"stop\":0}]}"
    check_text("", "0 1 8", false, "a b bc");
    check_text(DECODER("{\"type\":\"ByteLevel\"}"), "0 16 15 1", false, "a a b");
    check_text(DECODER(LLAMA), "12 12 13 14 1", false, "a a\xc3\xa9" "b");
    check_text(DECODER(LLAMA), "11 11 0 13 13 14 1", false, " a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "b");
    check_text(DECODER(LLAMA), "0 13", false, "a\xef\xbf\xbd");
    check_text(DECODER(LLAMA), "", false, "");
    check_text(DECODER(META("")), "12 12 0", false, "a aa");
    check_text(DECODER(META(",\"prepend_scheme\":\"never\"")), "12 12", false, " a a");
    check_text(DECODER("{\"type\":\"Strip\",\"content\":\"a\",\"start\":1,\"stop\":1}"), "17 1 0 6", false, "bb");
    check_text(DECODER("{\"type\":\"Fuse\"}") "," LIST(TOKEN(18, "<s>", "")), "18 0 18", true, "a");
    check_text(DECODER("{\"type\":\"Fuse\"}") "," LIST(TOKEN(18, "<s>", "")), "18 0 99", false, "<s>a");
    check_refused("", DECODER("{\"type\":\"CTC\"}"), "decoder 'CTC' is not supported");
    check_refused("", DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteLevel\"}]}"),
                  "'ByteLevel' is not supported behind");
    check_refused("", DECODER("{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":1}"), "of 0 or more");
}

/* Characters of several bytes in pieces: é is the characters U+00C3 and U+00A9 of a byte-level vocabulary. */
static void test_pieces(void)
{
    const char *json = "{\"model\":{\"vocab\":{\"\xc3\x83\":0,\"\xc2\xa9\":1,\"\xc2\xa9\xc3\x83\":2},\"merges\":[]},"
                       "\"decoder\":{\"type\":\"ByteLevel\"}}";
    struct tokenizer *t;
    struct decoding decoding;
    struct text text = {0};

    assert_int_equal(open_text(json, &t), EX_OK);
    decoding_begin(&decoding, t, false);
    decoding_take(&decoding, 0, &text);
    assert_int_equal(text.length, 0);
    for (int i = 0; i < 1000; i++)
        decoding_take(&decoding, 2, &text);
    assert_int_equal(text.length, 2000);
    decoding_end(&decoding, &text);
    assert_int_equal(text.length, 2003);
    assert_string_equal(text.data + 1998, "\xc3\xa9\xef\xbf\xbd");
    text_free(&text);
    tokenizer_close(t);
}

static void test_models(void)
{
    struct tokenizer *t;
    static const struct {
        const char *json, *expected;
    } bad[] = {
        {"[]", "expected an object"}, {"{}", "expected an object 'model'"}, {"{\"model\":{}}",
            "model '' is not supported"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "model 'WordPiece' is not supported"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "model 'Unigram' is not supported"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "expected an object 'vocab'"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "expected a list 'merges'"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "'a' and 'b' have the same id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "'a': expected an id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967296},\"merges\":[]}}", "'a': expected an id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "'a': expected an id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
            "merge 0: 'b' is not in the vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
            "merge 0: 'aa' is not in the vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "merge 0: expected two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "merge 0: expected two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[3]}}", "merge 0: expected two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":5},\"merges\":[]},\"added_tokens\":[{\"id\":1,"
            "\"content\":\"x\"},{\"id\":2,"
         "\"content\":\"y\"},{\"id\":3,\"content\":\"z\"},{\"id\":4,\"content\":\"u\"},{\"id\":5,"
             "\"content\":\"v\"}]}", "the id 5 of 'a'"},
        {"{\"version\":\"2.0\",\"model\":{}}", "version: expected '1.0', found '2.0'"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(open_text(bad[i].json, &t), EX_DATAERR);
        if (!strstr(message, bad[i].expected))
            fail_msg("expected '%s' in '%s'", bad[i].expected, message);
    }
    check_refused("\"dropout\":0.1", "", "'dropout' is not supported");
    check_refused("\"continuing_subword_prefix\":\"##\"", "", "'continuing_subword_prefix' is not supported");
    check_refused("\"end_of_word_suffix\":\"</w>\"", "", "'end_of_word_suffix' is not supported");
    check_refused("\"unk_token\":\"<none>\"", "", "'unk_token': '<none>' is not in the vocabulary");
    check_refused("\"byte_fallback\":\"yes\"", "", "expected true or false");
    check_refused("\"tree\":1", "", "member 'tree' is not supported");
    check_refused("", PRE("{\"type\":\"BertPreTokenizer\"}"), "pre_tokenizer 'BertPreTokenizer' is not supported");
    check_refused("", PRE("[]"), "expected an object with a type");
}

static void test_nesting(void)
{
    struct text part = {0};

    for (int i = 0; i < 1000; i++)
        text_format(&part, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 1000; i++)
        text_format(&part, "]}");
    char *whole = xasprintf(PRE("%s"), part.data);
    check_refused("", whole, "nested more than 8 deep");
    free(whole);
    part.length = 0;
    for (int i = 0; i < 100; i++)
        text_format(&part, "%s{\"type\":\"Digits\"}", i ? "," : "");
    whole = xasprintf(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[%s]}"), part.data);
    check_refused("", whole, "more than 16 steps");
    free(whole);
    text_free(&part);
}

static void test_questions(void)
{
    struct tokenizer *t = made("", LIST(TOKEN(19, "[X]", "") ",{\"id\":20,\"content\":\"[Y]\"}"));

    assert_int_equal(tokenizer_size(t), 21);
    assert_string_equal(tokenizer_token(t, 6), "ab");
    assert_string_equal(tokenizer_token(t, 19), "[X]");
    assert_null(tokenizer_token(t, 21));
    assert_null(tokenizer_token(t, -1));
    assert_int_equal(tokenizer_id(t, "abc"), 7);
    assert_int_equal(tokenizer_id(t, "[Y]"), 20);
    assert_int_equal(tokenizer_id(t, "nothing"), -1);
    assert_true(tokenizer_is_special(t, 19) && !tokenizer_is_special(t, 20) && !tokenizer_is_special(t, 0));
    expect_ids(t, "a\xff" "b\xe2\x96", 5, TOKENIZE_PLAIN, "6");          /* U+FFFD isn't in the vocabulary */
    tokenizer_close(t);
}

/* The pieces of a whole text that the cache has seen and forgotten are the same. */
static void test_cache(void)
{
    struct tokenizer *t = made("", PRE("{\"type\":\"WhitespaceSplit\"}"));
    struct ids first = {0}, again = {0};
    struct text text = {0};

    for (int i = 0; i < 200000; i++)
        text_format(&text, "%x ", i * 7919);
    tokenizer_encode(t, text.data, text.length, TOKENIZE_PLAIN, &first);
    tokenizer_encode(t, text.data, text.length, TOKENIZE_PLAIN, &again);
    assert_int_equal(first.count, again.count);
    assert_memory_equal(first.id, again.id, first.count * sizeof *first.id);
    ids_free(&first);
    ids_free(&again);
    text_free(&text);
    tokenizer_close(t);
}

static void test_stories(void)
{
    const char *top = getenv("TOP") ? getenv("TOP") : ".";
    char *path = xasprintf("%s/pipelines/models/stories260K/tokenizer.json", top);
    struct text json = {0};
    struct tokenizer *t;

    assert_int_equal(file_read(path, 1 << 20, &json), EX_OK);
    assert_int_equal(open_text(json.data, &t), EX_OK);
    expect_ids(t, "Once upon a time, there was a little girl named Lily.", 53, TOKENIZE_TEMPLATE,
               "1 403 407 261 378 432 383 286 261 376 298 315 421 395 317 426");
    tokenizer_close(t);
    text_free(&json);
    free(path);
}

CHECK_MAIN({"characters are merged by rank, leftmost first", test_merging},
           {"unknown characters: left out, a token, bytes", test_unknown},
           {"a word of a million characters", test_long_words},
           {"ByteLevel, Digits, WhitespaceSplit, Sequence", test_pre_tokenizers},
           {"Split: behaviors, expressions, refusals", test_split},
           {"Metaspace", test_metaspace},
           {"normalizers", test_normalizers},
           {"added tokens", test_added_tokens},
           {"added tokens in a long run of spaces", test_long_spaces},
           {"what follows a prompt", test_continuation},
           {"templates", test_template},
           {"decoders, whole and piece by piece", test_decoders},
           {"characters in pieces", test_pieces},
           {"models that are refused", test_models},
           {"nesting and length of Sequences are bounded", test_nesting},
           {"ids, tokens, special ones, bytes that are no text", test_questions},
           {"words that were forgotten", test_cache},
           {"stories260K's ids are transformers'", test_stories})
