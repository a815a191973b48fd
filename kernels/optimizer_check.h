/* The checks of optimizer.h, shared by all backends. Segments and options are on the host and
 * there while planning too; no tensor's data is touched. */
#ifndef KERNELS_OPTIMIZER_CHECK_H
#define KERNELS_OPTIMIZER_CHECK_H

#include "kernels/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status grad_norm_check(struct tensor squares, struct tensor g) MUST_CHECK;
enum status adamw_check(struct tensor w, struct tensor m, struct tensor v, struct tensor w16,
                        struct tensor g, struct tensor squares, const struct adamw_segment *segment,
                        int n_segments, const struct adamw_options *o) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
