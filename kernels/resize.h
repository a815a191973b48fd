/* Bilinear resampling of mask logits, align_corners = false, no antialiasing (F.interpolate).
 *
 *   source = max(0, (i + ½) · crop/out − ½), its upper neighbour clamped to crop−1;
 *   x is first cropped to its top left crop_h × crop_w
 *
 *   x dx (M,h,w)   y dy (M,H,W)   1 ≤ crop_h ≤ h, 1 ≤ crop_w ≤ w
 *   dx is zero outside the crop. Deterministic, independent of the number of threads. */
#ifndef KERNELS_RESIZE_H
#define KERNELS_RESIZE_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status resize_fwd_fn(struct tensor y, struct tensor x, int64_t crop_h, int64_t crop_w,
                                  struct stream *s) MUST_CHECK;
typedef enum status resize_bwd_fn(struct tensor dx, struct tensor dy, int64_t crop_h,
                                  int64_t crop_w, struct stream *s) MUST_CHECK;
resize_fwd_fn resize_fwd_ref, resize_fwd_cpu, resize_fwd_cuda;
resize_bwd_fn resize_bwd_ref, resize_bwd_cpu, resize_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
