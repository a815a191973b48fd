/* A loop that waits, politely and with a limit: it yields for about a millisecond, for the lowest latency, then naps, since
 * ranks may be more than cores. */
#ifndef CLUSTER_WAIT_H
#define CLUSTER_WAIT_H

#include <stdbool.h>
#include <stdint.h>

struct wait {
    int64_t begin_ns, nap_ns;
};

struct wait wait_begin(void);

/* Local. Gives the core away for a moment; false once limit_ms have passed since wait_begin. */
bool wait_more(struct wait *w, int64_t limit_ms);

double wait_seconds(const struct wait *w); /* since wait_begin */

#endif
