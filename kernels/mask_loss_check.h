/* The shape checks of mask_loss.h, shared by all backends. No data is touched. */
#ifndef KERNELS_MASK_LOSS_CHECK_H
#define KERNELS_MASK_LOSS_CHECK_H

#include "kernels/mask_loss.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status mask_loss_fwd_check(struct tensor value, struct tensor selected, struct tensor logits,
                                struct tensor gt, struct tensor iou_pred, struct tensor valid,
                                const struct mask_loss_options *o) MUST_CHECK;

/* dlogits and diou may be none. */
enum status mask_loss_bwd_check(struct tensor dlogits, struct tensor diou, struct tensor value,
                                struct tensor selected, struct tensor logits, struct tensor gt,
                                struct tensor iou_pred, struct tensor valid, struct tensor weight,
                                const struct mask_loss_options *o) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
