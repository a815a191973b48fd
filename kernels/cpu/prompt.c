#include "kernels/prompt.h"

enum status prompt_first_cpu(struct tensor coords, struct tensor labels, struct tensor n_points,
                             struct tensor gt, struct tensor box, struct tensor size,
                             struct tensor weight, struct tensor key, int64_t m_first,
                             const struct prompt_options *o, struct stream *s)
{
    return prompt_first_ref(coords, labels, n_points, gt, box, size, weight, key, m_first, o, s);
}

enum status prompt_next_cpu(struct tensor mask_prompt, struct tensor coords, struct tensor labels,
                            struct tensor n_points, struct tensor logits, struct tensor iou_pred,
                            struct tensor gt, struct tensor weight, struct tensor key,
                            int64_t m_first, int round, bool add_point,
                            const struct prompt_options *o, struct stream *s)
{
    return prompt_next_ref(mask_prompt, coords, labels, n_points, logits, iou_pred, gt, weight, key,
                           m_first, round, add_point, o, s);
}
