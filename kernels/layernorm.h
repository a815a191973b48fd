/* Layer normalization over the last dimension, with an optional GELU behind it. Activations are
 * channels-last, so this is also SAM's LayerNorm2d.
 *
 *   mean[n] = 1/C Σc x[n,c]        rstd[n] = 1/√(1/C Σc (x[n,c] − mean[n])² + eps)
 *   y[n,c]  = act((x[n,c] − mean[n]) · rstd[n] · gamma[c] + beta[c])     act: ACT_NONE or ACT_GELU
 *
 *   x y dx dy (…,C), leading dims folded into N; y may alias x of its own type when no
 *   backward follows. In BF16, x and dx may be F32 beside y and dy in BF16
 *   gamma beta dgamma dbeta (C)    mean rstd (N) f32, written forward, read backward
 *   Two-pass variance. Deterministic, independent of the number of threads. N = 0 is allowed. */
#ifndef KERNELS_LAYERNORM_H
#define KERNELS_LAYERNORM_H

#include "kernels/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status layernorm_fwd_fn(struct tensor y, struct tensor mean, struct tensor rstd,
                                     struct tensor x, struct tensor gamma, struct tensor beta,
                                     float eps, enum activation act, struct stream *s) MUST_CHECK;
typedef enum status layernorm_bwd_fn(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                                     struct tensor dy, struct tensor x, struct tensor gamma,
                                     struct tensor beta, struct tensor mean, struct tensor rstd,
                                     enum activation act, struct stream *s) MUST_CHECK;
layernorm_fwd_fn layernorm_fwd_ref, layernorm_fwd_cpu, layernorm_fwd_cuda;
layernorm_bwd_fn layernorm_bwd_ref, layernorm_bwd_cpu, layernorm_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
