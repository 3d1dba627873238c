/* hash.h - XXH3, 64 bits, of bytes that come in pieces. The door to xxHash. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash;

/* A new, empty state; hash_free() releases it. */
struct hash *hash_new(void);
void hash_free(struct hash *hash);

void hash_reset(struct hash *hash);
void hash_update(struct hash *hash, const void *data, size_t size);

/* The hash of all bytes since the last reset; more may follow. */
uint64_t hash_value(const struct hash *hash);

/* The hash of one block. */
uint64_t hash_of(const void *data, size_t size);

/* As 16 hexadecimal digits, written to text; returns it. */
enum { HASH_TEXT = 17 };
const char *hash_text(uint64_t value, char text[HASH_TEXT]);

#endif
