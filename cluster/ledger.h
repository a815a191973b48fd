/* The rank-hours a run has spent, over all restarts: an append-only file of checksummed lines in the run folder.
 * A line: kind, wall time, incarnation, ranks, step, rank-nanoseconds in this incarnation, rank-nanoseconds billed for the one
 * before, and an XXH3 of all that, seeded with the line before, so that no line can be changed, moved or left out. A torn last line
 * (killed while writing) is dropped; any other damage is E_CORRUPT naming the line. Written by rank 0 only; one process at a time.
 *
 * Within an incarnation time is CLOCK_MONOTONIC from ledger_open on. When one ends without ledger_close, what passed after its
 * last line is not known. The next start bills the wall time since that line, but no more than twice the longest time between two
 * of its lines (LEDGER_FIRST_NS when it wrote only one; the full limit too when the wall clock went backwards). So an
 * incarnation that notes regularly is never billed too little, and too much by at most two intervals. */
#ifndef CLUSTER_LEDGER_H
#define CLUSTER_LEDGER_H

#include <stdint.h>

#include "kernels/base/status.h"

struct ledger;

#define LEDGER_FIRST_NS INT64_C(600000000000) /* ten minutes */

struct ledger_options {
    const char *path;
    int n_ranks;
    int64_t budget_ns; /* rank-nanoseconds in all; 0: no limit */
};

/* Local, rank 0. Opens or creates, replays and checks the file, starts a new incarnation. E_FAILED while another process has
 * the file open. */
enum status ledger_open(struct ledger **l, const struct ledger_options *o) MUST_CHECK;
void ledger_close(
    struct ledger *l); /* accepts NULL; says in the file that all time is accounted for */

/* Appends a line and makes it durable when `durable`. */
enum status ledger_note(struct ledger *l, int64_t step, int durable) MUST_CHECK;

int64_t ledger_spent_ns(const struct ledger *l); /* rank-nanoseconds, all incarnations, now */
int64_t ledger_restarts(const struct ledger *l);

/* Whether another step of step_ns wall time, and then a save of save_ns, still fit the budget. */
int ledger_fits(const struct ledger *l, int64_t step_ns, int64_t save_ns);

/* Whether a start does: what took longest between two lines of the last incarnation that noted a step, which is its set-up and first
 * step, or a later step with what came between. True when there is no such, and any of the budget is left. */
int ledger_fits_start(const struct ledger *l);

#endif
