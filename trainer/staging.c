#include "trainer/staging.h"

#include <stdlib.h>

enum status staging_read(const struct ops *ops, struct stream *s, const void *dev, int64_t bytes,
                         void *room, const void **host)
{
    *host = ops->host_memory ? dev : room;
    return ops->host_memory ? OK : ops->get(room, dev, bytes, s);
}

enum status staging_room(const struct ops *ops, int64_t bytes, void **room)
{
    *room = NULL;
    if (ops->host_memory) return OK;
    *room = calloc(1, (size_t)(bytes > 0 ? bytes : 1));
    if (!*room)
        FAIL(E_MEMORY, "%lld bytes of the host's for what the device holds", (long long)bytes);
    return OK;
}
