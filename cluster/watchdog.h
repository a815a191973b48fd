/* Ends a run that hangs. A thread watches a progress counter that the main thread moves; when it stands still for longer
 * than the phase's limit, the watchdog logs rank, phase, step and how long, and ends all ranks (RELIABILITY: MPI notices a
 * killed rank by itself, a stopped or deadlocked one never). */
#ifndef CLUSTER_WATCHDOG_H
#define CLUSTER_WATCHDOG_H

#include <stdint.h>

#include "cluster/comm.h"

/* Local. limit_ms: for phases that name no own limit. Keeps c; c may be NULL (then the process ends alone). */
enum status watchdog_start(struct comm *c, int64_t limit_ms) MUST_CHECK;
void watchdog_stop(void);

/* Local, cheap, any thread: progress was made; now in this phase (a static string) of this step. limit_ms 0: the default. */
void watchdog_feed(const char *phase, int64_t step, int64_t limit_ms);

#endif
