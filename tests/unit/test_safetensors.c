/* test_safetensors.c - headers that lie are refused, files that were written are read back, fillers keep tensors
 * aligned. */
#include "base/error.h"
#include "base/file.h"
#include "check.h"
#include "files/model.h"
#include "files/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char message[2048];

static void put_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A file of this header and so many zero bytes; its bytes in *out. */
static void make_file(const char *header, size_t data, struct text *out)
{
    uint64_t length = strlen(header);
    unsigned char field[8];

    for (int i = 0; i < 8; i++)
        field[i] = (unsigned char)(length >> 8 * i & 0xff);
    text_append(out, field, 8);
    text_append(out, header, strlen(header));
    for (size_t i = 0; i < data; i++)
        text_append(out, "", 1);
}

/* Reads the bytes as a file; the exit code, the message is kept. */
static int read_bytes(const void *data, size_t size, struct safetensors *file)
{
    int64_t length;
    int fd, rc;

    put_file("t.safetensors", data, size);
    assert_int_equal(file_open("t.safetensors", &fd, &length), EX_OK);
    error_capture(message, sizeof message);
    rc = safetensors_read(file, fd, "t.safetensors", length);
    error_capture(NULL, 0);
    close(fd);
    return rc;
}

static int read_header(const char *header, size_t data, struct safetensors *file)
{
    struct text text = {0};
    int rc;

    make_file(header, data, &text);
    rc = read_bytes(text.data, text.length, file);
    text_free(&text);
    return rc;
}

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"e\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[8,8]}} ";

static void test_good(void)
{
    struct safetensors file;

    assert_int_equal(read_header(good, 20, &file), EX_OK);
    assert_int_equal(file.n_entry, 3);
    assert_string_equal(file.entry[0].name, "a");
    assert_string_equal(file.entry[1].name, "e");
    assert_string_equal(file.entry[2].name, "b");
    assert_int_equal(file.entry[2].at, file.header + 8);
    assert_int_equal(file.entry[2].bytes, 12);
    assert_int_equal(file.entry[2].rank, 2);
    assert_int_equal(file.entry[2].shape[1], 3);
    assert_string_equal(json_as_string(json_at(file.metadata, "format"), ""), "pt");
    safetensors_free(&file);
    assert_int_equal(read_header("{}", 0, &file), EX_OK);
    safetensors_free(&file);
}

static void test_foreign_dtype(void)
{
    struct safetensors file;

    assert_int_equal(read_header("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, &file),
                     EX_OK);
    assert_false(file.entry[0].known);
    assert_string_equal(file.entry[0].stored, "F8_E4M3");
    safetensors_free(&file);
}

static void test_truncated(void)
{
    struct safetensors file;
    struct text text = {0};

    make_file(good, 20, &text);
    for (size_t size = 0; size < text.length; size++) {
        assert_int_equal(read_bytes(text.data, size, &file), EX_DATAERR);
        assert_non_null(strstr(message, "t.safetensors"));
        assert_int_equal(file.n_entry, 0);
    }
    text_append(&text, "x", 1);
    assert_int_equal(read_bytes(text.data, text.length, &file), EX_DATAERR);
    text_free(&text);
}

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_lies(void)
{
    static const struct {
        const char *header, *says;       /* over 8 bytes of data */
    } lies[] = {
        {"[]", "begin with '{'"},
        {"{ ", "parse"},
        {"{\"a\":1}", "no dtype"},
        {"{\"a\":{}}", "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "no shape"},
        {"{" TENSOR("a", "F32", "[2]", "[0]") "}", "data_offsets"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8,9]") "}", "data_offsets"},
        {"{" TENSOR("a", "F32", "[2]", "[8,0]") "}", "data_offsets"},
        {"{" TENSOR("a", "F32", "[4]", "[0,16]") "}", "outside the 8 bytes"},
        {"{" TENSOR("a", "F32", "[2]", "[-8,0]") "}", "data_offsets"},
        {"{" TENSOR("a", "F32", "[2]", "[0.0,8.0]") "}", "data_offsets"},
        {"{" TENSOR("a", "F32", "[2]", "[0,99999999999999999999]") "}", "parse"},
        {"{" TENSOR("a", "F32", "[3]", "[0,8]") "}", "8 bytes, expected 12"},
        {"{" TENSOR("a", "F32", "[-2]", "[0,8]") "}", "axis 0"},
        {"{" TENSOR("a", "F32", "[\"2\"]", "[0,8]") "}", "axis 0"},
        {"{" TENSOR("a", "F32", "[4611686018427387904,4]", "[0,8]") "}", "expected -1"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", "axes"},
        {"{" TENSOR("", "F32", "[2]", "[0,8]") "}", "no name"},
        {"{" TENSOR("a\\n", "F32", "[2]", "[0,8]") "}", "control"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", "4 by its header"},
        {"{" TENSOR("a", "F32", "[1]", "[4,8]") "}", "hole"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[1]", "[4,8]") "}", "overlap"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[0,8]") "}", "overlap"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", "parse"},
        {"{\"__metadata__\":[]," TENSOR("a", "F32", "[2]", "[0,8]") "}", "__metadata__"},
        {"{\"__metadata__\":{\"x\":1}," TENSOR("a", "F32", "[2]", "[0,8]") "}", "'x'"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "}}", "parse"},
    };
    struct safetensors file;

    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        int rc = read_header(lies[i].header, 8, &file);

        if (rc != EX_DATAERR || !strstr(message, lies[i].says))
            fail_msg("%s: exit code %d, message '%s', expected '%s' in it", lies[i].header, rc, message, lies[i].says);
        assert_null(file.entry);
    }
}

static void test_lengths(void)
{
    static const unsigned char lengths[][8] = {
        {0}, {1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0, 0xe1, 0xf5, 0x05}, {0, 0, 0, 0, 0, 0, 0,
                                                                                            0x80}, {200},
    };
    struct safetensors file;

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char bytes[64] = {0};

        memcpy(bytes, lengths[i], 8);
        memcpy(bytes + 8, "{}", 2);
        assert_int_equal(read_bytes(bytes, sizeof bytes, &file), EX_DATAERR);
    }
}

/* Writes tensors whose sizes would leave the next one at an odd place. */
static void write_odd(const char *path, int64_t *fillers)
{
    struct safetensors_writer writer = {.fillers = *fillers};
    struct json *metadata = json_make_object();

    json_put(metadata, "format", json_make_string("pt"));
    assert_int_equal(safetensors_create(&writer, path), EX_OK);
    assert_int_equal(safetensors_begin(&writer, "u", DTYPE(U8), 1, (int64_t[]){3}), EX_OK);
    assert_int_equal(safetensors_add(&writer, "ab", 2), EX_OK);
    assert_int_equal(safetensors_add(&writer, "c", 1), EX_OK);
    assert_int_equal(safetensors_begin(&writer, "f", DTYPE(F32), 2, (int64_t[]){1, 2}), EX_OK);
    assert_int_equal(safetensors_add(&writer, "12345678", 8), EX_OK);
    assert_int_equal(safetensors_begin(&writer, "none", DTYPE(F64), 1, (int64_t[]){0}), EX_OK);
    assert_int_equal(safetensors_finish(&writer, metadata), EX_OK);
    *fillers = writer.fillers;
    json_drop(metadata);
}

static void test_written(void)
{
    struct safetensors file;
    char bytes[8];
    int64_t size, fillers = 5;
    int fd;

    write_odd("w.safetensors", &fillers);
    assert_int_equal(fillers, 7);                /* one before f, one before none: 12 is no multiple of 8 */
    assert_int_equal(file_open("w.safetensors", &fd, &size), EX_OK);
    assert_int_equal(safetensors_read(&file, fd, "w.safetensors", size), EX_OK);
    assert_int_equal(file.header, 4096);
    assert_int_equal(file.n_entry, 5);
    for (size_t i = 0; i < file.n_entry; i++)
        assert_int_equal(file.entry[i].at % dtype_size(file.entry[i].dtype), 0);
    assert_string_equal(file.entry[1].name, SAFETENSORS_FILLER "5");
    assert_string_equal(file.entry[2].name, "f");
    assert_int_equal(file_read_at(fd, "w", bytes, 8, file.entry[2].at), EX_OK);
    assert_memory_equal(bytes, "12345678", 8);
    assert_int_equal(file_read_at(fd, "w", bytes, 3, file.entry[0].at), EX_OK);
    assert_memory_equal(bytes, "abc", 3);
    safetensors_free(&file);
    close(fd);
}

static void test_too_many_bytes(void)
{
    struct safetensors_writer writer = {0};

    assert_int_equal(safetensors_create(&writer, "x.safetensors"), EX_OK);
    assert_int_equal(safetensors_begin(&writer, "a", DTYPE(U8), 1, (int64_t[]){3}), EX_OK);
    error_capture(message, sizeof message);
    assert_int_equal(safetensors_add(&writer, "abcd", 4), EX_SOFTWARE);
    error_capture(NULL, 0);
    safetensors_close(&writer);
}

static int open_model(struct model *model)
{
    int rc;

    error_capture(message, sizeof message);
    rc = model_open(model, "m");
    error_capture(NULL, 0);
    return rc;
}

/* A directory with a filler in its weights: they are not part of the model. */
static void test_directory(void)
{
    struct model model;
    int64_t fillers = 0;
    char bytes[4];

    mkdir("m", 0777);
    assert_int_equal(open_model(&model), EX_NOINPUT);
    put_file("m/config.json", "{\"model_type\":\"llama\"}", 22);
    assert_int_equal(open_model(&model), EX_NOINPUT);
    put_file("m/pytorch_model.bin", "x", 1);
    assert_int_equal(open_model(&model), EX_DATAERR);
    assert_non_null(strstr(message, "pickles"));
    write_odd("m/model.safetensors", &fillers);
    assert_int_equal(open_model(&model), EX_OK);
    assert_int_equal(model.n_item, 4);           /* config.json, f, none, u */
    assert_string_equal(model.item[1].record.name, "f");
    assert_int_equal(model.container->read(&model, &model.item[1], 2, 4, bytes), EX_OK);
    assert_memory_equal(bytes, "3456", 4);
    assert_int_equal(model.container->read(&model, &model.item[0], 0, 4, bytes), EX_OK);
    assert_memory_equal(bytes, "{\"mo", 4);
    model_close(&model);
}

static void test_bad_index(void)
{
    static const char absent[] = "{\"weight_map\":{\"u\":\"a\",\"f\":\"b.safetensors\"}}";
    static const char *const indexes[] = {
        "{}", "[]", "{\"weight_map\":[]}", "{\"weight_map\":{\"u\":1}}", "{\"weight_map\":{\"u\":\"../a\"}}",
        "{\"weight_map\":{\"u\":\"a\",\"f\":\"a\",\"none\":\"a\",\"v\":\"a\"}}",
        "{\"weight_map\":{\"u\":\"a\",\"f\":\"a\"}}",
    };
    struct model model;
    int64_t fillers = 0;

    mkdir("m", 0777);
    unlink("m/model.safetensors");
    put_file("m/config.json", "{}", 2);
    write_odd("m/a", &fillers);
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        put_file("m/model.safetensors.index.json", indexes[i], strlen(indexes[i]));
        assert_int_equal(open_model(&model), EX_DATAERR);
    }
    put_file("m/model.safetensors.index.json", absent, sizeof absent - 1);
    assert_int_equal(open_model(&model), EX_NOINPUT);
    assert_non_null(strstr(message, "m/b.safetensors"));
    unlink("m/model.safetensors.index.json");
}

CHECK_MAIN({"a good file is read", test_good}, {"other programs' dtypes are kept by name", test_foreign_dtype},
           {"a file cut at any byte is refused", test_truncated}, {"headers that lie are refused", test_lies},
           {"lengths that lie are refused", test_lengths}, {"what is written is read back, aligned", test_written},
           {"more bytes than announced are refused", test_too_many_bytes},
           {"a directory is a list of records", test_directory}, {"an index that lies is refused", test_bad_index})
