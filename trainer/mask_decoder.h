/* The prompt encoder and mask decoder for a chunk of masks of one image, one interaction round
 * (SAM paper appendix A; segment_anything's PromptEncoder, TwoWayTransformer and MaskDecoder).
 * Image tokens are (M,T,C) or, as long as no mask prompt made them different, (1,T,C) shared by all masks:
 * exact, and a good part of the first round's work. */
#ifndef TRAINER_MASK_DECODER_H
#define TRAINER_MASK_DECODER_H

#include "trainer/model.h"

enum { MASK_TOKENS = 4 };

struct mask_decoder_shape {
    int64_t n_masks;       /* M */
    int64_t n_points;      /* P: prompt slots a mask */
    bool mask_prompt;      /* a mask is fed back; else no_mask_embed */
    bool mask_prompt_grad; /* and its gradient is wanted (back-propagation through rounds) */
    int first_mask, n_out; /* which of the four mask tokens are predicted: K = n_out */
};

/* Values of the program. */
struct mask_decoder {
    int embedding;                /* input (1,H,W,C); its gradient, F32, is added to */
    int image_pe;                 /* input (H,W,C) */
    int coords, labels, n_points; /* inputs (M,P,2) f32, (M,P) i32, (M) i32 */
    int n_tokens;                 /* input (M) i32: 5 + n_points */
    int mask;                     /* input (M,4H,4W) f32, or PROGRAM_NONE */
    int key;                      /* input (2) i64 for dropout, or PROGRAM_NONE */
    int sparse;                   /* the tokens (M,5+P,C): iou, masks, prompts */
    int dense;                    /* (M,H,W,C) or (1,C): what is added to the embedding */
    int logits;                   /* output (M,K,4H,4W) F32 */
    int iou;                      /* output (M,K) F32 */
};

/* Tokens of a mask with that many prompt slots: IoU, masks, prompts. With projections absorbed (run.absorb), at most
 * DECODER_TOKENS_MAX; on refuses more in config_check, auto then leaves them where they are. */
int64_t mask_decoder_tokens(int64_t n_points);

/* keep: tokens and dense embedding become outputs too, for tests. */
void mask_decoder_build(struct model *m, const struct mask_decoder_shape *shape, bool keep,
                        struct mask_decoder *d);

#endif
