#include "trainer/room.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"

enum status room_reserve(void *list, int64_t *have, int64_t n, int64_t size)
{
    void *p;

    if (n <= *have) return OK;
    memcpy(&p, list, sizeof p); /* a pointer of whatever type */
    free(p);
    *have = 0;
    p = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(n * size));
    memcpy(list, &p, sizeof p);
    if (!p) FAIL(E_MEMORY, "%lld bytes", (long long)(n * size));
    *have = n;
    return OK;
}
