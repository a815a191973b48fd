/* The step takes no memory: not from the arenas, not from malloc. Counted by standing in for malloc; what OpenBLAS takes inside
 * its small products, and gives back before they return, is its own. */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>

#include "kernels/base/arena.h"
#include "tests/trainer/tiny_sam.h"

#ifdef __SANITIZE_ADDRESS__
int main(void)
{
    printf("skipped: AddressSanitizer stands in for malloc itself\n");
    return CHECK_SKIP;
}
#else

static atomic_long n_mallocs;
static atomic_bool counting;

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

static void count(const void *caller)
{
    Dl_info at;

    if (!atomic_load(&counting)) return;
    if (dladdr(caller, &at) && at.dli_fname && strstr(at.dli_fname, "openblas")) return;
    atomic_fetch_add(&n_mallocs, 1);
}

void *malloc(size_t n)
{
    count(__builtin_return_address(0));
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_memalign(align, n);
}

int main(void)
{
    struct tiny_sam t;
    int64_t takes;
    void *volatile probe; /* so that the call is not removed */

    tiny_create(&t, tiny_config(), &ops_cpu);
    tiny_slot(&t, 0, 0); /* libraries set themselves up in their first call */
    takes = arena_n_takes();
    atomic_store(&counting, true);
    for (int64_t step = 1; step < 5; step++) tiny_slot(&t, step % 2, step);
    atomic_store(&counting, false);
    printf("%ld allocations in four steps\n", atomic_load(&n_mallocs));
    CHECK(atomic_load(&n_mallocs) == 0 && arena_n_takes() == takes);
    atomic_store(&counting, true);
    probe = malloc(1); /* the counter counts */
    atomic_store(&counting, false);
    free(probe);
    CHECK(atomic_load(&n_mallocs) == 1);
    tiny_destroy(&t);
    return check_done("test_no_alloc");
}
#endif
