/* Linear layer with fused bias and activation.
 *
 *   pre[n,o] = Σi x[n,i] w[o,i] + b[o]        y = act(pre)
 *
 *   x dx (…,I)   y dy pre (…,O)   w dw (O,I)   b db (O) or none   leading dims are folded into N
 *   pre is written forward and read backward for ACT_GELU only; otherwise none.
 *   GELU is exact: v/2 · (1 + erf(v/√2)). ReLU reads y backward: zero where y is zero.
 *   Deterministic, and independent of the number of threads. N = 0 is allowed. */
#ifndef KERNELS_LINEAR_H
#define KERNELS_LINEAR_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum activation { ACT_NONE, ACT_GELU, ACT_RELU };

typedef enum status linear_fwd_fn(struct tensor y, struct tensor pre, struct tensor x,
                                  struct tensor w, struct tensor b, enum activation act,
                                  struct stream *s) MUST_CHECK;
typedef enum status linear_bwd_fn(struct tensor dx, struct tensor dw, struct tensor db,
                                  struct tensor dy, struct tensor x, struct tensor w,
                                  struct tensor y, struct tensor pre, enum activation act,
                                  struct stream *s) MUST_CHECK;
linear_fwd_fn linear_fwd_ref, linear_fwd_cpu, linear_fwd_cuda;
linear_bwd_fn linear_bwd_ref, linear_bwd_cpu, linear_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
