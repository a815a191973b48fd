/* A tar from outside: members within the limits, with names that lead nowhere, then an end or a
 * reason.
 *
 * Input: one byte, then the archive. Where the byte is odd, every block with ustar's magic gets
 * the right checksum first: no mutation would ever guess it. */
#include "data_pipeline/tar.h"
#include "kernels/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tar_limits limits = { .member_bytes = 1 << 16,
                                          .n_members = 256,
                                          .total_bytes = 1 << 22 };

static void set_checksums(uint8_t *p, int64_t n)
{
    for (int64_t at = 0; at + BLOCK <= n; at += BLOCK) {
        unsigned sum = 0;
        char text[9];

        if (memcmp(p + at + 257, "ustar", 5) != 0) continue;
        memset(p + at + 148, ' ', 8);
        for (int i = 0; i < BLOCK; i++) sum += p[at + i];
        snprintf(text, sizeof text, "%06o", sum);
        memcpy(p + at + 148, text, 7);
    }
}

static void check_member(const struct tar_member *m)
{
    ASSERT(memchr(m->name, 0, TAR_NAME));
    for (const char *p = m->name; *p; p++) ASSERT(*p >= ' ' && *p <= '~');
    if (m->kind == TAR_REFUSED) ASSERT(m->refused);
    if (m->kind != TAR_FILE) return;
    ASSERT(m->name[0] && !strchr(m->name, '/') && !strchr(m->name, '\\'));
    ASSERT(strcmp(m->name, "..") != 0 && strcmp(m->name, ".") != 0);
    ASSERT(m->bytes >= 0 && m->bytes <= limits.member_bytes);
}

static void read_all(struct tar *t)
{
    struct tar_member m;
    enum status s;
    int64_t n = 0;

    do {
        s = tar_next(t, &m);
        if (s == OK && m.kind != TAR_END) check_member(&m);
        if (s == OK && m.kind == TAR_FILE && n % 3 != 2) { /* some are passed over */
            uint8_t *const bytes = malloc((size_t)m.bytes + (m.bytes == 0));

            ASSERT(bytes);
            s = tar_read(t, bytes);
            free(bytes);
        }
        ASSERT(n++ <= limits.n_members);
    } while (s == OK && m.kind != TAR_END);
    ASSERT(s == OK || (s == E_CORRUPT && tar_why(t)[0]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int64_t n = (int64_t)size - 1;
    struct tar *t = NULL;
    uint8_t *bytes;

    if (n < 0) return 0;
    bytes = malloc((size_t)n + (n == 0)); /* exactly sized */
    ASSERT(bytes);
    memcpy(bytes, data + 1, (size_t)n);
    if (data[0] & 1) set_checksums(bytes, n);
    ASSERT(tar_open_memory(&t, bytes, n, &limits) == OK);
    read_all(t);
    tar_close(t);
    free(bytes);
    return 0;
}
