/* Runs a program on N ranks of this node, and again after a failure.
 *
 * INT, TERM, USR1 and HUP reach the ranks as USR1, the request to save and stop; a grace later, or at a second INT, the ranks
 * are ended. A run that failed is started again as long as it makes progress. Nothing is left behind, not even when the launcher
 * itself is killed. One rank needs no mpirun. Local; for a program without threads. */
#ifndef CLUSTER_LAUNCH_H
#define CLUSTER_LAUNCH_H

#include <stdint.h>

#include "kernels/base/status.h"

struct launch_options {
    int n_ranks;
    char *const *argv;              /* the program's path and its arguments, NULL at the end */
    char *const *again;             /* the same for restarts; NULL: argv */
    int64_t grace_ms;               /* from the request to stop until the ranks are ended */
    int64_t restarts;               /* in a row without progress; then it gives up */
    int64_t pause_ms;               /* before the first restart; doubles up to half a minute */
    int64_t (*progress)(void *arg); /* grows when the run gets on; NULL: it never does */
    void *arg;
};

/* *exit_code is the program's; 128 + n when a signal n ended it. Codes that a restart cannot change (0, 2, 3, 4, 5, 85) end the
 * launch at once. */
enum status launch_run(const struct launch_options *o, int *exit_code) MUST_CHECK;

#endif
