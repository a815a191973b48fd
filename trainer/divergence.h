/* Whether a run whose losses are finite has diverged. A loss is judged by that of an answer that knows nothing: every logit 0, no overlap,
 * the IoU missed by 1. That is a constant of the configuration, so neither a lucky beginning nor an unlucky one moves it; a model
 * begins at about it and learns to stay far below. A step of DIVERGENCE_TIMES as much has blown up; one such step may be a
 * batch's fault, more than half of DIVERGENCE_STEPS are not.
 *
 * A function of the last losses alone: a resumed run that is given those of its metrics decides like one that was not stopped. */
#ifndef TRAINER_DIVERGENCE_H
#define TRAINER_DIVERGENCE_H

#include "trainer/config.h"

enum { DIVERGENCE_STEPS = 20, DIVERGENCE_TIMES = 10 };

struct divergence {
    double bound; /* of a step's loss, a sum over rounds as in the metrics */
    uint32_t
        recent; /* a bit for each of the last steps, the last one's the lowest: above the bound */
};

struct divergence divergence_of(const struct config *c);

/* The next step's loss: finite, and of masks; other steps do not count. */
void divergence_add(struct divergence *d, double loss);

/* How many of the last DIVERGENCE_STEPS are above the bound. */
int divergence_count(const struct divergence *d);

/* Adds it, and decides: E_DIVERGED when more than half are. Rank 0 says it, and warns of the first. saved_step: of the last
 * checkpoint, −1: none. */
enum status divergence_judge(struct divergence *d, int64_t step, double loss,
                             int64_t saved_step) MUST_CHECK;

#endif
