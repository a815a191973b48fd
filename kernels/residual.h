/* Sums of activations.
 *
 * residual: y = x + scale · dropout(b; p).    x none: y = scale · dropout(b).
 *   dropout keeps element i with probability 1−p and divides by 1−p. Element i is kept when
 *   rng_uniform(key', i) ≥ p, key' = rng_sub({key[0], key[1]}, salt): drawn again backward, nothing
 *   is stored. p = 0: no dropout, key may be none.
 *   scale (1) f32, or none: 1. It carries drop path: 0 or 1/(1−rate) (Huang et al., 2016).
 *   x b y dx dy db: one shape. In BF16, x y dx dy may be F32, all of them, beside b and db in BF16:
 *   a stream of sums is not rounded at every sum.
 *   key (2) i64: seed and stream, the bits of two uint64.
 *   y may alias x, or b of its own type.
 *
 * add: y = a + b, with a and b each of y's shape, or without y's leading dimension, or with it 1:
 *   then shared by all, and its gradient is the sum over the leading dimension, in order.
 *   y may alias an operand of its own shape.
 *
 * Deterministic, independent of the number of threads. Counts of 0 are allowed. */
#ifndef KERNELS_RESIDUAL_H
#define KERNELS_RESIDUAL_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status residual_fwd_fn(struct tensor y, struct tensor x, struct tensor b,
                                    struct tensor scale, struct tensor key, float p, int64_t salt,
                                    struct stream *s) MUST_CHECK;
typedef enum status residual_bwd_fn(struct tensor dx, struct tensor db, struct tensor dy,
                                    struct tensor scale, struct tensor key, float p, int64_t salt,
                                    struct stream *s) MUST_CHECK;
typedef enum status add_fwd_fn(struct tensor y, struct tensor a, struct tensor b,
                               struct stream *s) MUST_CHECK;
typedef enum status add_bwd_fn(struct tensor da, struct tensor db, struct tensor dy,
                               struct stream *s) MUST_CHECK;
residual_fwd_fn residual_fwd_ref, residual_fwd_cpu, residual_fwd_cuda;
residual_bwd_fn residual_bwd_ref, residual_bwd_cpu, residual_bwd_cuda;
add_fwd_fn add_fwd_ref, add_fwd_cpu, add_fwd_cuda;
add_bwd_fn add_bwd_ref, add_bwd_cpu, add_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
