#include "tests/check_shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plugin.h"

/* Before the buffer and right behind it; in front, the buffer's size comes first. */
enum { GUARD = 256 };
static const unsigned char pattern = 0xA5;

static const struct ops *backend;
static int64_t n_faults;

static void settle(void)
{
    struct stream s = { 0 }; /* the tests' streams have no queue: the legacy default stream */

    if (backend->sync(&s) != OK) n_faults++;
}

static void *take(int64_t bytes, const char *name, bool zeros)
{
    unsigned char *base = plugin_table()->shared_alloc(bytes + 2 * GUARD);

    if (!base) {
        fprintf(stderr, "no GPU memory for %lld bytes of %s\n", (long long)bytes, name);
        exit(1);
    }
    settle();
    memset(base, pattern, (size_t)bytes + 2 * GUARD);
    memcpy(base, &bytes, sizeof bytes);
    memset(base + GUARD, zeros ? 0 : 0xFF, (size_t)bytes);
    return base + GUARD;
}

static void give(void *p)
{
    unsigned char *base = p ? (unsigned char *)p - GUARD : NULL;
    int64_t bytes;
    bool whole = true;

    if (!base) return;
    settle();
    memcpy(&bytes, base, sizeof bytes);
    for (int i = (int)sizeof bytes; i < GUARD; i++) whole = whole && base[i] == pattern;
    for (int i = 0; whole && i < GUARD; i++) whole = base[GUARD + bytes + i] == pattern;
    if (!whole) {
        fprintf(stderr, "a buffer on the GPU was written outside its bounds\n");
        n_faults++;
    }
    plugin_table()->shared_free(base);
}

static int64_t faults(void)
{
    return n_faults;
}

const struct check_memory *check_shared_memory(const struct ops *be)
{
    static const struct check_memory memory = { take, give, faults, settle };

    backend = be;
    return &memory;
}
