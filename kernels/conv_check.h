/* The shape checks every backend of the convolutions runs first. They touch no data. */
#ifndef KERNELS_CONV_CHECK_H
#define KERNELS_CONV_CHECK_H

#include "kernels/conv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status patch_conv_fwd_check(struct tensor y, struct tensor pre, struct tensor x,
                                 struct tensor w, struct tensor b, enum activation act) MUST_CHECK;
enum status patch_conv_bwd_check(struct tensor dx, struct tensor dw, struct tensor db,
                                 struct tensor dy, struct tensor x, struct tensor w,
                                 struct tensor y, struct tensor pre,
                                 enum activation act) MUST_CHECK;
enum status conv3x3_fwd_check(struct tensor y, struct tensor x, struct tensor w) MUST_CHECK;
enum status conv3x3_bwd_check(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                              struct tensor w) MUST_CHECK;
enum status upconv_fwd_check(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act) MUST_CHECK;
enum status upconv_bwd_check(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
