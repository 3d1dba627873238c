/* wire.h - the constants of the stream that reader and writer share (see FORMAT). */
#ifndef STREAM_WIRE_H
#define STREAM_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC "lapidary-stream"
enum { WIRE_VERSION = 1 };

enum { WIRE_ALIGN = 64 };                            /* payloads start at multiples of it */
enum { WIRE_BIN8 = 0xc4, WIRE_BIN32 = 0xc6, WIRE_UINT64 = 0xcf };
enum { WIRE_CHECKSUM = 9, WIRE_BIN_HEAD = 5 };       /* bytes of a checksum object, of a bin 32 head */

/* The largest payload of one bin: the largest multiple of 64 a bin 32 holds. */
#define WIRE_CHUNK ((int64_t)0xffffffc0)

/* Zero bytes in the pad (bin 8) that follows a map ending at offset. */
static inline int wire_pad(int64_t offset)
{
    return (int)((WIRE_ALIGN - (offset + 2 + WIRE_BIN_HEAD) % WIRE_ALIGN) % WIRE_ALIGN);
}

static inline void wire_put(unsigned char *to, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        to[i] = (unsigned char)value;
}

static inline uint64_t wire_get(const unsigned char *from, int bytes)
{
    uint64_t value = 0;

    for (int i = 0; i < bytes; i++)
        value = value << 8 | from[i];
    return value;
}

/* Checksums are hashed as 8 bytes, little-endian. */
static inline void wire_little(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++, value >>= 8)
        to[i] = (unsigned char)value;
}

/* Larger pipes mean fewer switches between the programs; what the kernel refuses is no harm. */
void wire_widen(int fd);

#endif
