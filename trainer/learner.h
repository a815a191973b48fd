/* A model that learns: the SAM, its objective, the sums of its gradients over slots and ranks, and AdamW's state. What a step
 * of training does between a slot and new weights; the loop and the benchmark both stand on it. All memory is taken at create.
 *
 * Where gradients are summed on devices (sync is NULL: one rank, or several whose devices exchange messages and run.nccl allows),
 * nothing of a step waits for the device until losses or norm are asked for. It is prepared and launched as one graph where the
 * device has graphs and run.graph allows (graph); else it is queued: begin, add for each slot, end. Elsewhere a step is made of
 * its parts: slot and losses for each slot, sum, norm, update; a device's gradient of a slot is then copied to the host when it
 * is complete, and the sum over slots and ranks is copied back. The same bits all ways. */
#ifndef TRAINER_LEARNER_H
#define TRAINER_LEARNER_H

#include "cluster/grad_sync.h"
#include "trainer/device_sum.h"
#include "trainer/objective.h"

enum { LEARNER_ARRAYS = 3 };
/* Of a step in a graph, at most: images, and rounds of all chunks of them. Of ViT-H that is 83,000 launches. */
enum { LEARNER_GRAPH_IMAGES = 16, LEARNER_GRAPH_ROUNDS = 16 * 11 };
/* Bytes of their pixels: three quarters of what kernels/cuda/graph.c pins for a step at most; the rest is room for runs and the
 * like, 8 MB an image, where 64 masks at 1024² take 0.3. */
enum { LEARNER_GRAPH_PIXELS = 384 << 20 };

struct learner {
    const struct config *config; /* not owned */
    struct sam *sam;
    struct objective *objective;
    struct comm *comm;             /* not owned */
    struct grad_sync *sync;        /* NULL: the sum is the devices' */
    struct device_sum *device_sum; /* or sync, never both */
    struct plan_range slots;       /* this rank's of every step */
    void *state;  /* device memory behind moments, and the gradient where sync sums; owned */
    float *m, *v; /* moments, in the layout of params.h */
    float *grads; /* of a slot, on a device whose host sums; else NULL */
    struct tensor
        squares; /* (1 + ranks) f64, device: of total, and of each rank's losses; in state */
    double *host_squares; /* as many */
    float *total; /* the last step's gradient: the sum over all slots, the same on all ranks */
    float *host[LEARNER_ARRAYS]; /* weights, m, v for the host: copies, or the device's own */
    void *host_room;             /* of the copies; owned */
    struct adamw_segment *segment;
    int64_t encoder_end; /* floats: all behind is complete once the decoder is */
    double sum_seconds;  /* of zeroing and merging on the device, as objective_times */
    enum status ready;   /* the first failure of what callbacks said is ready */
    bool graph;          /* steps are recorded */
    const struct loader_slot *const *slot; /* the rank's own of the prepared step */
    int64_t update, masks;                 /* of it: the number of its update, masks on all ranks */
    int64_t step;                          /* being queued */
};

/* Local. Whether so many ranks sum their gradients on such devices; else on their hosts. */
bool learner_sums_on_devices(const struct config *c, const struct ops *ops, int n_ranks);

/* Local. E_CONFIG when the configuration demands a step that this device cannot make on so many ranks, or in that way; create
 * asks it too. */
enum status learner_check(const struct config *c, const struct ops *ops, int n_ranks) MUST_CHECK;

/* Collective. Weights and moments are zero. Keeps c. */
enum status learner_create(struct learner *l, const struct config *config, const struct ops *ops,
                           struct comm *c) MUST_CHECK;
void learner_destroy(struct learner *l); /* accepts half-built ones */

/* Local. Elements [begin,end) of host are what the device has / all of what host holds becomes the device's, the Fourier features
 * with it. */
enum status learner_to_host(struct learner *l, int64_t begin, int64_t end) MUST_CHECK;
enum status learner_from_host(struct learner *l) MUST_CHECK;

/* Local; a step that is not recorded, where sync is NULL: queued slot by slot, all of it in order, none waited for. What add was
 * given is copied. It ends with update t (from 1) if there are masks, on all ranks together, at the learning rate of its slots'
 * step. All ranks queue the same steps. */
enum status learner_begin(struct learner *l) MUST_CHECK;
enum status learner_add(struct learner *l, const struct loader_slot *slot) MUST_CHECK;
enum status learner_end(struct learner *l, int64_t t, int64_t masks) MUST_CHECK;

/* Local; a recorded step, where graph is set. prepare: the step of these slots, all of it in order, is the next to launch, with the
 * learning rate of its step and, if there are masks on any rank, as update t (from 1); while the step before may still run, beside
 * which its first slot's pixels and truth go to the device. It takes the place of one that was not launched. List and slots must
 * stay until launch. launch: the step is queued. All ranks prepare and launch the same steps. */
enum status learner_prepare(struct learner *l, const struct loader_slot *const *slot, int64_t t,
                            int64_t masks) MUST_CHECK;
enum status learner_launch(struct learner *l) MUST_CHECK;

/* Local; no step may be prepared. For timings of parts, which wait in between: off; on: as run.graph says. */
void learner_use_graph(struct learner *l, bool on);

/* Local, in a rank's last slot sending what is complete. The gradient of the rank's next slot. */
enum status learner_slot(struct learner *l, const struct loader_slot *slot) MUST_CHECK;

/* Local. The losses of the last slot, or of each of the rank's slots of the last step that was launched; waits for the device. Before the next
 * launch. */
enum status learner_losses(struct learner *l, struct objective_losses *losses) MUST_CHECK;

/* Collective. total is complete for what is queued behind this; so is its norm. */
enum status learner_sum(struct learner *l, double *exposed_seconds) MUST_CHECK;

/* Local. total's 2-norm, the same bits on all ranks; not finite also where the device left the update out for a loss that is not.
 * Waits for the device. */
enum status learner_norm(struct learner *l, double *norm) MUST_CHECK;

/* Local. One AdamW update from total/masks, clipped; queued. It leaves everything as it is when total is not finite, or where the sum is the
 * device's a loss is not. The learning rate is that of `step` (from 0), and this is update `t` (from 1). */
enum status learner_update(struct learner *l, double masks, int64_t step, int64_t t) MUST_CHECK;

#endif
