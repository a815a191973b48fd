/* Ends a run that hangs: MPI notices a killed rank by itself, a stopped or deadlocked one never. A thread watches what the main
 * thread feeds; when nothing comes for longer than the phase's limit, it logs rank, phase, step and how long (a warning at half
 * of the limit), and this rank exits with code 1, for which the launcher ends the others. It works while the main thread
 * is stuck inside MPI. Time during which the whole process is stopped does not count. */
#ifndef CLUSTER_WATCHDOG_H
#define CLUSTER_WATCHDOG_H

#include <stdint.h>

#include "cluster/comm.h"

/* Local. limit_ms: for phases that name no own limit. c only gives the rank its name; NULL when there is none yet. */
enum status watchdog_start(struct comm *c, int64_t limit_ms) MUST_CHECK;
void watchdog_stop(void);

/* Local, cheap, any thread: progress was made; now in this phase (a static string) of this step. limit_ms 0: the default. */
void watchdog_feed(const char *phase, int64_t step, int64_t limit_ms);

#endif
