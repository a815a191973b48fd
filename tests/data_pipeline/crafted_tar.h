/* Tars, gzips and files for tests, byte by byte, so that they can be wrong in every way. */
#ifndef TESTS_DATA_PIPELINE_CRAFTED_TAR_H
#define TESTS_DATA_PIPELINE_CRAFTED_TAR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "kernels/base/check.h"

struct crafted {
    uint8_t *p; /* owned */
    int64_t n;
};

static inline void crafted_append(struct crafted *s, const void *p, int64_t n)
{
    s->p = realloc(s->p, (size_t)(s->n + n) + 1);
    ASSERT(s->p);
    if (n > 0) memcpy(s->p + s->n, p, (size_t)n);
    s->n += n;
}

static inline void crafted_zeros(struct crafted *s, int64_t n)
{
    static const uint8_t zeros[512];

    for (; n > 0; n -= 512) crafted_append(s, zeros, n < 512 ? n : 512);
}

static inline void crafted_free(struct crafted *s)
{
    free(s->p);
    memset(s, 0, sizeof *s);
}

/* Writes the checksum of the header at byte `at`. */
static inline void crafted_checksum(struct crafted *s, int64_t at)
{
    unsigned sum = 0;
    char text[9];

    memset(s->p + at + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += s->p[at + i];
    snprintf(text, sizeof text, "%06o", sum);
    memcpy(s->p + at + 148, text, 7); /* six digits, NUL; the eighth stays a space */
}

/* One header and its data. */
static inline void crafted_member(struct crafted *s, const char *name, char type, const void *data,
                                  int64_t n)
{
    const int64_t at = s->n;
    char size[24];

    crafted_zeros(s, 512);
    memcpy(s->p + at, name, strlen(name) < 100 ? strlen(name) : 100);
    snprintf(size, sizeof size, "%011llo", (unsigned long long)n);
    memcpy(s->p + at + 124, size, 12);
    s->p[at + 156] = (uint8_t)type;
    memcpy(s->p + at + 257, "ustar\00000", 8);
    crafted_checksum(s, at);
    if (!data) return;
    crafted_append(s, data, n);
    crafted_zeros(s, (512 - n % 512) % 512);
}

static inline void crafted_text(struct crafted *s, const char *name, const char *text)
{
    crafted_member(s, name, '0', text, (int64_t)strlen(text));
}

static inline void crafted_end(struct crafted *s)
{
    crafted_zeros(s, 1024);
}

/* The same bytes in gzip. */
static inline struct crafted crafted_gzip(const struct crafted *s)
{
    struct crafted out = { 0 };
    z_stream z = { 0 };

    ASSERT(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    out.n = (int64_t)deflateBound(&z, (uLong)s->n);
    out.p = malloc((size_t)out.n);
    ASSERT(out.p);
    z.next_in = s->p;
    z.avail_in = (uInt)s->n;
    z.next_out = out.p;
    z.avail_out = (uInt)out.n;
    ASSERT(deflate(&z, Z_FINISH) == Z_STREAM_END);
    out.n -= (int64_t)z.avail_out;
    deflateEnd(&z);
    return out;
}

static inline void crafted_save(const char *path, const void *p, int64_t n)
{
    FILE *const f = fopen(path, "we");

    ASSERT(f && fwrite(p, 1, (size_t)n, f) == (size_t)n && fclose(f) == 0);
}

/* A new folder, in the folder the test runs in; removed with crafted_remove. */
static inline void crafted_folder(char path[64])
{
    snprintf(path, 64, "crafted-XXXXXX");
    ASSERT(mkdtemp(path));
}

static inline void crafted_remove(const char *path)
{
    char command[128];

    ASSERT(strncmp(path, "crafted-", 8) == 0);
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    ASSERT(system(command) == 0);
}

#endif
