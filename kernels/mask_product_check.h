/* The shape checks every backend of mask_product runs first. They touch no data. */
#ifndef KERNELS_MASK_PRODUCT_CHECK_H
#define KERNELS_MASK_PRODUCT_CHECK_H

#include "kernels/mask_product.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status mask_product_fwd_check(struct tensor y, const struct tensor *h, int n_h,
                                   struct tensor u) MUST_CHECK;
enum status mask_product_bwd_check(const struct tensor *dh, struct tensor du, struct tensor dy,
                                   const struct tensor *h, int n_h, struct tensor u) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
