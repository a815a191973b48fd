#include "kernels/cpu/host.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"

/* The CPU folder is compiled for one kind of CPU (CPU_ARCH); on a lesser one its first vector would end the program. */
enum status host_open(void)
{
#ifdef __AVX512F__
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        FAIL(E_NO_DEVICE,
             "this program was built for a CPU with AVX-512, and this one has none: build "
             "it here, or with -DCPU_ARCH=x86-64-v3");
#endif
#ifdef __AVX2__
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        FAIL(E_NO_DEVICE,
             "this program was built for a CPU with AVX2, and this one has none: build it "
             "here, or with -DCPU_ARCH=x86-64-v2");
#endif
    return OK;
}

void *host_queue(void)
{
    return NULL;
}

enum status host_alloc(void **p, int64_t bytes)
{
    struct arena a;

    TRY(arena_create(&a, bytes));
    *p = a.base; /* the arena is this one block; host_free gives it back */
    return OK;
}

void host_free(void *p)
{
    free(p);
}

enum status host_put(void *dev, const void *host, int64_t bytes, struct stream *s)
{
    (void)s;
    if (bytes > 0) memcpy(dev, host, (size_t)bytes);
    return OK;
}

enum status host_get(void *host, const void *dev, int64_t bytes, struct stream *s)
{
    return host_put(host, dev, bytes, s);
}

enum status host_zero(void *dev, int64_t bytes, struct stream *s)
{
    (void)s;
    if (bytes > 0) memset(dev, 0, (size_t)bytes);
    return OK;
}

enum status host_accumulate(float *dst, const float *src, int64_t n, struct stream *s)
{
    (void)s;
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) dst[i] += src[i];
    return OK;
}

enum status host_sync(struct stream *s)
{
    (void)s;
    return OK;
}
