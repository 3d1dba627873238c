/* corpus.c - reads a text. */
#include "measure/corpus.h"
#include "base/file.h"

#include <stdint.h>

enum { LIMIT = INT32_MAX };      /* bytes of a text */

int corpus_read(const char *path, struct text *text)
{
    int rc = file_read(path, LIMIT, text);

    if (!rc && !text->length)
        rc = fail(EX_DATAERR, "'%s': the text is empty", file_input_name(path));
    return rc;
}
