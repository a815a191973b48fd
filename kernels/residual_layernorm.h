/* A residual sum and the layer normalization of it, in one pass each way.
 *
 *   sum = x + scale · b        y[n,c] = (sum[n,c] − mean[n]) · rstd[n] · gamma[c] + beta[c]
 *   mean and rstd of sum as in layernorm.h; where sum is BF16, of its rounded values.
 *
 * Backward: dsum is the gradient of sum from its other consumers, none: zero. With
 *   d = dsum + (the gradient of layernorm at sum, from dy):    dx = d    db = scale · d
 *
 *   x b sum y dx db dsum dy (…,C): one shape, leading dims folded into N. In BF16, x sum dx dsum may
 *   be F32, all of them, beside b y db dy in BF16
 *   scale (1) f32, or none: 1
 *   gamma beta dgamma dbeta (C)    mean rstd (N) f32, written forward, read backward
 *   sum may alias x, or b of its own type; dx without add may alias dsum.
 *   Deterministic, independent of the number of threads. N = 0 is allowed. */
#ifndef KERNELS_RESIDUAL_LAYERNORM_H
#define KERNELS_RESIDUAL_LAYERNORM_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status residual_layernorm_fwd_fn(struct tensor sum, struct tensor y,
                                              struct tensor mean, struct tensor rstd,
                                              struct tensor x, struct tensor b, struct tensor scale,
                                              struct tensor gamma, struct tensor beta, float eps,
                                              struct stream *s) MUST_CHECK;
typedef enum status residual_layernorm_bwd_fn(struct tensor dx, struct tensor db,
                                              struct tensor dgamma, struct tensor dbeta,
                                              struct tensor dsum, struct tensor dy,
                                              struct tensor sum, struct tensor gamma,
                                              struct tensor mean, struct tensor rstd,
                                              struct tensor scale, struct stream *s) MUST_CHECK;
residual_layernorm_fwd_fn residual_layernorm_fwd_ref, residual_layernorm_fwd_cpu,
    residual_layernorm_fwd_cuda;
residual_layernorm_bwd_fn residual_layernorm_bwd_ref, residual_layernorm_bwd_cpu,
    residual_layernorm_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
