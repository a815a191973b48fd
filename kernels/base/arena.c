#include "kernels/base/arena.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_llong n_takes;

int64_t arena_round(int64_t bytes)
{
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

enum status arena_create(struct arena *a, int64_t bytes)
{
    int64_t whole;
    char *base;

    if (bytes < 0 || bytes > INT64_MAX - ARENA_ALIGN)
        FAIL(E_MEMORY, "arena of %lld bytes", (long long)bytes);
    whole = arena_round(bytes > 0 ? bytes : 1);
    base = aligned_alloc(ARENA_ALIGN, (size_t)whole);
    if (!base) FAIL(E_MEMORY, "%lld bytes of host memory", (long long)whole);
    memset(base, 0, (size_t)whole);
    atomic_fetch_add(&n_takes, 1);
    *a = (struct arena){ .base = base, .bytes = whole };
    return OK;
}

void arena_destroy(struct arena *a)
{
    if (!a) return;
    free(a->base);
    *a = (struct arena){ 0 };
}

enum status arena_take(struct arena *a, int64_t bytes, void **p)
{
    if (bytes < 0 || bytes > a->bytes - a->used) /* both are whole pieces: no rounding passes it */
        FAIL(E_MEMORY, "arena: %lld bytes wanted, %lld of %lld left", (long long)bytes,
             (long long)(a->bytes - a->used), (long long)a->bytes);
    *p = a->base + a->used;
    a->used += arena_round(bytes);
    return OK;
}

int64_t arena_n_takes(void)
{
    return atomic_load(&n_takes);
}
