/* A golden file's model on a backend: image → loss → gradients, each tensor compared with the file's.
 *
 * A file is a tiny SAM that the reference implementation ran in float64: weights (w.), inputs (in.), outputs (out.), ground truth
 * (gt.), losses (loss.) and all gradients (grad.), with the model's sizes in __metadata__. */
#ifndef TESTS_GOLDEN_MODEL_H
#define TESTS_GOLDEN_MODEL_H

#include "kernels/ops.h"
#include "tests/golden_bounds.h"

struct golden_options {
    const struct ops *ops; /* open */
    enum dtype compute;
    char *const *
        settings; /* not owned; of its n words those with a '=': settings beyond what the file says */
    int n_settings;
    float **
        gradients; /* not NULL: they go there, for the caller to free, and are compared with nothing */
    const float *
        judged; /* not NULL: gradients of another run, compared with this one's, and nothing else is compared */
    int draw; /* of golden_file_weights */
};

/* Every tensor's error into the empty list, in an order that follows from the file. What it took of the device's memory stays taken. */
enum status golden_run(const char *path, const struct golden_options *o,
                       struct golden_errors *errors) MUST_CHECK;

#endif
