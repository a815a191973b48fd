/* What the loop over steps holds from the start of a run to its end: how it comes to be, how it is saved, how it goes. Only loop.c
 * and loop_state.c include this. */
#ifndef TRAINER_LOOP_STATE_H
#define TRAINER_LOOP_STATE_H

#include "cluster/ledger.h"
#include "trainer/batch.h"
#include "trainer/checkpoint.h"
#include "trainer/cost.h"
#include "trainer/divergence.h"
#include "trainer/eval.h"
#include "trainer/first_weights.h"
#include "trainer/loop.h"
#include "trainer/metrics.h"
#include "trainer/run_folder.h"

enum { AGREE_STOP, AGREE_WAIT_NS, AGREE_COUNT };

struct loop {
    const struct loop_options *o;
    struct config config;   /* o->config, with what auto means here */
    const struct config *c; /* &config */
    const struct ops *ops;
    struct comm *comm;
    struct run_folder *folder;
    struct shard_set *train_set, *val_set;
    struct learner learner;
    struct batch batch;
    struct ledger *ledger;   /* rank 0 */
    struct metrics *metrics; /* rank 0 */
    struct eval *eval;       /* when there is something to evaluate on */
    struct checkpoint_tensor *tensor;
    struct first_weights first;
    struct objective_losses *losses; /* (batch) of all slots */
    int64_t *counts;                 /* (ranks) bytes of each rank's part of losses */
    struct checkpoint_counters at;
    struct divergence divergence; /* the same on every rank */
    struct cost cost;
    char *config_text;
    char ledger_path[CONFIG_TEXT + 32];
    int64_t saved_step, step_began_ns, save_ns, eval_ns, waited_ns, own_steps;
    bool save_due;        /* a periodic one, until it is saved */
    int64_t empty_images; /* since the last that had a mask */
    double exposed_seconds, grad_norm;
    struct objective_losses sum;
    int64_t agreed[AGREE_COUNT];
};

/* Collective. o, config, c, comm and saved_step are set. The run goes on from its newest checkpoint, or begins; time counts from
 * here. */
enum status loop_create(struct loop *l) MUST_CHECK;
void loop_destroy(struct loop *l); /* accepts half-made ones */

/* Collective. A checkpoint of the step at hand, unless there is one. */
enum status loop_save(struct loop *l) MUST_CHECK;

/* Local, rank 0. Said when the run stops for it, and again by every start that does not fit any more: never E_STOPPED, which asks
 * to be started again. */
enum status loop_budget_spent(const struct loop *l) MUST_CHECK;

#endif
