/* The benchmarks' pure parts: draws of examples, filters and exact match, readers. Reference values are CPython's and
 * lm-evaluation-harness's. */
#include "check.h"

#include "base/error.h"
#include "measure/task_answers.h"
#include "measure/task_documents.h"
#include "measure/task_shots.h"
#include "text/case.h"

#include <stdio.h>
#include <string.h>

static void check_draws(size_t n, size_t k, int times, const size_t *expected)
{
    struct twister twister = {0};
    size_t index[16];

    twister_seed(&twister, SHOTS_SEED);
    for (int t = 0; t < times; t++) {
        twister_sample(&twister, n, k, index);
        for (size_t i = 0; i < k; i++)
            assert_int_equal(index[i], expected[(size_t)t * k + i]);
    }
}

#define DRAWS(n, k, ...)                                                                                       \
    do {                                                                                                       \
        static const size_t expected[] = {__VA_ARGS__};                                                        \
        check_draws(n, k, (int)(sizeof expected / sizeof *expected) / (k), expected);                          \
    } while (0)

static void test_large_draws(void)
{
    DRAWS(7473, 5, 6374, 3610, 957, 61, 742, 7462, 6610, 4769, 286, 5501, 5677, 687, 806, 6279, 2905);
    DRAWS(9427, 5, 7220, 1914, 122, 1485, 572, 1375, 1612, 5810, 3879, 285, 504, 259, 5670, 7933, 7594);
    DRAWS(39905, 10, 28883, 7657, 490, 5940, 38156, 2288, 5500, 6450, 23241, 15519, 1142, 2019, 1038, 22681, 31735,
          30379, 9735, 5982, 11999, 7498);
    DRAWS(138384, 5, 115535, 30631, 1963, 23761, 9155, 22003, 25800, 92965, 62078, 4568, 8077, 4152, 90725, 126942,
          121516);
}

static void test_small_draws(void)
{
    DRAWS(7, 6, 6, 3, 0, 4, 5, 2, 5, 6, 0, 4, 1, 3, 0, 6, 5, 2, 3, 1);
    DRAWS(21, 5, 14, 3, 0, 2, 1, 2, 3, 11, 7, 0, 0, 20, 11, 15, 14);
    DRAWS(22, 5, 14, 3, 0, 2, 18, 1, 21, 2, 3, 11, 7, 0, 11, 20, 19);
    DRAWS(85, 6, 56, 14, 0, 11, 74, 4, 10, 12, 45, 30, 2, 3);
    DRAWS(86, 6, 56, 14, 0, 11, 74, 4, 85, 10, 12, 45, 30, 2);
    DRAWS(1, 1, 0, 0);
}

/* Documents whose identity is what is given. */
static struct documents made(const uint64_t *identity, size_t count)
{
    struct documents documents = {0};

    for (size_t i = 0; i < count; i++)
        documents_add(&documents)->identity = identity[i];
    return documents;
}

static void test_apart(void)
{
    static const uint64_t identity[] = {1, 2, 3, 4, 5, 6, 7}, copies[] = {9, 9, 9, 1, 9, 2, 9};
    struct documents seven = made(identity, 7), many = made(copies, 7);
    struct document document = {.identity = 4};
    struct twister twister = {0};
    size_t index[8];

    twister_seed(&twister, SHOTS_SEED);
    assert_true(shots_draw(&twister, &seven, 6, &document, true, index));        /* all seven are drawn */
    for (int i = 0; i < 6; i++)
        assert_int_not_equal(index[i], 3);
    assert_false(shots_draw(&twister, &seven, 7, &document, true, index));
    assert_true(shots_draw(&twister, &seven, 7, &document, false, index));
    document.identity = 9;
    assert_true(shots_draw(&twister, &many, 2, &document, true, index));
    assert_int_equal(index[0] + index[1], 8);
    assert_false(shots_draw(&twister, &many, 3, &document, true, index));
    documents_free(&seven);
    documents_free(&many);
}

static void check_filter(const struct judge *judge, int filter, const char *text, const char *expected)
{
    struct text filtered = {0};

    answer_filter(judge, filter, text, strlen(text), &filtered);
    text_append(&filtered, "", 0);
    assert_string_equal(filtered.data, expected);
    text_free(&filtered);
}

static bool matches(const struct judge *judge, const char *text, const char *gold)
{
    struct documents documents = {0};
    struct document *document = documents_add(&documents);
    bool found;

    document_choice(document, "another", 7);
    document_choice(document, gold, strlen(gold));
    found = answer_matches(judge, text, strlen(text), document);
    documents_free(&documents);
    return found;
}

static void test_gsm8k_answers(void)
{
    struct judge judge;

    judge_open(&judge, TASK_GSM8K);
    assert_int_equal(judge.filters, 2);
    check_filter(&judge, 0, "so 5.\n#### 1,234.\nno\n#### 7", "1,234.");
    check_filter(&judge, 0, "#### -5", "-5");
    check_filter(&judge, 0, "it is 5", "[invalid]");
    check_filter(&judge, 0, "####  5", "[invalid]");
    check_filter(&judge, 1, "she has $12.50 or 3 dolls", "3");
    check_filter(&judge, 1, "she has $12.50. So", "$12.50.");
    check_filter(&judge, 1, "minus -5 ... ", "...");
    check_filter(&judge, 1, "-5", "-5");
    check_filter(&judge, 1, "x-", "[invalid]");
    check_filter(&judge, 1, "", "[invalid]");
    assert_true(matches(&judge, "1,234", "He has 1 + 2\nand\n#### 1234"));
    assert_true(matches(&judge, "$12.50.", "#### 12.50"));
    assert_true(matches(&judge, "500", "x #### 3\n#### $500"));
    assert_false(matches(&judge, "12.5", "#### 12.50"));
    assert_false(matches(&judge, "[invalid]", "#### 5"));
    judge_close(&judge);
}

static void test_triviaqa_answers(void)
{
    struct judge judge;

    judge_open(&judge, TASK_TRIVIAQA);
    check_filter(&judge, 0, " \t The Cat\xc2\xa0\n", "The Cat");
    assert_true(matches(&judge, "the cat's", "The Cats"));
    assert_true(matches(&judge, "\xc3\x89" "COLE", "\xc3\xa9" "cole!"));
    assert_true(matches(&judge, "\xce\xa3\xce\x9f\xce\xa3", "\xcf\x83\xce\xbf\xcf\x82"));
    assert_false(matches(&judge, "cat", "the cat"));
    assert_true(matches(&judge, "", "..."));
    judge_close(&judge);
}

static void check_cut(const char *text, const char *const *stops, const char *expected)
{
    struct text cut = {0};

    text_format(&cut, "%s", text);
    answer_cut(&cut, stops);
    assert_string_equal(cut.data, expected);
    assert_int_equal(cut.length, strlen(expected));
    text_free(&cut);
}

static void test_stops(void)
{
    check_cut(" Paris, France.\n", (const char *const[]){"\n", ".", ",", NULL}, " Paris");
    check_cut("5\n\nQuestion: what", (const char *const[]){"Question:", "</s>", NULL}, "5\n\n");
    check_cut("", (const char *const[]){"a", "", NULL}, "");
}

static void test_python_strings(void)
{
    struct text text = {0};

    unicode_capitalize("\xc3\xa9T\xc3\x89 IS Hot", strlen("\xc3\xa9T\xc3\x89 IS Hot"), &text);
    assert_string_equal(text.data, "\xc3\x89t\xc3\xa9 is hot");
    text.length = 0;
    unicode_lower("\xc4\xb0X", 3, &text);
    assert_string_equal(text.data, "i\xcc\x87x");
    text_free(&text);
    assert_int_equal(unicode_space_behind("a \xe3\x80\x80\n", 6), 5);
    assert_int_equal(unicode_space_behind(" \x1f ", 3), 3);
    assert_int_equal(unicode_space_before(" \x1f ", 3), 3);
    assert_int_equal(unicode_count("\xc3\xa9 \xf0\x9f\x9a\x81", 7), 3);
}

static const char *write_file(const char *name, const char *content)
{
    FILE *file = fopen(name, "w");

    fputs(content, file);
    fclose(file);
    return name;
}

static struct documents read_all(enum task_kind kind, const char *content)
{
    struct documents documents = {0};

    assert_int_equal(documents_read(kind, write_file("data", content), -1, &documents, NULL), EX_OK);
    return documents;
}

static void test_hellaswag(void)
{
    struct documents official = read_all(TASK_HELLASWAG,
        "{\"activity_label\": \" How\", \"ctx_a\": \"[header] How [title] Dig.\", \"ctx_b\": \"PUT it. [step] x\", "
        "\"endings\": [\"[title] a   b\", \"c [x\\ny] d\", \" e [] \"], \"label\": \"2\"}\n");
    struct documents cleaned = read_all(TASK_HELLASWAG,
        "\n{\"ctx\": \"A: b [x]  c\", \"endings\": [\"d  e\", \"f\"], \"label\": 1}");

    assert_string_equal(official.item[0].query, "How: How. Dig. Put it. x");
    assert_string_equal(official.item[0].choice[0], " a  b");
    assert_string_equal(official.item[0].choice[1], "c [x\ny] d");
    assert_string_equal(official.item[0].choice[2], "e ");
    assert_int_equal(official.item[0].gold, 2);
    assert_string_equal(cleaned.item[0].query, "A: b [x]  c");
    assert_string_equal(cleaned.item[0].choice[0], "d  e");
    assert_int_equal(cleaned.item[0].gold, 1);
    documents_free(&official);
    documents_free(&cleaned);
}

static void test_boolq_and_gsm8k(void)
{
    struct documents boolq = read_all(TASK_BOOLQ,
        "{\"question\": \"is it\", \"title\": \"It\", \"answer\": true, \"passage\": \"It is.\"}\n"
        "{\"question\": \"is it\", \"passage\": \"It -- It is.\", \"idx\": 3, \"label\": false}\n"
        "{\"question\": \"is it\", \"passage\": \"It is.\", \"label\": 1}\n");
    struct documents gsm8k = read_all(TASK_GSM8K, "{\"question\": \"2+2\", \"answer\": \"#### 4\"}\n");

    assert_int_equal(boolq.count, 3);
    assert_string_equal(boolq.item[0].query, "It -- It is.\nQuestion: is it?\nAnswer:");
    assert_string_equal(boolq.item[1].query, boolq.item[0].query);
    assert_string_equal(boolq.item[2].query, "It is.\nQuestion: is it?\nAnswer:");
    assert_int_equal(boolq.item[0].gold + 2 * boolq.item[1].gold + 4 * boolq.item[2].gold, 5);
    assert_string_equal(boolq.item[0].choice[boolq.item[0].gold], "yes");
    assert_string_equal(gsm8k.item[0].query, "Question: 2+2\nAnswer:");
    documents_free(&boolq);
    documents_free(&gsm8k);
}

static void test_triviaqa(void)
{
    struct documents official = read_all(TASK_TRIVIAQA,
        "{\n \"Data\": [{\"Question\": \" who? \", \"Answer\": {\"Aliases\": [\"a\", \"b\"], \"Value\": \"a\"}}]}");
    struct documents lines = read_all(TASK_TRIVIAQA, "{\"question\": \"who\", \"answers\": [\"c\"]}\r\n"
        "{\"context\": \"Question: who?\\nAnswer:\", \"answer\": \"d\", \"aliases\": [\"d\", \"e\"]}\n");

    assert_string_equal(official.item[0].query, "Question: who??\nAnswer:");
    assert_int_equal(official.item[0].choices, 2);
    assert_string_equal(lines.item[0].query, "Question: who?\nAnswer:");
    assert_string_equal(lines.item[1].query, "Question: who?\nAnswer:");
    assert_string_equal(lines.item[1].choice[0], "d");
    documents_free(&official);
    documents_free(&lines);
}

static void test_mmlu(void)
{
    struct documents documents = read_all(TASK_MMLU, "\" say \"\"a\"\",\nb \",1,\"2,3\",,5,D\r\n\nq,w,x,y,z,A");

    assert_int_equal(documents.count, 2);
    assert_string_equal(documents.item[0].query, "say \"a\",\nb\nA. 1\nB. 2,3\nC. \nD. 5\nAnswer:");
    assert_int_equal(documents.item[0].gold, 3);
    assert_string_equal(documents.item[1].choice[documents.item[1].gold], "A");
    documents_free(&documents);
}

static void check_refused(enum task_kind kind, const char *content, const char *message)
{
    struct documents documents = {0};
    char said[512] = "";
    int rc;

    error_capture(said, sizeof said);
    rc = documents_read(kind, write_file("bad", content), -1, &documents, NULL);
    error_capture(NULL, 0);
    documents_free(&documents);
    assert_int_equal(rc, EX_DATAERR);
    if (!strstr(said, message))
        fail_msg("expected '%s' in '%s'", message, said);
}

static void test_bad_documents(void)
{
    check_refused(TASK_GSM8K, "", "is empty");
    check_refused(TASK_GSM8K, "\n \n", "no documents");
    check_refused(TASK_GSM8K, "{\"question\": \"a\", \"answer\": \"b\"}\n{\"question\": 1}\n", "line 2: 'question'");
    check_refused(TASK_GSM8K, "{\"question\": \"a\"}\n", "line 1: 'answer'");
    check_refused(TASK_GSM8K, "{\"question\": \"a\", \"answer\": \"\"}\n", "'answer' is empty");
    check_refused(TASK_GSM8K, "{\"question\": \"a\\u0000\", \"answer\": \"b\"}\n", "NUL");
    check_refused(TASK_GSM8K, "[]\n", "expected a JSON object");
    check_refused(TASK_GSM8K, "{\"question\"\n", "line 1");
    check_refused(TASK_HELLASWAG, "{\"ctx\": \"a\", \"endings\": [\"b\"], \"label\": 0}", "'endings'");
    check_refused(TASK_HELLASWAG, "{\"ctx\": \"a\", \"endings\": [\"b\", 3], \"label\": 0}", "'endings'");
    check_refused(TASK_HELLASWAG, "{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"], \"label\": 2}", "'label'");
    check_refused(TASK_HELLASWAG, "{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"], \"label\": \"1x\"}", "'label'");
    check_refused(TASK_BOOLQ, "{\"question\": \"a\", \"passage\": \"b\", \"answer\": \"yes\"}", "'answer'");
    check_refused(TASK_TRIVIAQA, "{\"question\": \"a\", \"answers\": []}", "'answers'");
    check_refused(TASK_TRIVIAQA, "{\n\"Dat\": []}", "'Data'");
    check_refused(TASK_TRIVIAQA, "{\"Data\": [{\"Question\": \"a\"}]}", "record 1: 'Aliases'");
    check_refused(TASK_MMLU, "a,b,c,d,e,A\na,b,c,d,A\n", "line 2: expected 6 fields, found 5");
    check_refused(TASK_MMLU, "a,b,c,d,e,f,A\n", "found 7");
    check_refused(TASK_MMLU, "a,b,c,d,e,E\n", "expected the answer");
    check_refused(TASK_MMLU, "a,\"b,c,d,e,E\n", "isn't closed");
    check_refused(TASK_MMLU, "a,b\xff,c,d,e,A\n", "UTF-8");
}

CHECK_MAIN({"examples are drawn as random.sample() does from many", test_large_draws},
           {"and from few", test_small_draws},
           {"a document is no example for itself", test_apart},
           {"GSM8K's filters and exact match", test_gsm8k_answers},
           {"TriviaQA's filter and exact match", test_triviaqa_answers},
           {"text is cut at stop strings", test_stops},
           {"cases, white space, and lengths are Python's", test_python_strings},
           {"HellaSwag's documents", test_hellaswag},
           {"BoolQ's and GSM8K's documents", test_boolq_and_gsm8k},
           {"TriviaQA's documents", test_triviaqa},
           {"MMLU's documents", test_mmlu},
           {"bad documents are refused by line", test_bad_documents})
