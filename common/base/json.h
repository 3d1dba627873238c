/* json.h - trees of JSON values: configurations, attributes of records, reports. The door to jansson.
 *
 * Values are reference-counted; "stolen" means that the callee takes over the caller's reference. Objects keep the
 * order in which members were added. Integers are 64-bit. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json;

enum json_kind { JSON_NOTHING, JSON_KIND_NULL, JSON_KIND_BOOL, JSON_KIND_INT, JSON_KIND_REAL, JSON_KIND_STRING,
                 JSON_KIND_ARRAY, JSON_KIND_OBJECT };

/* Parses length bytes; NULL after a message that names what ('config.json', say) and the place. Duplicate members and
 * bytes behind the value are refused. The caller releases. */
struct json *json_parse(const char *text, size_t length, const char *what);

/* Reads and parses a file of at most 1 GiB; *value is the caller's. EX_NOINPUT or EX_DATAERR after a message. */
int json_load(const char *path, struct json **value);

/* What take returns below to end the reading; EX_OK follows. */
enum { JSON_ENOUGH = -1 };

/* Reads JSON lines (path NULL or "-": standard input), at most 1 GiB of them: take gets the value of each line that
 * isn't blank (borrowed) with its number, from 1 on, and returns EX_OK to go on. EX_NOINPUT, EX_IOERR, EX_DATAERR with
 * file and line after a message, or what take returned. */
int json_lines(const char *path, int (*take)(void *context, const struct json *value, int64_t line), void *context);

/* The same from length bytes of text; name stands for the file in messages. */
int json_text_lines(const char *text, size_t length, const char *name,
                    int (*take)(void *context, const struct json *value, int64_t line), void *context);

/* The items of one array instead, each with its number; what is held at once is one item. No bound on length. */
int json_text_items(const char *text, size_t length, const char *name,
                    int (*take)(void *context, const struct json *value, int64_t item), void *context);

/* What is in a text of JSON documents, by its beginning: "line", an object on each line; "item", an array of objects;
 * NULL: something else. */
const char *json_text_unit(const char *text, size_t length);

/* Those lines or items, whatever there are. */
int json_text_documents(const char *text, size_t length, const char *name,
                        int (*take)(void *context, const struct json *value, int64_t number), void *context);

/* What take says of its line: prints "'PATH', line LINE: message" and returns EX_DATAERR. */
int bad_line(const char *path, int64_t line, const char *format, ...) PRINTF_LIKE(3, 4);

/* The value as text: one line (indent 0), or indented by as many spaces; reals in their shortest form that reads back
 * equal. The caller frees. */
char *json_write(const struct json *value, int indent);

/* The same as a file has it: indented by 2, with a line feed at the end. The caller frees. */
char *json_document(const struct json *value);

struct json *json_keep(struct json *value);          /* one more reference */
void json_drop(struct json *value);                  /* NULL is allowed */
struct json *json_clone(const struct json *value);   /* a deep copy, the caller's */
bool json_same(const struct json *a, const struct json *b);

struct json *json_make_null(void);
struct json *json_make_bool(bool value);
struct json *json_make_int(int64_t value);
struct json *json_make_real(double value);           /* NULL where value isn't finite */
struct json *json_make_number(double value);         /* null where value isn't finite */
struct json *json_make_string(const char *text);     /* "?" where text isn't UTF-8, as paths may be */
struct json *json_make_stringn(const char *text, size_t length);     /* NULL where text isn't UTF-8 */
struct json *json_make_array(void);
struct json *json_make_object(void);
struct json *json_make_strings(const char *const *text, int count);

enum json_kind json_kind(const struct json *value);  /* JSON_NOTHING for NULL */

/* Member of an object, item of an array; borrowed, NULL where absent or value is of another kind. */
struct json *json_at(const struct json *object, const char *key);
struct json *json_item(const struct json *array, size_t index);
size_t json_count(const struct json *value);         /* items or members; 0 for other kinds */

/* Walks an object: `for (void *m = json_first(o); m; m = json_following(o, m))`. */
void *json_first(const struct json *object);
void *json_following(const struct json *object, void *member);
const char *json_key(void *member);
struct json *json_value(void *member);

/* The scalar, or otherwise where value is NULL or of another kind; json_as_real takes integers too. */
int64_t json_as_int(const struct json *value, int64_t otherwise);
double json_as_real(const struct json *value, double otherwise);
bool json_as_bool(const struct json *value, bool otherwise);
const char *json_as_string(const struct json *value, const char *otherwise);   /* borrowed */
size_t json_as_length(const struct json *value);                                 /* bytes of a string */

/* Adds; value is stolen, also where it fails (only out of memory or NULL, which is our bug: exit 70). */
void json_put(struct json *object, const char *key, struct json *value);
void json_append(struct json *array, struct json *value);

#endif
