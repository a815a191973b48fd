/* The folder a run lives in: what it was started with, its log, metrics, status and checkpoints.
 *
 *   config.yaml config.resolved.yaml cmd.txt env.json git.txt run.json lock
 *   logs/rank-0000.log  metrics.jsonl  status.json  checkpoints/
 *
 * One job at a time: rank 0 holds a lease on `lock` until it closes or dies. */
#ifndef TRAINER_RUN_FOLDER_H
#define TRAINER_RUN_FOLDER_H

#include <stdbool.h>

#include "cluster/comm.h"
#include "trainer/config.h"
#include "trainer/metrics.h"

#define RUN_STATES(X)                                                                              \
    X(RUNNING, "running")                                                                          \
    X(STOPPED, "stopped")                                                                          \
    X(SPENT, "out of budget") X(FINISHED, "finished") X(FAILED, "failed") X(DIVERGED, "diverged")

#define RUN_STATE_ENUM(name, text) RUN_##name,
enum run_state { RUN_STATES(RUN_STATE_ENUM) RUN_N_STATES };
#undef RUN_STATE_ENUM

struct run_folder;

/* Local. Whether the run that create would enter has checkpoints. */
enum status run_folder_has_checkpoints(const struct config *c, bool *has) MUST_CHECK;

struct run_folder_options {
    const struct config *config; /* not owned; outlives the folder */
    const char *config_path;     /* copied as config.yaml; NULL: none */
    char *const *argv;           /* the command */
    int argc;
    bool fresh; /* what is there moves to old-ID/ inside the folder, and a new run begins */
};

/* Collective. Makes or enters run.folder (runs/NAME when empty) and sends every rank's log to its
 * file too. E_USAGE when another job holds it; E_CONFIG when it has checkpoints of another
 * configuration and fresh is not set. */
enum status run_folder_create(struct run_folder **f, struct comm *c,
                              const struct run_folder_options *o) MUST_CHECK;
void run_folder_destroy(struct run_folder *f); /* accepts NULL; ends the lease */

const char *run_folder_path(const struct run_folder *f);
const char *run_folder_id(const struct run_folder *f); /* of this run, over all its restarts */

/* Local, rank 0. Rewrites status.json, at once when the state is a new one, else once a second at
 * most. row NULL: as before. saved_step: of the last checkpoint, −1: none. */
enum status run_folder_status(struct run_folder *f, enum run_state state,
                              const struct metrics_row *row, int64_t saved_step) MUST_CHECK;

#endif
