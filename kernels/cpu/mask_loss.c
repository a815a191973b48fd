#include "kernels/mask_loss.h"

enum status mask_loss_fwd_cpu(struct tensor value, struct tensor selected, struct tensor logits,
                              struct tensor gt, struct tensor iou_pred, struct tensor valid,
                              const struct mask_loss_options *o, struct stream *s)
{
    return mask_loss_fwd_ref(value, selected, logits, gt, iou_pred, valid, o, s);
}

enum status mask_loss_bwd_cpu(struct tensor dlogits, struct tensor diou, struct tensor value,
                              struct tensor selected, struct tensor logits, struct tensor gt,
                              struct tensor iou_pred, struct tensor valid, struct tensor weight,
                              float scale, const struct mask_loss_options *o, struct stream *s)
{
    return mask_loss_bwd_ref(dlogits, diou, value, selected, logits, gt, iou_pred, valid, weight,
                             scale, o, s);
}
