/* A thread of an evaluation: from a mask's logits to pixels of the original image, as the published code goes, and to the
 * pixel to be clicked next. */
#ifndef TRAINER_EVAL_WORKER_H
#define TRAINER_EVAL_WORKER_H

#include "kernels/ops.h"
#include "trainer/eval_image.h"

/* Zero is a valid empty one. */
struct eval_worker {
    const struct ops *ops; /* of host memory */
    int64_t S, L;          /* sides of the frame and of the logits */
    struct distance distance;
    struct stream stream;
    float *frame, *full; /* (S,S), (h,w); owned, as is all below */
    uint8_t *guess;      /* (h,w) */
    int64_t frame_room, full_room, guess_room;
};

void eval_worker_destroy(struct eval_worker *w);

/* Room for masks of that image; the only function that allocates. */
enum status eval_worker_reserve(struct eval_worker *w, const struct ops *ops, int64_t S, int64_t L,
                                const struct eval_image *e) MUST_CHECK;

/* w->guess: where logits (L,L) are above 0 at the original size: up to the frame, cropped, up or down. */
enum status eval_worker_guess(struct eval_worker *w, const struct eval_image *e,
                              const float *logits) MUST_CHECK;

#endif
