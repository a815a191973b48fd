/* A chunk of an image's masks before the decoder: prompts written on the host's side, answers read there. Where the device's
 * memory is the host's, both are the model's own tensors. */
#ifndef TRAINER_EVAL_CHUNK_H
#define TRAINER_EVAL_CHUNK_H

#include "trainer/eval_image.h"
#include "trainer/sam.h"

enum { EVAL_CHUNK_ROOMS = 5 };

/* Zero is a valid empty one. */
struct eval_chunk {
    struct sam *sam; /* not owned */
    const struct eval_image
        *image; /* not owned; entry m is its target begin + m, the last ones may be padding */
    int64_t begin, n;
    float *mask;                           /* (M,L,L) logits to be fed back, L = 4H */
    float *coords;                         /* (M,P,2) */
    int32_t *labels, *n_points, *n_tokens; /* (M,P) (M) (M) */
    void *logits_room, *iou_room;          /* (M,K,L,L) (M,K) f32; owned, as are: */
    void *room[EVAL_CHUNK_ROOMS];          /* the copies of the prompts */
};

enum status eval_chunk_create(struct eval_chunk *c, struct sam *s) MUST_CHECK;
void eval_chunk_destroy(struct eval_chunk *c);

/* The chunk from now on: targets begin … begin + n − 1 of an image, n ≤ M. */
void eval_chunk_take(struct eval_chunk *c, const struct eval_image *image, int64_t begin,
                     int64_t n);

/* Prompts: the first click and its padding; the corners of the true box; click number `clicks` (2 …) behind those before. */
void eval_chunk_prompt_click(struct eval_chunk *c);
void eval_chunk_prompt_box(struct eval_chunk *c);
void eval_chunk_prompt_next(struct eval_chunk *c, int clicks);

/* A round for these prompts: logits (M,K,L,L) and predicted IoU (M,K), where the host can read them until the next. */
enum status eval_chunk_decode(struct eval_chunk *c, enum sam_round round, struct tensor *logits,
                              struct tensor *iou) MUST_CHECK;

#endif
