/* evaluation_files.h - files that models are measured with, by their SHA-256: what is published as test data, or as
 * validation data where a benchmark is defined on it, as its makers have it and as data sets for this program do. */
#ifndef MEASURE_EVALUATION_FILES_H
#define MEASURE_EVALUATION_FILES_H

#include <stddef.h>

/* What a file with this content is ("GSM8K, test"); NULL where it isn't on the list. */
const char *evaluation_find(const void *data, size_t length);

/* EX_UNAVAILABLE after a message where it is. */
int evaluation_refuse(const char *name, const void *data, size_t length);

#endif
