/* The hypernetwork's product: mask logits from mask-token vectors and upscaled image features.
 *
 *   y[m,k,p] = Σc h[k][m,c] u[m,p,c]
 *
 *   h[k] dh[k] (M,C), n_h of them, 1 ≤ n_h ≤ MASK_PRODUCT_MAX   u du (M,h,w,C)   y dy (M,n_h,h,w)
 *   Deterministic, independent of the number of threads. M = 0 is allowed. */
#ifndef KERNELS_MASK_PRODUCT_H
#define KERNELS_MASK_PRODUCT_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MASK_PRODUCT_MAX = 8 };

typedef enum status mask_product_fwd_fn(struct tensor y, const struct tensor *h, int n_h,
                                        struct tensor u, struct stream *s) MUST_CHECK;
typedef enum status mask_product_bwd_fn(const struct tensor *dh, struct tensor du, struct tensor dy,
                                        const struct tensor *h, int n_h, struct tensor u,
                                        struct stream *s) MUST_CHECK;
mask_product_fwd_fn mask_product_fwd_ref, mask_product_fwd_cpu, mask_product_fwd_cuda;
mask_product_bwd_fn mask_product_bwd_ref, mask_product_bwd_cpu, mask_product_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
