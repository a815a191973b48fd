/* What a golden file holds: the model's configuration, its weights, and any other tensor as floats. What is in it: golden_model.h. */
#ifndef TESTS_GOLDEN_FILE_H
#define TESTS_GOLDEN_FILE_H

#include "trainer/config.h"
#include "trainer/params.h"
#include "trainer/safetensors.h"

/* Sizes of the metadata, no dropout, then those of the n words that are settings, "section.key=value"; checked. */
enum status golden_file_config(const struct safetensors *file, char *const *settings, int n,
                               struct config *c) MUST_CHECK;

/* The tensor's count floats; the caller frees them. */
enum status golden_file_floats(const struct safetensors *file, const char *name, int64_t count,
                               float **data) MUST_CHECK;

/* Dimension i; 0 when there is no such tensor. */
int64_t golden_file_dim(const struct safetensors *file, const char *name, int i);

/* All of params->n_floats that are parameters. draw from 1: each but the Fourier features is changed by up to GOLDEN_NUDGE of itself, in
 * each draw otherwise: a sixteenth of bf16's spacing and less, so that other numbers are rounded up and others down, while the model
 * stays the same. */
#define GOLDEN_NUDGE 0x1p-12f
enum status golden_file_weights(const struct safetensors *file, const struct params *params,
                                int draw, float *to) MUST_CHECK;

#endif
