/* How far each tensor of a golden file is off, and how far it may be.
 *
 * An error is relative, ‖a−b‖/‖b‖. In f32 the bound is one number a class. In bf16 it is each tensor's own, measured on the
 * same file: these small models magnify, and by how much is a matter of the tensor (docs/numerics.md). */
#ifndef TESTS_GOLDEN_BOUNDS_H
#define TESTS_GOLDEN_BOUNDS_H

#include <stdbool.h>

#include "kernels/base/status.h"
#include "kernels/base/tensor.h"

/* EXACT is computed in f32 whatever the precision; WHOLE is the gradient of all parameters as one tensor; ZERO is a gradient
 * that is zero but for rounding, relative to the whole one's norm. */
enum golden_class { EXACT, FORWARD, LOSS, GRADIENT, WHOLE, ZERO, N_CLASSES };

struct golden_error {
    char tensor[128], group[64];
    enum golden_class class;
    double error, bound; /* bound: 0 until golden_bounds_set */
};

struct golden_errors { /* zero is an empty list */
    struct golden_error *at;
    int n, room;
};

void golden_errors_free(struct golden_errors *e);
void golden_errors_add(struct golden_errors *e, const char *group, const char *tensor,
                       enum golden_class class, double error);

/* Every entry's bound: the least of its class in that precision, or in bf16 the greatest error of the same tensor among the
 * n lists of draws, times GOLDEN_SHARE, where that is more. E_CORRUPT when a list lacks a tensor. */
enum status golden_bounds_set(struct golden_errors *e, enum dtype compute,
                              const struct golden_errors *draws, int n) MUST_CHECK;

/* One line a group, that of its entry nearest to its bound, or where every is on one line an entry; then the entries beyond
 * their bounds. True when there are none; NaN is beyond any bound. */
bool golden_errors_report(const struct golden_errors *e, bool every);

#endif
