/* A model that learns: the SAM, its objective, the sums of its gradients over slots and ranks, and AdamW's state. What a step
 * of training does between a slot and new weights; the loop and the benchmark both stand on it. All memory is taken at create. */
#ifndef TRAINER_LEARNER_H
#define TRAINER_LEARNER_H

#include "cluster/grad_sync.h"
#include "kernels/base/arena.h"
#include "trainer/objective.h"

struct learner {
    const struct config *config; /* not owned */
    struct sam *sam;
    struct objective *objective;
    struct grad_sync *sync;
    struct plan_range slots; /* this rank's of every step */
    struct arena state;
    float *m, *v; /* moments, in the layout of params.h; in state */
    float *
        total; /* the last step's gradient: the sum over all slots, the same on all ranks; not owned */
    struct adamw_segment *segment;
    int64_t encoder_end; /* floats: all behind is complete once the decoder is */
    enum status ready;   /* the first failure of grad_sync_ready, which is told by callbacks */
};

/* Collective. Weights and moments are zero. Keeps c. */
enum status learner_create(struct learner *l, const struct config *config, const struct ops *ops,
                           struct comm *c) MUST_CHECK;
void learner_destroy(struct learner *l); /* accepts half-built ones */

/* Local, in a rank's last slot sending what is complete. The gradient and the losses of the rank's next slot. */
enum status learner_slot(struct learner *l, const struct loader_slot *slot,
                         struct objective_losses *losses) MUST_CHECK;

/* Collective. Waits until total is complete; *norm is its 2-norm, the same bits on all ranks. */
enum status learner_sum(struct learner *l, double *norm, double *exposed_seconds) MUST_CHECK;

/* Local. One AdamW update from scale · total: the learning rate is that of `step` (from 0), and this is update `t` (from 1). */
enum status learner_update(struct learner *l, double scale, int64_t step, int64_t t) MUST_CHECK;

#endif
