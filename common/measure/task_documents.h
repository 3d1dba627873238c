/* task_documents.h - the documents of a benchmark, read from the official files and other forms, and brought into one
 * form: what is asked, and what may be answered. */
#ifndef MEASURE_TASK_DOCUMENTS_H
#define MEASURE_TASK_DOCUMENTS_H

#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

struct document {
    char *query;                 /* lm-evaluation-harness's doc_to_text */
    char **choice;               /* what is compared, or of a generated task the accepted answers */
    int choices;
    int gold;                    /* the right choice; of a generated task 0, the answer that an example shows */
    uint64_t identity;           /* of the record that it was made of */
};

struct documents {
    struct document *item;
    size_t count, capacity;
};

enum task_kind { TASK_HELLASWAG, TASK_BOOLQ, TASK_MMLU, TASK_TRIVIAQA, TASK_GSM8K };

/* Reads up to limit documents (-1: all) of a file:
 *     hellaswag  JSON lines of activity_label, ctx_a, ctx_b, endings, label; or of ctx ("Activity: context", cleaned),
 *                endings, label
 *     boolq      JSON lines of question, title, passage, answer; of question, passage, label (SuperGLUE); or of
 *                question, passage, answer
 *     mmlu       CSV of question, four choices, the answer's letter
 *     triviaqa   an object with the array Data of Question, Answer with Aliases; JSON lines of question, answers; or of
 *                context, answer, aliases
 *     gsm8k      JSON lines of question, answer
 * The bytes read are appended to raw where it isn't NULL. EX_NOINPUT, EX_IOERR, and EX_DATAERR after a message that
 * names file and line. The caller frees, also after an error. */
int documents_read(enum task_kind kind, const char *path, int64_t limit, struct documents *documents, struct text *raw);
void documents_free(struct documents *documents);

/* For readers: a new, empty document, valid until the next one is added; and its texts, copied. */
struct document *documents_add(struct documents *documents);
void document_choice(struct document *document, const char *text, size_t length);

/* The CSV reader's part of documents_read(). */
int documents_csv(const char *path, const struct text *text, int64_t limit, struct documents *documents);

enum { DOCUMENT_LIMIT = 1 << 20 };       /* bytes of a text in a document */

#endif
