/* The shape checks every backend of residual_layernorm runs first. They touch no data. */
#ifndef KERNELS_RESIDUAL_LAYERNORM_CHECK_H
#define KERNELS_RESIDUAL_LAYERNORM_CHECK_H

#include "kernels/residual_layernorm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status residual_layernorm_fwd_check(struct tensor sum, struct tensor y, struct tensor mean,
                                         struct tensor rstd, struct tensor x, struct tensor b,
                                         struct tensor scale, struct tensor gamma,
                                         struct tensor beta) MUST_CHECK;
enum status residual_layernorm_bwd_check(struct tensor dx, struct tensor db, struct tensor dgamma,
                                         struct tensor dbeta, struct tensor dsum, struct tensor dy,
                                         struct tensor sum, struct tensor gamma, struct tensor mean,
                                         struct tensor rstd, struct tensor scale) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
