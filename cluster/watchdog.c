#include "cluster/watchdog.h"

#include "kernels/base/clock.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static const int64_t tick_most_ns = 500000000, tick_least_ns = 10000000;

/* One a process. The lock guards all of it; a feed takes it once a phase, which is cheap beside any phase. */
static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stop_now;
    bool running, stop;
    int rank;
    int64_t default_ms;
    const char *phase;
    int64_t step, limit_ms;
    int64_t still_ns; /* how long nothing was fed, while this process ran */
    bool fed, warned;
} dog = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int64_t tick_ns(void)
{
    const int64_t part = dog.limit_ms * 1000000 / 16;

    return part > tick_most_ns ? tick_most_ns : part < tick_least_ns ? tick_least_ns : part;
}

/* Warns once at half of the limit, ends the process past it. MPI may be stuck in the main thread, and must not be called from
 * this one: the exit of this rank is what the launcher ends the others for. */
static void judge(void)
{
    const int64_t still_ms = dog.still_ns / 1000000;

    if (still_ms >= dog.limit_ms) {
        log_error("%s: rank %d, %s of step %" PRId64
                  " stands still for %.1f s (limit %.1f s): this "
                  "rank ends, and with it the run",
                  status_text(E_TIMEOUT), dog.rank, dog.phase, dog.step, (double)still_ms * 1e-3,
                  (double)dog.limit_ms * 1e-3);
        _exit(status_exit_code(E_TIMEOUT));
    }
    if (!dog.warned && still_ms >= dog.limit_ms / 2) {
        log_warn("rank %d, %s of step %" PRId64 " stands still for %.1f s (limit %.1f s)", dog.rank,
                 dog.phase, dog.step, (double)still_ms * 1e-3, (double)dog.limit_ms * 1e-3);
        dog.warned = true;
    }
}

/* A process that was stopped and goes on has not stood still by its own fault: no tick counts more than two. */
static void *watch(void *unused)
{
    sigset_t all;

    (void)unused;
    sigfillset(&all); /* signals are for the main thread, whose waits they should end */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_mutex_lock(&dog.lock);
    while (!dog.stop) {
        const int64_t tick = tick_ns(), before = clock_ns(), until = before + tick;
        const struct timespec at = { .tv_sec = until / 1000000000, .tv_nsec = until % 1000000000 };
        int64_t passed;

        dog.fed = false;
        pthread_cond_timedwait(&dog.stop_now, &dog.lock, &at);
        if (dog.fed) continue; /* never too early; late by a tick at most */
        passed = clock_ns() - before;
        dog.still_ns += passed > 2 * tick ? 2 * tick : passed;
        if (!dog.stop) judge();
    }
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

enum status watchdog_start(struct comm *c, int64_t limit_ms)
{
    pthread_condattr_t attr;
    int bad;

    if (limit_ms < 1 || dog.running)
        FAIL(E_FAILED, "watchdog: %s", dog.running ? "already started" : "a limit below 1 ms");
    dog.rank = c ? c->rank : 0;
    dog.default_ms = dog.limit_ms = limit_ms;
    dog.phase = "start";
    dog.step = dog.still_ns = 0;
    dog.stop = dog.warned = false;
    bad = pthread_condattr_init(&attr);
    if (!bad) bad = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (!bad) bad = pthread_cond_init(&dog.stop_now, &attr);
    if (!bad) bad = pthread_create(&dog.thread, NULL, watch, NULL);
    if (bad) FAIL(E_FAILED, "watchdog: %s", strerror(bad));
    dog.running = true;
    return OK;
}

void watchdog_stop(void)
{
    if (!dog.running) return;
    pthread_mutex_lock(&dog.lock);
    dog.stop = true;
    pthread_cond_signal(&dog.stop_now);
    pthread_mutex_unlock(&dog.lock);
    pthread_join(dog.thread, NULL);
    pthread_cond_destroy(&dog.stop_now);
    dog.running = false;
}

void watchdog_feed(const char *phase, int64_t step, int64_t limit_ms)
{
    pthread_mutex_lock(&dog.lock);
    dog.phase = phase;
    dog.step = step;
    dog.limit_ms = limit_ms > 0 ? limit_ms : dog.default_ms;
    dog.still_ns = 0;
    dog.fed = true;
    dog.warned = false;
    pthread_mutex_unlock(&dog.lock);
}
