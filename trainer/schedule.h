/* Learning rate and drop-path rate as pure functions of step, layer and config. Nothing to save,
 * nothing to restore. */
#ifndef TRAINER_SCHEDULE_H
#define TRAINER_SCHEDULE_H

#include <stdint.h>

#include "trainer/config.h"

/* The rate of step t, counted from 0:
 *   lr · max(0.001, min(1, (t+1)/warmup)) · 0.1^(milestones m with m ≤ t+1) */
double schedule_lr(const struct config *c, int64_t t);

/* Factor on the learning rate of a layer's parameters: layer_decay^(depth+1−layer). Layers: patch
 * embedding and positions 0, encoder block i is i+1, all else depth+1 (as params.h numbers them).
 */
double schedule_layer_factor(const struct config *c, int64_t layer);

/* Rate at which block i of the encoder drops a branch: from 0 at the first block to train.drop_path
 * at the last. */
double schedule_drop_path(const struct config *c, int64_t block);

#endif
