/* The convolutions SAM has. Activations are channels-last (N,H,W,C); weights are in the layout of
 * the official state dict.
 *
 * patch_conv: kernel = stride = p, no padding. Also the 1×1 case, and mask downscaling (p = 2).
 *   pre[n,i,j,o] = Σc,a,b x[n, i·p+a, j·p+b, c] w[o,c,a,b] + b[o]        y = act(pre)
 *   x (N,H·p,W·p,I)   y pre (N,H,W,O)   w (O,I,p,p)   b (O) or none
 * conv3x3: stride 1, zero padding 1, no bias.
 *   y[n,i,j,o] = Σc,a,b x[n, i+a-1, j+b-1, c] w[o,c,a,b]
 *   x (N,H,W,I)   y (N,H,W,O)   w (O,I,3,3)
 * upconv: transposed convolution, kernel = stride = 2.
 *   pre[n, 2i+a, 2j+b, o] = Σc x[n,i,j,c] w[c,o,a,b] + b[o]              y = act(pre)
 *   x (N,H,W,I)   y pre (N,2H,2W,O)   w (I,O,2,2)   b (O) or none
 *
 * pre as in linear.h. Deterministic, and independent of the number of threads. N = 0 is allowed. */
#ifndef KERNELS_CONV_H
#define KERNELS_CONV_H

#include "kernels/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status patch_conv_fwd_fn(struct tensor y, struct tensor pre, struct tensor x,
                                      struct tensor w, struct tensor b, enum activation act,
                                      struct stream *s) MUST_CHECK;
typedef enum status patch_conv_bwd_fn(struct tensor dx, struct tensor dw, struct tensor db,
                                      struct tensor dy, struct tensor x, struct tensor w,
                                      struct tensor y, struct tensor pre, enum activation act,
                                      struct stream *s) MUST_CHECK;
typedef enum status conv3x3_fwd_fn(struct tensor y, struct tensor x, struct tensor w,
                                   struct stream *s) MUST_CHECK;
typedef enum status conv3x3_bwd_fn(struct tensor dx, struct tensor dw, struct tensor dy,
                                   struct tensor x, struct tensor w, struct stream *s) MUST_CHECK;
typedef patch_conv_fwd_fn upconv_fwd_fn;
typedef patch_conv_bwd_fn upconv_bwd_fn;
patch_conv_fwd_fn patch_conv_fwd_ref, patch_conv_fwd_cpu, patch_conv_fwd_cuda;
patch_conv_bwd_fn patch_conv_bwd_ref, patch_conv_bwd_cpu, patch_conv_bwd_cuda;
conv3x3_fwd_fn conv3x3_fwd_ref, conv3x3_fwd_cpu, conv3x3_fwd_cuda;
conv3x3_bwd_fn conv3x3_bwd_ref, conv3x3_bwd_cpu, conv3x3_bwd_cuda;
upconv_fwd_fn upconv_fwd_ref, upconv_fwd_cpu, upconv_fwd_cuda;
upconv_bwd_fn upconv_bwd_ref, upconv_bwd_cpu, upconv_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
