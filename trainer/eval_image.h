/* One image of an evaluation with its masks: pixels as the model takes them, truths at the original size, and what is
 * found out about each mask. Its memory grows with the largest image seen. */
#ifndef TRAINER_EVAL_IMAGE_H
#define TRAINER_EVAL_IMAGE_H

#include "data_pipeline/distance.h"
#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"
#include "data_pipeline/shard.h"
#include "trainer/config.h"
#include "trainer/eval_score.h"

/* One mask. */
struct eval_target {
    uint8_t *truth, *guess; /* (h,w) of 0 or 1; in the image's memory */
    struct rle_extent extent;
    struct eval_row row; /* scores are NaN until known */
    struct distance_click click[EVAL_CLICKS];
};

/* Zero is a valid empty one. */
struct eval_image {
    int32_t h, w, new_h, new_w; /* as it came; in the frame */
    uint8_t *frame;             /* (S,S,3), the image at the top left; owned, as is all below */
    struct eval_target *target;
    int64_t n_targets;
    struct picture decoded, fitted;
    struct shard_buffer record;
    uint8_t *pixels; /* truth and guess of every target */
    int32_t *runs;   /* of one mask */
    int32_t *chosen; /* masks that count, then those of them that are taken */
    int64_t frame_room, target_room, pixels_room, runs_room, chosen_room;
};

void eval_image_destroy(struct eval_image *e);

/* Image `index` of the set and up to max_masks (0: all) of its masks that pass the config's filters,
 * drawn by train.seed and index. Guesses, clicks and scores are still to be found. */
enum status eval_image_load(struct eval_image *e, const struct config *c,
                            const struct shard_set *set, int64_t index,
                            int64_t max_masks) MUST_CHECK;

/* A PNG: photograph, guesses with all clicks, truths; of the first masks, so that they can be seen. */
enum status eval_image_draw(const struct eval_image *e, const char *path) MUST_CHECK;

/* Whether mask i of a record passes the config's filters. */
bool eval_image_takes(const struct config *c, const struct shard_record *r, int64_t i);

#endif
