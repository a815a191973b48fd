/* How good a model is: mean IoU at the original image size after 1, 2, 3, 5 and 9 clicks, the best of its first three masks
 * (oracle), and from the true box, as in the SAM paper's zero-shot protocol (§7.1, D.1). The first click is the mask's deepest
 * pixel by exact distance, each next one the deepest pixel of what is still wrong. Beside them, what answers that
 * need no model score on the same masks.
 *
 * Images are dealt to ranks; every mask's scores are gathered in order, so results are the same on any number of ranks. */
#ifndef TRAINER_EVAL_H
#define TRAINER_EVAL_H

#include "data_pipeline/shard.h"
#include "trainer/eval_score.h"
#include "trainer/sam.h"

struct eval_options {
    const struct config *config; /* model and mask filters; not owned */
    const struct ops *ops;
    const struct shard_set *set; /* not owned */
    int64_t max_images,
        max_masks;      /* the first that many images, that many masks of each by counter; 0: all */
    int max_clicks;     /* 1…EVAL_CLICKS */
    double median_area; /* share of the image: the trivial disc's size; 0: of the masks evaluated */
    const char *overlays; /* folder for pictures of the first n_overlays images; NULL: none */
    int64_t n_overlays;
    const char *csv;                                        /* a line a mask; NULL: none */
    void (*progress)(void *arg, int64_t done, int64_t all); /* rank 0's images; may be NULL */
    void *arg;
};

struct eval;

/* Takes all memory but what grows with the images' sizes. */
enum status eval_create(struct eval **e, const struct eval_options *o) MUST_CHECK;
void eval_destroy(struct eval *e);

/* The weights to score, in the layout of params.h: the host's, or those of a model on the same device. */
enum status eval_weights(struct eval *e, const float *weights) MUST_CHECK;
enum status eval_weights_of(struct eval *e, const struct sam *from) MUST_CHECK;

/* Collective. The same result on every rank. */
enum status eval_run(struct eval *e, struct comm *c, struct eval_scores *scores) MUST_CHECK;

/* The parameter list of the model being scored. */
const struct params *eval_params(const struct eval *e);

/* Median share of the image over the masks that pass the config's filters. Local; reads up to 1000 images. */
enum status eval_median_area(const struct shard_set *set, const struct config *c,
                             double *share) MUST_CHECK;

#endif
