/* Prompts drawn from masks: the interactive simulation (SAM paper, appendix A, "training
 * algorithm"). Integers and float in a fixed order only, compiled without contraction: bit-equal on
 * every backend.
 *
 * A point is the centre of a pixel (i,j) of gt, in the S×S frame: x = (j+½)·S/R − ½, y alike.
 * Mask m draws from key' = rng_sub({key[0], key[1]}, m_first + m): the same for any chunking.
 * Choosing one of n pixels takes the rng_below(key', index, n)-th in row-major order.
 * Slots: 0 first point or box corner, 1 padding or second corner, 2… later clicks.
 *
 * prompt_first: a box when rng_uniform(key', 0) < box_share, else a point. n_points becomes 2.
 *   point: a uniform foreground pixel of gt (index 1); slots (x,y),(0,0), labels 1,−1.
 *   box: box[m] = (x0,y0,x1,y1), true, in the frame, exclusive. Coordinate c = 0…3 gets the noise
 *     BOX_NOISE_NORMAL   rng_near_normal(key', 16+c) · box_noise · side, clamped to ±box_noise_max
 *     BOX_NOISE_UNIFORM  (2·rng_uniform(key', 16+c) − 1) · min(box_noise · side, box_noise_max)
 *     (side: x1−x0 for x, y1−y0 for y), is clamped to [0,width] or [0,height], size = the valid
 *     part of the frame; if a side is then 1 or less, the true box is taken.
 *     slots (x0−½,y0−½),(x1−½,y1−½), labels 2,3.
 *   A mask of weight 0, or a point wanted from an empty gt: both slots (0,0), labels −1,−1.
 *
 * prompt_next: feeds back the candidate of highest predicted IoU, the first of equals:
 *   mask_prompt[m] = logits[m,best]. With add_point it also draws a click (index 64 + round) from
 *   the error region (z>0) ≠ gt, z = logits[m,best] upsampled to R×R (resize.h); an empty region:
 *   from the background; no background: from the foreground. label = gt there.
 *   Written to slot n_points[m], which grows by one; n_points[m] < P is a precondition.
 *   A mask of weight 0 gets a (0,0) label −1 click.
 *
 * prompt_next_bwd: where the fed-back mask is differentiated, dlogits[m,best] += dmask[m].
 *
 *   coords (M,P,2) f32   labels (M,P) i32   n_points (M) i32   gt (M,R,R) u8   box (M,4) f32
 *   size (2) f32: width, height   weight (M) f32   logits (M,K,h,h)   iou_pred (M,K)
 *   mask_prompt dmask (M,h,h)   dlogits (M,K,h,h)   key (2) i64 as in residual.h.   M = 0 is allowed. */
#ifndef KERNELS_PROMPT_H
#define KERNELS_PROMPT_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"
#include "kernels/candidates.h"

#ifdef __cplusplus
extern "C" {
#endif

enum box_noise_law { BOX_NOISE_NORMAL, BOX_NOISE_UNIFORM };

struct prompt_options {
    float box_share;     /* 0.5 */
    float box_noise;     /* 0.1 of the side */
    float box_noise_max; /* pixels of the frame: 20 at 1024 */
    enum box_noise_law law;
    int frame;                /* S */
    struct tensor candidates; /* which masks may be fed back: candidates.h; none: all */
};

typedef enum status prompt_first_fn(struct tensor coords, struct tensor labels,
                                    struct tensor n_points, struct tensor gt, struct tensor box,
                                    struct tensor size, struct tensor weight, struct tensor key,
                                    int64_t m_first, const struct prompt_options *o,
                                    struct stream *s) MUST_CHECK;
typedef enum status prompt_next_fn(struct tensor mask_prompt, struct tensor coords,
                                   struct tensor labels, struct tensor n_points,
                                   struct tensor logits, struct tensor iou_pred, struct tensor gt,
                                   struct tensor weight, struct tensor key, int64_t m_first,
                                   int round, bool add_point, const struct prompt_options *o,
                                   struct stream *s) MUST_CHECK;
typedef enum status prompt_next_bwd_fn(struct tensor dlogits, struct tensor dmask,
                                       struct tensor iou_pred, const struct prompt_options *o,
                                       struct stream *s) MUST_CHECK;
prompt_first_fn prompt_first_ref, prompt_first_cpu, prompt_first_cuda;
prompt_next_fn prompt_next_ref, prompt_next_cpu, prompt_next_cuda;
prompt_next_bwd_fn prompt_next_bwd_ref, prompt_next_bwd_cpu, prompt_next_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
