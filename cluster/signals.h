/* Requests from outside: USR1, TERM (and INT) ask for a checkpoint at the next step boundary and exit code 85.
 * Handlers only set a flag; ranks agree on it by the step's own exchange. A second INT ends the process at once. Local. */
#ifndef CLUSTER_SIGNALS_H
#define CLUSTER_SIGNALS_H

#include <stdbool.h>

#include "kernels/base/status.h"

/* Early in a run, before MPI and before any thread: until then USR1 waits (see topology_environment). */
enum status signals_catch(void) MUST_CHECK;
bool signals_stop_wanted(void);

/* For commands that have nothing to save: from now on a request ends the process at once. */
enum status signals_release(void) MUST_CHECK;

#endif
