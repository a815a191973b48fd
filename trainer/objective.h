/* The interactive training objective for one image (SAM paper, appendix A; SAM_SPEC C.4): a first point or box, then rounds of
 * corrective clicks with the predicted mask fed back; at every round 20·focal + dice of the best mask and the IoU head's
 * error. Runs the decoder forward and backward chunk by chunk of masks, and all rounds of a chunk before the next, so
 * that memory depends on neither the number of masks nor (unless back-propagating through rounds) of rounds. */
#ifndef TRAINER_OBJECTIVE_H
#define TRAINER_OBJECTIVE_H

#include "data_pipeline/loader.h"
#include "kernels/base/rng.h"
#include "trainer/history.h"
#include "trainer/sam.h"

/* Which later rounds come with a new click; a pure function of (seed, step), the same for all images of a step. */
struct objective_plan {
    bool click[64]; /* [i]: before round i+1 */
    int n_rounds;
};
struct objective_plan objective_plan(const struct config *c, int64_t step);

/* Bytes of scratch the objective's own ops need: for sam_create. n_slots: of a step, as for objective_create. */
enum status objective_scratch(const struct config *c, const struct ops *ops, int64_t n_slots,
                              int64_t masks, int64_t points, int64_t *bytes) MUST_CHECK;

struct objective;

/* All memory is taken here. n_slots: of every step. beside: slots are loaded on the device's side, where it has one
 * (slot_inputs.h). Keeps s. */
enum status objective_create(struct objective **o, struct sam *s, int64_t n_slots,
                             bool beside) MUST_CHECK;
void objective_destroy(struct objective *o);

/* Host seconds by part of the step, added up. Of work that is done, not only queued, once objective_time(o, true) makes every part
 * wait for the device; a step is slower for it. */
struct objective_times {
    double encoder_forward, prompts, decoder_forward, loss, decoder_backward, encoder_backward;
};
void objective_time(struct objective *o, bool timed);
struct objective_times objective_times(const struct objective *o);

/* For what is queued between slots, to be timed alike: seconds since *since, which becomes now, are added to *sum. */
enum status objective_lap(struct objective *o, double *since, double *sum) MUST_CHECK;

/* For a step that will be recorded. reserve: takes what room its slot i needs beyond any before it, as objective_slot does, but may
 * not while recording. ahead: behind reserve and before recording, its first slot; its pixels and truth go to the device while the step
 * before may still run. join: right before the step is launched. */
enum status objective_reserve(struct objective *o, int64_t i,
                              const struct loader_slot *slot) MUST_CHECK;
enum status objective_ahead(struct objective *o, const struct loader_slot *slot) MUST_CHECK;
enum status objective_join(struct objective *o) MUST_CHECK;

/* The slots that follow are a step: what is launched as one, and whose losses are kept together. Queued. */
enum status objective_begin(struct objective *o) MUST_CHECK;

/* One image: adds the gradient of Σ masks Σ rounds (loss) to grads, which the caller has zeroed. decoder_done is called when every
 * parameter behind the image encoder has its gradient, then param_ready per encoder parameter as it completes. Both may be NULL.
 * The device's work is queued, and nothing of it waited for. */
enum status objective_slot(struct objective *o, const struct loader_slot *slot, float *grads,
                           void (*decoder_done)(void *), void (*param_ready)(void *, int),
                           void *context) MUST_CHECK;

/* The step queued or recorded last is now on its way: objective_losses is about that one, whatever is recorded meanwhile. */
void objective_launched(struct objective *o);

/* Of each slot of the step last launched; waits for the device. Before the next one is launched. */
enum status objective_losses(struct objective *o, struct objective_losses *losses) MUST_CHECK;

/* The same numbers of all slots of the step queued last, on the device, squared and summed into squares (1) f64: finite if and
 * only if all of them are. Queued. */
enum status objective_squares(struct objective *o, struct tensor squares) MUST_CHECK;

/* For tests that compare runs: a hash over prompts and truth of the last slot, all rounds, once begun. */
enum status objective_trace_begin(struct objective *o) MUST_CHECK;
uint64_t objective_trace(const struct objective *o);

#endif
