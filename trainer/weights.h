/* A model's weights from where people keep them: a run's folder, one of its checkpoints, or a safetensors file with the official
 * names. */
#ifndef TRAINER_WEIGHTS_H
#define TRAINER_WEIGHTS_H

#include "trainer/config.h"
#include "trainer/params.h"

/* The layout of p for checkpoints. *tensor has p->n entries and is the caller's to free. */
struct checkpoint_tensor;
enum status weights_layout(const struct params *p, struct checkpoint_tensor **tensor) MUST_CHECK;

/* Every parameter into flat (p->n_floats), verified; padding is zeroed. E_CONFIG when a tensor is missing or of another shape. */
enum status weights_load(const char *path, const struct params *p, float *flat) MUST_CHECK;

/* The same for the model of c, into memory that is the caller's to free. */
enum status weights_take(const char *path, const struct config *c, float **flat) MUST_CHECK;

/* The configuration stored with a run or checkpoint. E_CONFIG for a safetensors file, which has none. */
enum status weights_config(const char *path, struct config *c) MUST_CHECK;

#endif
