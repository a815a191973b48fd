#include "cluster/wait.h"

#include "kernels/base/clock.h"

#include <sched.h>
#include <time.h>

static const int64_t yield_ns = 1000000, nap_first_ns = 20000, nap_last_ns = 200000;

struct wait wait_begin(void)
{
    return (struct wait){ .begin_ns = clock_ns(), .nap_ns = nap_first_ns };
}

bool wait_more(struct wait *w, int64_t limit_ms)
{
    const int64_t waited = clock_ns() - w->begin_ns;

    if (waited / 1000000 >= limit_ms) return false;
    if (waited < yield_ns) {
        sched_yield();
    } else {
        const struct timespec nap = { .tv_nsec = w->nap_ns };

        nanosleep(&nap, NULL); /* a signal ends it early, which is welcome */
        w->nap_ns = w->nap_ns * 2 > nap_last_ns ? nap_last_ns : w->nap_ns * 2;
    }
    return true;
}

double wait_seconds(const struct wait *w)
{
    return (double)(clock_ns() - w->begin_ns) * 1e-9;
}
