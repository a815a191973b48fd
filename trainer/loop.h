/* Training: the loop over steps, and what it stands on. All memory is taken before the first step. */
#ifndef TRAINER_LOOP_H
#define TRAINER_LOOP_H

#include "cluster/comm.h"
#include "kernels/ops.h"
#include "trainer/config.h"

struct loop_options {
    const struct config *config;
    const char *config_path; /* as given, kept in the run folder; NULL: none */
    struct comm *comm;
    char *const *argv; /* the command, kept in the run folder */
    int argc;
    bool
        fresh; /* begin anew although the folder holds checkpoints of another configuration or data */
    const char *
        weights; /* begin from these: a checkpoint's or run's folder, or safetensors; NULL: initial values */
    int64_t stop_after; /* steps of this process; then it saves and stops as if asked to. 0: none */
};

/* Collective. Trains to the configuration's last step, or until asked to stop (E_STOPPED, resumable), out of budget
 * (E_BUDGET, and again at once when started with the same) or diverged (E_DIVERGED). Resumes by itself from the newest checkpoint
 * that verifies. Another failure on one of several ranks ends them all, and does not return. */
enum status loop_run(const struct loop_options *o) MUST_CHECK;

#endif
