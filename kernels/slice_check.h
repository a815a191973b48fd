/* The shape check every backend of slice runs first, with y or dy, x or dx. It touches no data. */
#ifndef KERNELS_SLICE_CHECK_H
#define KERNELS_SLICE_CHECK_H

#include "kernels/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status slice_fwd_check(struct tensor y, struct tensor x, int64_t first) MUST_CHECK;
enum status slice_bwd_check(struct tensor dx, struct tensor dy, int64_t first) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
