/* The shape checks of prompt.h, shared by all backends. No data is touched. */
#ifndef KERNELS_PROMPT_CHECK_H
#define KERNELS_PROMPT_CHECK_H

#include "kernels/prompt.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status prompt_first_check(struct tensor coords, struct tensor labels, struct tensor n_points,
                               struct tensor gt, struct tensor box, struct tensor size,
                               struct tensor weight, struct tensor key, int64_t m_first,
                               const struct prompt_options *o) MUST_CHECK;
enum status prompt_next_check(struct tensor mask_prompt, struct tensor coords, struct tensor labels,
                              struct tensor n_points, struct tensor logits, struct tensor iou_pred,
                              struct tensor gt, struct tensor weight, struct tensor key,
                              int64_t m_first, int round,
                              const struct prompt_options *o) MUST_CHECK;
enum status prompt_next_bwd_check(struct tensor dlogits, struct tensor dmask,
                                  struct tensor iou_pred,
                                  const struct prompt_options *o) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
