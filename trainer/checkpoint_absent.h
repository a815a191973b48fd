/* Why no checkpoint is at a path, for whoever named it: a file, a run before its first checkpoint, a folder of runs. */
#ifndef TRAINER_CHECKPOINT_ABSENT_H
#define TRAINER_CHECKPOINT_ABSENT_H

#include <stdbool.h>

#include "kernels/base/status.h"

/* Never OK. path: what neither has a manifest.json nor a checkpoint in its folder checkpoints. E_USAGE or E_MISSING, with the cure;
 * E_CORRUPT for a checkpoint that has lost its manifest, and a run that has lost its checkpoints. */
enum status checkpoint_absent(const char *path) MUST_CHECK;

/* Whether a run's status.json tells of a checkpoint. */
bool checkpoint_was_saved(const char *run);

#endif
