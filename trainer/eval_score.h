/* What an evaluation says: the list of scores, their values for a mask, and their means over the masks of all ranks. */
#ifndef TRAINER_EVAL_SCORE_H
#define TRAINER_EVAL_SCORE_H

#include "cluster/comm.h"

/* X(member, text): the scores of a mask, in the order of tables. */
#define EVAL_SCORES(X)                                                                             \
    X(click_1, "1 click")                                                                          \
    X(click_2, "2 clicks")                                                                         \
    X(click_3, "3 clicks")                                                                         \
    X(click_5, "5 clicks")                                                                         \
    X(click_9, "9 clicks")                                                                         \
    X(oracle, "1 click, best of 3 masks")                                                          \
    X(box, "box")                                                                                  \
    X(box_oracle, "box, best of 3 masks")                                                          \
    X(disc, "trivial: disc at the click")                                                          \
    X(disc_oracle, "trivial: best of 3 discs")                                                     \
    X(box_filled, "trivial: box filled")                                                           \
    X(ellipse, "trivial: ellipse in the box")                                                      \
    X(whole, "trivial: whole image")

#define EVAL_ENUM(member, text) EVAL_##member,
enum eval_score { EVAL_SCORES(EVAL_ENUM) EVAL_N_SCORES };
#undef EVAL_ENUM

enum { EVAL_CLICKS = 9 };

const char *eval_score_key(enum eval_score s);  /* "click_1" */
const char *eval_score_text(enum eval_score s); /* "1 click" */

struct eval_row {
    int64_t image_id, area;
    int32_t mask, n_clicks;     /* mask: index in the record */
    float score[EVAL_N_SCORES]; /* NaN where not asked for */
};

struct eval_scores {
    int64_t n_images, n_masks;
    double mean[EVAL_N_SCORES]; /* NaN where not asked for */
};

/* The masks and means of all ranks into *s, from this rank's n rows. csv: a file with a line a mask, written by rank 0;
 * NULL: none. Collective. The same bits on any number of ranks when each has the rows behind those of the rank before. */
enum status eval_score_gather(struct comm *c, const struct eval_row *row, int64_t n,
                              const char *csv, struct eval_scores *s) MUST_CHECK;

#endif
