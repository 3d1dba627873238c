/* task_csv.c - MMLU's files: comma-separated values, quoted with " where they hold a comma, a quote or a line feed. */
#include "measure/task_documents.h"
#include "text/case.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

enum { FIELDS = 6 };

struct csv {
    const char *path, *at, *end;
    long long line;              /* of at */
    struct text field[FIELDS];
    int fields;                  /* of the row at hand; may be more than FIELDS */
};

/* A field as Python's csv.reader has it: quotes only at its beginning, "" in quotes is one; what is behind the closing
 * quote belongs to it. */
static int read_field(struct csv *csv, struct text *field)
{
    bool quoted = csv->at < csv->end && *csv->at == '"';
    long long line = csv->line;

    field->length = 0;
    text_append(field, "", 0);
    for (csv->at += quoted; csv->at < csv->end; csv->at++) {
        char c = *csv->at;

        if (quoted && c == '"') {
            quoted = csv->at + 1 < csv->end && csv->at[1] == '"';
            csv->at += quoted;
            if (!quoted)
                continue;
        } else if (!quoted && (c == ',' || c == '\n' || c == '\r')) {
            break;
        }
        csv->line += c == '\n';
        text_append(field, &c, 1);
        if (field->length > DOCUMENT_LIMIT)
            return fail(EX_DATAERR, "'%s', line %lld: a field of more than %d bytes", csv->path, line, DOCUMENT_LIMIT);
    }
    if (quoted)
        return fail(EX_DATAERR, "'%s', line %lld: a quote that isn't closed", csv->path, line);
    return EX_OK;
}

/* The next row; one of no fields is an empty line. */
static int read_row(struct csv *csv)
{
    struct text more = {0};
    int rc = EX_OK;

    csv->fields = 0;
    if (*csv->at != '\n' && *csv->at != '\r')
        do {
            csv->at += csv->fields > 0;
            rc = read_field(csv, csv->fields < FIELDS ? &csv->field[csv->fields] : &more);
            csv->fields++;
        } while (!rc && csv->at < csv->end && *csv->at == ',');
    text_free(&more);
    return rc;
}

static int check_row(const struct csv *csv, long long line)
{
    const struct text *answer = &csv->field[FIELDS - 1];

    if (csv->fields != FIELDS)
        return fail(EX_DATAERR, "'%s', line %lld: expected %d fields, found %d", csv->path, line, FIELDS, csv->fields);
    for (int i = 0; i < FIELDS; i++)
        if (!utf8_is_valid(csv->field[i].data, csv->field[i].length)
            || memchr(csv->field[i].data, '\0', csv->field[i].length))
            return fail(EX_DATAERR, "'%s', line %lld: field %d isn't text in UTF-8", csv->path, line, i + 1);
    if (answer->length != 1 || *answer->data < 'A' || *answer->data > 'D')
        return fail(EX_DATAERR, "'%s', line %lld: expected the answer A, B, C or D, found '%.20s'", csv->path, line,
                    answer->data);
    return EX_OK;
}

static void add_row(const struct csv *csv, struct documents *documents)
{
    struct document *document = documents_add(documents);
    const struct text *field = csv->field;
    struct text question = {0};

    unicode_strip(field[0].data, field[0].length, &question);
    document->query = xasprintf("%s\nA. %s\nB. %s\nC. %s\nD. %s\nAnswer:", question.data, field[1].data, field[2].data,
                                field[3].data, field[4].data);
    for (char letter = 'A'; letter <= 'D'; letter++)
        document_choice(document, &letter, 1);
    document->gold = *field[FIELDS - 1].data - 'A';
    text_free(&question);
}

int documents_csv(const char *path, const struct text *text, int64_t limit, struct documents *documents)
{
    struct csv csv = {.path = path, .at = text->data, .end = text->data + text->length, .line = 1};
    int rc = EX_OK;

    while (csv.at < csv.end && !rc && (limit < 0 || documents->count < (size_t)limit)) {
        long long line = csv.line;

        if (!(rc = read_row(&csv)) && csv.fields && !(rc = check_row(&csv, line)))
            add_row(&csv, documents);
        csv.at += csv.at < csv.end && *csv.at == '\r';
        csv.line += csv.at < csv.end && *csv.at == '\n';
        csv.at += csv.at < csv.end && *csv.at == '\n';
    }
    for (int i = 0; i < FIELDS; i++)
        text_free(&csv.field[i]);
    return rc;
}
