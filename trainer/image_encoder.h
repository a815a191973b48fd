/* The ViT image encoder with windowed and global attention (SAM paper §3; segment_anything's ImageEncoderViT; ViTDet).
 * Images are normalized and padded; activations are (N,H,W,C). */
#ifndef TRAINER_IMAGE_ENCODER_H
#define TRAINER_IMAGE_ENCODER_H

#include "trainer/model.h"

/* What image_encoder_build makes of an image; values of the program. */
struct image_encoder {
    int image;      /* input (N,S,S,3) f32, normalized */
    int drop_scale; /* input (2·depth) f32, when training with drop path: 1/(1−rate) of each branch, attention then MLP */
    int embedding;  /* output (N,H,W,prompt_dim) */
    int block
        [256]; /* output of each block (N,H,W,C), for tests; marked as outputs only when asked */
};

/* Records the encoder for n images. keep_blocks: block outputs become outputs of the program.
 * Branch 2·i is block i's attention, 2·i+1 its MLP; segment i is block i. */
void image_encoder_build(struct model *m, int64_t n, bool keep_blocks, struct image_encoder *e);

#endif
