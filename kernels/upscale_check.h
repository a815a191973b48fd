/* The shape checks every backend of upscale runs first. They touch no data. */
#ifndef KERNELS_UPSCALE_CHECK_H
#define KERNELS_UPSCALE_CHECK_H

#include "kernels/upscale.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status upscale_fwd_check(struct tensor y, struct tensor x, const struct upscale_weights *w,
                              const struct tensor *h, int n_h) MUST_CHECK;
enum status upscale_bwd_check(struct tensor dx, const struct upscale_weights *dw,
                              const struct tensor *dh, struct tensor dy, struct tensor x,
                              const struct upscale_weights *w, const struct tensor *h,
                              int n_h) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
