/* The shape checks every backend of layernorm runs first. They touch no data. */
#ifndef KERNELS_LAYERNORM_CHECK_H
#define KERNELS_LAYERNORM_CHECK_H

#include "kernels/layernorm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status layernorm_fwd_check(struct tensor y, struct tensor mean, struct tensor rstd,
                                struct tensor x, struct tensor gamma, struct tensor beta,
                                enum activation act) MUST_CHECK;
enum status layernorm_bwd_check(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                                struct tensor dy, struct tensor x, struct tensor gamma,
                                struct tensor beta, struct tensor mean, struct tensor rstd,
                                enum activation act) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
