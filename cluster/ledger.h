/* The rank-hours a run has spent, over all restarts: an append-only file of checksummed lines in the run folder.
 * A line: wall time, incarnation, ranks, step, rank-nanoseconds in this incarnation, XXH3 of the line. A torn last line (killed while
 * writing) is dropped; any other damage is E_CORRUPT. Time between the last line and a kill is billed by the next start up to the limit
 * named there. Written by rank 0 only. */
#ifndef CLUSTER_LEDGER_H
#define CLUSTER_LEDGER_H

#include <stdint.h>

#include "kernels/base/status.h"

struct ledger;

struct ledger_options {
    const char *path;
    int n_ranks;
    int64_t budget_ns; /* rank-nanoseconds in all; 0: no limit */
};

/* Local, rank 0. Opens or creates, replays and checks the file, starts a new incarnation. */
enum status ledger_open(struct ledger **l, const struct ledger_options *o) MUST_CHECK;
void ledger_close(struct ledger *l);

/* Appends a line and makes it durable when `durable`. */
enum status ledger_note(struct ledger *l, int64_t step, int durable) MUST_CHECK;

int64_t ledger_spent_ns(const struct ledger *l); /* rank-nanoseconds, all incarnations, now */
int64_t ledger_restarts(const struct ledger *l);

/* Whether another step of step_ns wall time, and then a save of save_ns, still fit the budget. */
int ledger_fits(const struct ledger *l, int64_t step_ns, int64_t save_ns);

#endif
