/* A batch: the slots of a step on their way to the learner, from a loader or made up, taken in order, held as long as a step
 * needs them, and given back. The loop and the benchmark both run their steps through it, so that the one times what the other
 * does. */
#ifndef TRAINER_BATCH_H
#define TRAINER_BATCH_H

#include "data_pipeline/loader.h"
#include "trainer/learner.h"

struct batch_options {
    struct learner *learner;     /* not owned; its config and slots are the batch's */
    const struct shard_set *set; /* not owned; NULL: made_up */
    struct loader_slot *made_up; /* (batch), not owned */
    uint64_t seed;
    int64_t step_first;     /* resume: the first step wanted */
    bool blind;             /* as in loader.h */
    int64_t timeout_ms;     /* of a wait for a slot */
    int64_t image_limit_ms; /* of an image on the device, for the watchdog */
};

struct batch {
    struct learner *learner;
    struct loader *loader; /* NULL: made_up */
    struct loader_slot *made_up;
    int64_t timeout_ms, image_limit_ms;
    const struct loader_slot **slot; /* (n): n_held of the prepared step, or one at hand */
    int64_t n, n_held;               /* n: this rank's of a step */
    int64_t n_most;                  /* of the rank that has most: the others wait for it */
    int64_t wait_ns;                 /* for data, in all */
    int64_t began_ns;                /* the step that runs */
    int64_t longest_ns;         /* of steps with masks, from their begin to the end of the wait */
    enum status next_failed;    /* preparing the step behind the one that runs … */
    char next_why[STATUS_TEXT]; /* … and why, until it is said */
};

/* Local. */
enum status batch_create(struct batch *b, const struct batch_options *o) MUST_CHECK;
void batch_destroy(struct batch *b); /* accepts half-built ones */

/* Local. The next slot, which must be this one; slot[0] where none was held. done: all that are held go back. */
enum status batch_next(struct batch *b, int64_t step, int64_t index) MUST_CHECK;
void batch_done(struct batch *b);

/* Collective; a step of a learner without sync, queued on the device: recorded where the learner records, else slot by slot. It
 * makes update t (from 1), if it has masks. more: another step comes; a recorded one is prepared while the device works, and its
 * failure, on any rank, is told by the call that would run it. */
enum status batch_run(struct batch *b, int64_t step, int64_t t, bool more) MUST_CHECK;

/* Local. What the step that batch_run queued has come to, losses of this rank's slots; waits for the device. */
enum status batch_wait(struct batch *b, int64_t step, struct objective_losses *losses,
                       double *norm) MUST_CHECK;

/* A step on the device tells nothing of its progress. Until one has ended it may take as long as all its images one by one, on the rank that has most; then
 * ten times the longest, and an image. */
int64_t batch_limit_ms(const struct batch *b);

#endif
