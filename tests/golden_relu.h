/* Which units of the model's ReLUs are on: recorded in one run, held in another.
 *
 * A unit whose sum lies within rounding of zero is on in one precision and off in another, and its gradient comes or goes as a whole.
 * So two correct runs differ by more than rounding wherever they turned different units; what a run in bf16 should get
 * is the gradient in f32 of the function it did evaluate, with its own units on (docs/numerics.md). */
#ifndef TESTS_GOLDEN_RELU_H
#define TESTS_GOLDEN_RELU_H

#include <stdint.h>

#include "kernels/ops.h"

struct golden_relu { /* zero is an empty one */
    uint8_t *on;     /* owned; one a unit, in the order in which a run computes them */
    int64_t n, room, at;
};

void golden_relu_free(struct golden_relu *r);

/* The table base, whose linear layers with a ReLU append to r or, where hold is on, take from r what is on: a unit that is on
 * against its sum gets the least normal number, for which backward sees it as on. One table at a time; r outlives its use. */
const struct ops *golden_relu_ops(const struct ops *base, struct golden_relu *r, bool hold);

/* The share of units that differ; 1 when they are not as many. */
double golden_relu_turned(const struct golden_relu *a, const struct golden_relu *b);

#endif
