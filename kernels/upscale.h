/* From image features to mask logits in one op: two transposed convolutions, a norm, and the
 * hypernetwork's product. What lies between, up to 32 times the logits, never reaches memory.
 *
 *   u1 = upconv(x; w1, b1)                  a1 = GELU(layernorm(u1; gamma, beta, eps)) over channels
 *   u2 = GELU(upconv(a1; w2, b2))           y[m,k,p] = Σc h[k][m,c] u2[m,p,c]
 *
 *   x dx (M,h,w,C)   w1 (C,C1,2,2)   b1 gamma beta (C1)   w2 (C1,C2,2,2)   b2 (C2)
 *   h[k] dh[k] (M,C2), n_h of them, 1 ≤ n_h ≤ MASK_PRODUCT_MAX   y dy (M,n_h,4h,4w) F32
 *   upconv, layernorm, mask product as in conv.h, layernorm.h, mask_product.h; nothing is kept: backward
 *   computes again. Equal to these ops one after another but for rounding.
 *   Deterministic. M = 0 is allowed. Source: the SAM paper, appendix A, "mask decoder". */
#ifndef KERNELS_UPSCALE_H
#define KERNELS_UPSCALE_H

#include "kernels/mask_product.h"

#ifdef __cplusplus
extern "C" {
#endif

struct upscale_weights { /* or their gradients, all F32 */
    struct tensor w1, b1, gamma, beta, w2, b2;
};

typedef enum status upscale_fwd_fn(struct tensor y, struct tensor x,
                                   const struct upscale_weights *w, const struct tensor *h, int n_h,
                                   float eps, struct stream *s) MUST_CHECK;
typedef enum status upscale_bwd_fn(struct tensor dx, const struct upscale_weights *dw,
                                   const struct tensor *dh, struct tensor dy, struct tensor x,
                                   const struct upscale_weights *w, const struct tensor *h, int n_h,
                                   float eps, struct stream *s) MUST_CHECK;
upscale_fwd_fn upscale_fwd_ref, upscale_fwd_cpu, upscale_fwd_cuda;
upscale_bwd_fn upscale_bwd_ref, upscale_bwd_cpu, upscale_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
