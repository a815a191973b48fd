/* Fused upsampling + focal + dice + IoU + choice of the best mask (SAM paper, appendix A; formulas
 * as in SAM 2's loss_fns).
 *
 *   z[m,k] = logits[m,k] upsampled bilinearly (resize.h) by f = R/h to R×R; f = 1: as they are
 *   p = σ(z), t = gt, pt = t p + (1−t)(1−p), αt = t α + (1−t)(1−α)
 *   sums go over R×R pixels, or with valid_only over the top left valid[m] = (rows, cols) alone;
 *   area  = how many pixels that is, at least 1
 *   focal = 1/area Σ αt (1−pt)^γ (−ln pt)
 *   dice  = 1 − (2 Σ p t + 1)/(Σ p + Σ t + 1)
 *   iou   = |{z>0} ∧ t| / max(1, |{z>0} ∨ t|)                       no gradient
 *   err   = (iou_pred − iou)², or |iou_pred − iou| with iou_l1
 *   selected[m] = the candidate k of least w_focal·focal + w_dice·dice, the first of equals
 *   loss  = Σm weight[m] · (w_focal·focal[sel] + w_dice·dice[sel] + w_iou·e)
 *           e = err[sel], or with iou_all the mean of err over the candidates
 *
 *   logits dlogits (M,K,h,h)   gt (M,R,R) u8 of 0 or 1   iou_pred diou (M,K)   weight (M) f32
 *   valid (M,2) i32, or none without valid_only   value (M,K,4) f32: focal, dice, err, iou
 *   selected (M) i32: written forward, read backward
 *   backward: gradient of scale · loss; dlogits is zero for masks not selected.
 *
 * Full-resolution logits are never stored; backward computes them again. Log-sigmoid forms: finite
 * for any |z| < 1e30. Deterministic, independent of the number of threads. M = 0 is allowed. */
#ifndef KERNELS_MASK_LOSS_H
#define KERNELS_MASK_LOSS_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"
#include "kernels/candidates.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mask_loss_options {
    float alpha, gamma;           /* focal: 0.25, 2 */
    float w_focal, w_dice, w_iou; /* 20, 1, 1 */
    bool iou_l1, iou_all, valid_only;
    struct tensor candidates; /* which masks may be selected: candidates.h; none: all */
};

enum mask_loss_value {
    MASK_LOSS_FOCAL,
    MASK_LOSS_DICE,
    MASK_LOSS_ERR,
    MASK_LOSS_IOU,
    MASK_LOSS_VALUES
};

typedef enum status mask_loss_fwd_fn(struct tensor value, struct tensor selected,
                                     struct tensor logits, struct tensor gt, struct tensor iou_pred,
                                     struct tensor valid, const struct mask_loss_options *o,
                                     struct stream *s) MUST_CHECK;
typedef enum status mask_loss_bwd_fn(struct tensor dlogits, struct tensor diou, struct tensor value,
                                     struct tensor selected, struct tensor logits, struct tensor gt,
                                     struct tensor iou_pred, struct tensor valid,
                                     struct tensor weight, float scale,
                                     const struct mask_loss_options *o,
                                     struct stream *s) MUST_CHECK;
mask_loss_fwd_fn mask_loss_fwd_ref, mask_loss_fwd_cpu, mask_loss_fwd_cuda;
mask_loss_bwd_fn mask_loss_bwd_ref, mask_loss_bwd_cpu, mask_loss_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
