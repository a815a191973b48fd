/* Answers that need no model: what a score is worth. */
#ifndef TRAINER_EVAL_TRIVIAL_H
#define TRAINER_EVAL_TRIVIAL_H

#include "data_pipeline/rle.h"

struct eval_trivial {
    const uint8_t *truth; /* (h,w) */
    int32_t h, w;
    struct rle_extent extent;
    int32_t click_x, click_y; /* the first click */
    double median_area;       /* share of the image */
};

/* Writes the trivial members of eval_score.h: a disc of the median area around the click, the best of discs of half, twice and
 * eight times that, the filled box, the ellipse in it, the whole image. */
void eval_trivial(const struct eval_trivial *t, float *score);

#endif
