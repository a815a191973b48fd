/* The shape checks every backend of residual and add runs first. They touch no data. */
#ifndef KERNELS_RESIDUAL_CHECK_H
#define KERNELS_RESIDUAL_CHECK_H

#include "kernels/residual.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status residual_fwd_check(struct tensor y, struct tensor x, struct tensor b,
                               struct tensor scale, struct tensor key, float p) MUST_CHECK;
enum status residual_bwd_check(struct tensor dx, struct tensor db, struct tensor dy,
                               struct tensor scale, struct tensor key, float p) MUST_CHECK;
enum status add_fwd_check(struct tensor y, struct tensor a, struct tensor b) MUST_CHECK;
enum status add_bwd_check(struct tensor da, struct tensor db, struct tensor dy) MUST_CHECK;

/* Whether operand t of a checked add is shared by all of y's leading dimension. */
bool add_is_shared(struct tensor t, struct tensor y);

#ifdef __cplusplus
}
#endif
#endif
