/* The shape checks of resize.h, shared by all backends. No data is touched. */
#ifndef KERNELS_RESIZE_CHECK_H
#define KERNELS_RESIZE_CHECK_H

#include "kernels/resize.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status resize_fwd_check(struct tensor y, struct tensor x, int64_t crop_h,
                             int64_t crop_w) MUST_CHECK;
enum status resize_bwd_check(struct tensor dx, struct tensor dy, int64_t crop_h,
                             int64_t crop_w) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
