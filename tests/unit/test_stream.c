/* test_stream.c - tensor streams: round trips, and every way of breaking one. */
#include "base/error.h"
#include "base/hash.h"
#include "check.h"
#include "operator/operator.h"
#include "stream/pack.h"
#include "stream/reader.h"
#include "stream/wire.h"
#include "stream/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char message[2048];

/* A small stream with a file, a matrix, a two-core operator with a packed core, and a record of a kind from the
 * future. */
static struct text make_stream(void)
{
    struct writer writer;
    struct json *config = json_parse("{\"model_type\":\"llama\",\"rms_norm_eps\":1e-05}", 43, "config");
    struct json *history = json_make_array();
    struct dtype q3;
    struct record record;
    struct tensor core;
    struct text bytes = {0};
    unsigned char payload[1024];
    static const char later[] = "{\"kind\":\"spline\",\"name\":\"model.layers.1.later\",\"bytes\":3,\"knots\":[1,2.5]}";

    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (unsigned char)(i * 37 + 11);
    json_append(history, history_entry("test", json_make_object()));
    assert_int_equal(writer_open(&writer, "small.tns", config, history), EX_OK);
    record = record_file("config.json", 5);
    assert_int_equal(writer_put(&writer, &record, "{\"a\"}"), EX_OK);
    record_free(&record);
    record = record_tensor("model.embed_tokens.weight", DTYPE(BF16), 2, (int64_t[]){3, 5});
    assert_int_equal(writer_put(&writer, &record, payload), EX_OK);
    record_free(&record);
    core = tensor_new(DTYPE(F16), 4, (int64_t[]){1, 4, 1, 2});
    record = record_core("model.layers.0.mlp.down_proj.weight", 0, 1, 0, 2, &core);
    assert_int_equal(writer_put(&writer, &record, payload), EX_OK);
    record_free(&record);
    tensor_free(&core);
    assert_true(dtype_parse("q3-4-min", &q3));
    core = tensor_new(q3, 4, (int64_t[]){2, 1, 6, 1});
    record = record_core("model.layers.0.mlp.down_proj.weight", 0, 1, 1, 2, &core);
    assert_int_equal(writer_put(&writer, &record, payload), EX_OK);
    record_free(&record);
    tensor_free(&core);
    record = (struct record){.kind = RECORD_OTHER, .name = xstrdup("model.layers.1.later"), .bytes = 3, .n_term = 1,
                             .n_site = 1,
                             .map = json_parse(later, sizeof later - 1, "map")};
    assert_int_equal(writer_put(&writer, &record, "abc"), EX_OK);
    record_free(&record);
    record = record_tensor("model.norm.weight", DTYPE(F32), 1, (int64_t[]){0});
    assert_int_equal(writer_put(&writer, &record, ""), EX_OK);
    record_free(&record);
    assert_int_equal(writer_end(&writer), EX_OK);
    writer_close(&writer);
    json_drop(config);
    json_drop(history);
    assert_int_equal(file_read("small.tns", 1 << 20, &bytes), EX_OK);
    return bytes;
}

/* Reads a stream of these bytes to its end, loading each payload; the exit code. */
static int read_bytes(const void *data, size_t size)
{
    int fd = memfd_create("stream", 0), rc;
    char path[64];
    struct reader reader;
    struct record record = {0};

    assert_int_equal(write(fd, data, size), (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    message[0] = '\0';
    error_capture(message, sizeof message);
    rc = reader_open(&reader, path);
    while (!rc) {
        struct tensor tensor = {0};

        if ((rc = reader_next(&reader, &record)) || record.kind == RECORD_END)
            break;
        rc = reader_load(&reader, &record, &tensor);
        tensor_free(&tensor);
        record_free(&record);
    }
    record_free(&record);
    reader_close(&reader);
    error_capture(NULL, 0);
    close(fd);
    return rc;
}

static void test_whole_stream_reads(void)
{
    struct text bytes = make_stream();

    assert_int_equal(read_bytes(bytes.data, bytes.length), EX_OK);
    text_free(&bytes);
}

/* Exit 65, one line that names record and byte. */
static void assert_refused(int rc, const char *what, size_t at)
{
    if (rc != EX_DATAERR || !strstr(message, "record ") || !strstr(message, "byte ") || strchr(message, '\n'))
        fail_msg("%s at %zu: exit %d, message '%s'", what, at, rc, message);
}

static void test_cut_at_every_byte(void)
{
    struct text bytes = make_stream();

    for (size_t size = 0; size < bytes.length; size++)
        assert_refused(read_bytes(bytes.data, size), "cut", size);
    text_free(&bytes);
}

static void test_every_bit_flipped(void)
{
    struct text bytes = make_stream();

    for (size_t at = 0; at < bytes.length; at++)
        for (int bit = 0; bit < 8; bit++) {
            bytes.data[at] ^= (char)(1 << bit);
            assert_refused(read_bytes(bytes.data, bytes.length), "bit flipped", at);
            bytes.data[at] ^= (char)(1 << bit);
        }
    text_free(&bytes);
}

static void test_bytes_behind_the_end(void)
{
    struct text bytes = make_stream();

    text_append(&bytes, "\xc0", 1);
    assert_refused(read_bytes(bytes.data, bytes.length), "more bytes", bytes.length);
    text_free(&bytes);
}

/* A stream of hand-made maps, each with size bytes of zeros; checksums are right. */
static int read_maps(const char *const *maps, const int64_t *sizes, int count)
{
    struct text bytes = {0}, sums = {0};
    static const char zeros[4096];
    int rc;

    for (int i = -1; i <= count; i++) {
        char end[64];
        unsigned char head[9] = {WIRE_UINT64}, little[8];
        const char *header = "{\"kind\":\"" WIRE_MAGIC "\",\"version\":1,\"config\":null,\"history\":[]}";
        const char *json = i < 0 ? header : i < count ? maps[i] : end;
        struct text hashed = {0}, packed = {0};
        struct json *map;

        snprintf(end, sizeof end, "{\"kind\":\"end\",\"count\":%d}", count);
        map = json_parse(json, strlen(json), "map");
        assert_int_equal(pack_write(map, &packed), EX_OK);
        json_drop(map);
        text_append(&bytes, packed.data, packed.length);
        if (i == count)
            text_append(&hashed, sums.data, sums.length);
        text_append(&hashed, packed.data, packed.length);
        if (i >= 0 && i < count) {
            unsigned char pad[2] = {WIRE_BIN8, (unsigned char)wire_pad((int64_t)bytes.length)}, bin[5] = {WIRE_BIN32};

            text_append(&bytes, pad, 2);
            text_append(&bytes, zeros, pad[1]);
            wire_put(bin + 1, (uint64_t)sizes[i], 4);
            text_append(&bytes, bin, 5);
            text_append(&bytes, zeros, (size_t)sizes[i]);
            text_append(&hashed, zeros, (size_t)sizes[i]);
        }
        wire_put(head + 1, hash_of(hashed.data, hashed.length), 8);
        wire_little(little, hash_of(hashed.data, hashed.length));
        text_append(&sums, little, 8);
        text_append(&bytes, head, 9);
        text_free(&hashed);
        text_free(&packed);
    }
    rc = read_bytes(bytes.data, bytes.length);
    text_free(&bytes);
    text_free(&sums);
    return rc;
}

#define TENSOR(name, dtype, shape) \
    "{\"kind\":\"tensor\",\"name\":\"" name "\",\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"bytes\":8}"
#define CORE(name, term, site, shape) \
    "{\"kind\":\"core\",\"name\":\"" name "\",\"term\":[" term "],\"site\":[" site "],\"dtype\":\"f32\"," \
    "\"shape\":[" shape "],\"bytes\":8}"

static const struct {
    const char *first, *second;
    const char *complaint;
} map_cases[] = {
    {TENSOR("a", "f32", "2"), NULL, NULL},
    {TENSOR("a", "f33", "2"), NULL, "unknown dtype 'f33'"},
    {TENSOR("a", "q7-32-min", "2"), NULL, "unknown dtype"},
    {TENSOR("a", "q4-32-min-s7", "2"), NULL, "unknown dtype"},
    /* two rows of two groups; five planes at 0, 64, ..., 256, the last of one factor per row */
    {TENSOR("a", "q3-2-min-s6", "2,3"), NULL, "expected 260"},
    {TENSOR("a", "q8-1-min-s8", "1152921504606846975,2"), NULL, "expected -1"},
    {TENSOR("a", "t2-7", "2"), NULL, "unknown dtype"},
    {TENSOR("a", "t2-17", "2"), NULL, "unknown dtype"},
    {TENSOR("a", "t4.5-12", "2"), NULL, "unknown dtype"},
    {TENSOR("a", "t2-12", "2,3"), NULL, "expected 68"},
    {TENSOR("a", "t2-12", "4611686018427387904,4"), NULL, "expected -1"},
    {TENSOR("a", "f32", "3"), NULL, "8 bytes, expected 12"},
    {TENSOR("a", "f32", "-2"), NULL, "bad shape"},
    {TENSOR("a", "f32", "2,2,2,2,2,2,2,2,2"), NULL, "bad shape"},
    {TENSOR("a", "f32", "4611686018427387904,4"), NULL, "expected -1"},
    {"{\"kind\":\"tensor\",\"dtype\":\"f32\",\"shape\":[2],\"bytes\":8}", NULL, "no name"},
    {"{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[2],\"bytes\":8}", NULL, "no kind"},
    {"{\"kind\":\"tensor\",\"name\":\"a\",\"shape\":[2],\"bytes\":8}", NULL, "no dtype"},
    {"{\"kind\":\"tensor\",\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[2]}", NULL, "no bytes"},
    {"{\"kind\":\"file\",\"name\":\"../../etc/passwd\",\"dtype\":\"u8\",\"shape\":[8],\"bytes\":8}", NULL,
     "a file name"},
    {CORE("a", "0,1", "2,2", "1,1,2,1"), NULL, "bad term or site"},
    {CORE("a", "0,1", "0,2", "1,2"), NULL, "four axes"},
    {TENSOR("a", "f32", "2"), TENSOR("a", "f32", "2"), "twice"},
    {TENSOR("b", "f32", "2"), TENSOR("a", "f32", "2"), "against the order"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), CORE("w", "0,1", "1,2", "2,1,1,1"), NULL},
    {CORE("w", "0,2", "0,1", "1,1,2,1"), CORE("w", "1,2", "0,1", "1,2,1,1"), NULL},
    {CORE("w", "0,1", "1,2", "2,1,1,1"), NULL, "that come before it are missing"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), NULL, "not all there"},
    {CORE("w", "0,2", "0,1", "1,2,1,1"), NULL, "not all there"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), CORE("x", "0,1", "0,1", "1,2,1,1"), "not all there"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), CORE("w", "0,1", "1,3", "2,1,1,1"), "not the core that follows"},
    {CORE("w", "0,1", "0,3", "1,1,1,2"), CORE("w", "0,1", "2,3", "2,1,1,1"), "not the core that follows"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), CORE("w", "0,1", "1,2", "1,1,2,1"), "doesn't join"},
    {CORE("w", "0,1", "0,2", "1,1,1,2"), CORE("w", "0,1", "1,2", "2,1,1,1"), NULL},
    {CORE("w", "0,1", "0,1", "2,1,1,1"), NULL, "first bond"},
    {CORE("w", "0,1", "0,1", "1,1,1,2"), NULL, "last bond"},
    {CORE("w", "0,2", "0,1", "1,2,1,1"), CORE("w", "1,3", "0,1", "1,2,1,1"), "another number of terms"},
    {CORE("w", "0,1", "0,1", "1,0,2,1"), NULL, "bytes, expected 0"},
    {TENSOR("w", "f32", "2"), CORE("w", "0,1", "0,1", "1,1,2,1"), "twice"},
    {"{\"kind\":\"tensor\",\"name\":\"w\\u0000x\",\"dtype\":\"f32\",\"shape\":[2],\"bytes\":8}", NULL, "no name"},
    {"{\"kind\":\"tensor\",\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[2],\"bytes\":8,\"x\":"
     "[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}", NULL, NULL},
};

static void test_maps_with_good_checksums_are_not_believed(void)
{
    for (size_t i = 0; i < sizeof map_cases / sizeof *map_cases; i++) {
        int rc = read_maps((const char *const[]){map_cases[i].first, map_cases[i].second}, (int64_t[]){8, 8},
                           map_cases[i].second ? 2 : 1);

        if (!map_cases[i].complaint) {
            if (rc)
                fail_msg("case %zu: exit %d, '%s'", i, rc, message);
            continue;
        }
        assert_refused(rc, "map", i);
        if (!strstr(message, map_cases[i].complaint))
            fail_msg("case %zu: '%s' doesn't say '%s'", i, message, map_cases[i].complaint);
    }
}

/* Counts and lengths that lie, before anything is allocated for them. */
static void test_hostile_msgpack(void)
{
    static const struct {
        const char *bytes;
        size_t size;
        enum pack_state state;
    } cases[] = {
        {"\xdf\xff\xff\xff\xff", 5, PACK_BAD},          /* a map of 2^32 - 1 */
        {"\xdd\x00\xff\xff\xf0", 5, PACK_MORE},         /* an array of just under 2^24 */
        {"\xdd\x01\x00\x00\x01", 5, PACK_BAD},
        {"\xdb\x7f\xff\xff\xff", 5, PACK_BAD},          /* a string of 2 GiB */
        {"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0", 17, PACK_DONE},
        {"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0", 18, PACK_BAD},
        {"\xc4\x01\x00", 3, PACK_BAD},                  /* bin, ext, and the byte that is never used */
        {"\xd4\x01\x00", 3, PACK_BAD},
        {"\xc1", 1, PACK_BAD},
        {"\x82\xa1" "a\x01\xa1" "b\xcb\x00\x00\x00\x00\x00\x00\x00\x00", 15, PACK_DONE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pack_scan scan = {0};

        if (pack_scan(&scan, (const unsigned char *)cases[i].bytes, cases[i].size) != cases[i].state)
            fail_msg("case %zu", i);
    }
}

static void test_keys_twice_and_odd_types(void)
{
    const char *reason;

    assert_null(pack_read("\x82\xa1" "a\x01\xa1" "a\x02", 7, &reason));
    assert_string_equal(reason, "a key stands twice");
    assert_null(pack_read("\x81\x01\x02", 3, &reason));
    assert_null(pack_read("\x81\xa1" "a\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 12, &reason));
    assert_null(pack_read("\x81\xa1" "a\xa1\xff", 5, &reason));
    assert_null(pack_read("\x81\xa1" "a\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", 12, &reason));
}

/* Through a reader and a writer nothing changes, unknown kinds included, but for pads where the header has another
 * length. */
static void test_pass_through(void)
{
    struct text bytes = make_stream(), again = {0};
    struct reader reader;
    struct writer writer;
    struct record record = {0};

    assert_int_equal(reader_open(&reader, "small.tns"), EX_OK);
    assert_int_equal(writer_open(&writer, "again.tns", reader.config, reader.history), EX_OK);
    while (!reader_next(&reader, &record) && record.kind != RECORD_END) {
        assert_int_equal(reader_pass(&reader, &record, &writer), EX_OK);
        record_free(&record);
    }
    assert_int_equal(writer_end(&writer), EX_OK);
    writer_close(&writer);
    reader_close(&reader);
    assert_int_equal(file_read("again.tns", 1 << 20, &again), EX_OK);
    assert_int_equal(bytes.length, again.length);
    assert_memory_equal(bytes.data, again.data, bytes.length);
    text_free(&bytes);
    text_free(&again);
}

static void test_payloads_are_aligned(void)
{
    struct text bytes = make_stream();
    struct reader reader;
    struct record record = {0};

    assert_int_equal(reader_open(&reader, "small.tns"), EX_OK);
    while (!reader_next(&reader, &record) && record.kind != RECORD_END) {
        assert_int_equal(reader.offset % 64, 0);
        record_free(&record);
    }
    reader_close(&reader);
    text_free(&bytes);
}

/* What a header says is held to FORMAT too. */
static void test_headers(void)
{
    static const struct {
        const char *config, *history;
        int rc;
    } cases[] = {
        {"{}", "[]", EX_OK},      {"{}", "[1]", EX_DATAERR},   {"{}", "[null]", EX_DATAERR}, {"{}", "[{}]", EX_DATAERR},
        {"[1]", "[]", EX_DATAERR}, {"\"x\"", "[]", EX_DATAERR}, {"{}", "[{\"program\":\"p\"}]", EX_DATAERR},
        {"{}", "[{\"program\":\"p\",\"version\":\"1\",\"options\":{}}]", EX_OK}, {"{}", "{}", EX_DATAERR},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json *config = json_parse(cases[i].config, strlen(cases[i].config), "config");
        struct json *history = json_parse(cases[i].history, strlen(cases[i].history), "history");
        struct writer writer;
        struct text bytes = {0};

        assert_int_equal(writer_open(&writer, "header.tns", config, history), EX_OK);
        assert_int_equal(writer_end(&writer), EX_OK);
        writer_close(&writer);
        assert_int_equal(file_read("header.tns", 4096, &bytes), EX_OK);
        if (read_bytes(bytes.data, bytes.length) != cases[i].rc)
            fail_msg("case %zu: %s", i, message);
        text_free(&bytes);
        json_drop(config);
        json_drop(history);
    }
}

/* An output that was not ended leaves nothing under its name. */
static void test_unfinished_output_vanishes(void)
{
    struct writer writer;

    assert_int_equal(writer_open(&writer, "never.tns", NULL, NULL), EX_OK);
    assert_int_equal(access(".never.tns.part", F_OK), 0);
    writer_close(&writer);
    assert_int_equal(access("never.tns", F_OK), -1);
    assert_int_equal(access(".never.tns.part", F_OK), -1);
}

CHECK_MAIN({"a whole stream reads", test_whole_stream_reads},
           {"a stream cut at every byte is refused", test_cut_at_every_byte},
           {"a stream with any bit flipped is refused", test_every_bit_flipped},
           {"bytes behind the end record are refused", test_bytes_behind_the_end},
           {"maps with good checksums are not believed", test_maps_with_good_checksums_are_not_believed},
           {"counts and lengths that lie are refused early", test_hostile_msgpack},
           {"keys twice and types that JSON lacks are refused", test_keys_twice_and_odd_types},
           {"records pass through byte by byte", test_pass_through},
           {"payloads start at multiples of 64", test_payloads_are_aligned},
           {"headers are held to their form", test_headers},
           {"an unfinished output vanishes", test_unfinished_output_vanishes})
