/* Requests from outside: USR1, TERM, INT (and HUP, when a terminal goes) ask for a checkpoint at the next step boundary and exit
 * code 85. Handlers set a flag, on which ranks agree by the step's own exchange, and say so. A second INT ends the process at
 * once. Local. */
#ifndef CLUSTER_SIGNALS_H
#define CLUSTER_SIGNALS_H

#include <stdbool.h>

#include "kernels/base/status.h"

/* Early in a run, before MPI and before any thread: until then USR1 waits (see topology_environment). A HUP that was ignored, as
 * under nohup, stays so. A reader of the output that goes, as tee does at the same INT, ends nothing from here on. */
enum status signals_catch(void) MUST_CHECK;
bool signals_stop_wanted(void);

/* As nohup leaves HUP. */
bool signals_is_ignored(int signal_number);

/* What the first request says on stderr, at once, however long the work at hand still takes; a request that has come already
 * says it now. A line without its end, of up to 250 bytes. at_term: a TERM too; mpirun sends one to ranks that it is about to kill.
 * silence: nothing is said any more, for the end has another reason. */
void signals_notice(const char *line, bool at_term);
void signals_silence(void);

/* For commands that have nothing to save: from now on a request ends the process at once. */
enum status signals_release(void) MUST_CHECK;

#endif
