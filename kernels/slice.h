/* Some tokens of every mask.
 *
 *   y[m,t] = x[m, first+t]        x dx (M,T,C)   y dy (M,t,C), first + t ≤ T
 *
 * Backward, dx without add is zero outside the slice; with add, only the slice is touched. */
#ifndef KERNELS_SLICE_H
#define KERNELS_SLICE_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status slice_fwd_fn(struct tensor y, struct tensor x, int64_t first,
                                 struct stream *s) MUST_CHECK;
typedef enum status slice_bwd_fn(struct tensor dx, struct tensor dy, int64_t first,
                                 struct stream *s) MUST_CHECK;
slice_fwd_fn slice_fwd_ref, slice_fwd_cpu, slice_fwd_cuda;
slice_bwd_fn slice_bwd_ref, slice_bwd_cpu, slice_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
