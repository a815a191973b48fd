/* Arrays that grow: doubling, checked, one line at the call. */
#ifndef DATA_PIPELINE_GROW_H
#define DATA_PIPELINE_GROW_H

#include <stdint.h>
#include <stdlib.h>

#include "kernels/base/status.h"

/* Makes *p (owned by the caller, may be NULL) hold at least `need` elements of `size` bytes; *room:
 * how many it holds. What was in it stays. E_MEMORY is logged. */
static inline enum status grow(void **p, int64_t *room, int64_t need, int64_t size)
{
    int64_t wanted = *room < 16 ? 16 : *room;
    void *larger;

    if (need <= *room) return OK;
    while (wanted < need) wanted *= 2;
    larger = need > INT64_MAX / 4 / size ? NULL : realloc(*p, (size_t)(wanted * size));
    if (!larger)
        FAIL(E_MEMORY, "no memory for %lld elements of %lld bytes", (long long)wanted,
             (long long)size);
    *p = larger;
    *room = wanted;
    return OK;
}

/* The same for a typed pointer and its room. */
#define GROW(array, room, need)                                                                    \
    TRY(grow((void **)&(array), &(room), (need), (int64_t)sizeof *(array)))

#endif
