/* test_large.c - a tensor of more than 4 GiB goes through a pipe: two bins, and every byte in its place. */
#include "base/memory.h"
#include "check.h"
#include "stream/reader.h"
#include "stream/writer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };
static const int64_t rows = 4097, columns = 1 << 20;       /* 4 GiB and 1 MiB of u8 */

/* A byte that depends on its place in a way that no shift by a few bytes keeps. */
static void pattern(unsigned char *to, int64_t first)
{
    for (int64_t i = 0; i < PIECE; i += 8) {
        uint64_t x = (uint64_t)(first + i) * 0x9E3779B97F4A7C15u;

        memcpy(to + i, &x, 8);
    }
}

static void *write_side(void *argument)
{
    struct writer writer;
    struct record record = record_tensor("large", DTYPE(U8), 2, (int64_t[]){rows, columns});
    unsigned char *piece = xmalloc(PIECE);

    (void)argument;
    if (writer_open(&writer, "pipe", NULL, NULL) || writer_begin(&writer, &record))
        abort();
    for (int64_t at = 0; at < record.bytes; at += PIECE) {
        pattern(piece, at);
        if (writer_add(&writer, piece, PIECE))
            abort();
    }
    if (writer_finish(&writer) || writer_end(&writer))
        abort();
    writer_close(&writer);
    record_free(&record);
    free(piece);
    return NULL;
}

static void test_more_than_4_gib(void)
{
    struct reader reader;
    struct record record = {0};
    struct tensor tensor = {0};
    unsigned char *piece = xmalloc(PIECE);
    pthread_t thread;

    assert_int_equal(mkfifo("pipe", 0600), 0);
    assert_int_equal(pthread_create(&thread, NULL, write_side, NULL), 0);
    assert_int_equal(reader_open(&reader, "pipe"), EX_OK);
    assert_int_equal(reader_next(&reader, &record), EX_OK);
    assert_int_equal(record.bytes, rows * columns);
    assert_int_equal(reader_load(&reader, &record, &tensor), EX_OK);
    for (int64_t at = 0; at < tensor.bytes; at += PIECE) {
        pattern(piece, at);
        assert_memory_equal(tensor.data + at, piece, PIECE);
    }
    record_free(&record);
    assert_int_equal(reader_next(&reader, &record), EX_OK);
    assert_int_equal(record.kind, RECORD_END);
    pthread_join(thread, NULL);
    tensor_free(&tensor);
    reader_close(&reader);
    free(piece);
}

CHECK_MAIN({"a tensor of more than 4 GiB goes through a pipe", test_more_than_4_gib})
