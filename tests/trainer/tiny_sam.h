/* A SAM of a few thousand parameters with everything a large one has: a window that needs padding, a global block, two decoder
 * layers; and slots made up for it. For the tests of the trainer. */
#ifndef TESTS_TRAINER_TINY_SAM_H
#define TESTS_TRAINER_TINY_SAM_H

#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "trainer/bench_slots.h"
#include "trainer/objective.h"

static inline struct config tiny_config(void)
{
    struct config c;

    config_defaults(&c);
    c.model_image_size = 64;
    c.model_patch_size = 16;
    c.model_embed_dim = 16;
    c.model_depth = 3;
    c.model_n_heads = 2;
    c.model_window = 3;
    c.model_global_blocks = (struct config_list){ { 1 }, 1 };
    c.model_prompt_dim = 16;
    c.model_decoder_heads = 2;
    c.model_decoder_mlp = 24;
    c.model_mask_channels = 16; /* a norm over one channel passes nothing on */
    c.model_iou_hidden = 16;
    c.loss_resolution = 1;
    c.train_batch = 2;
    c.train_masks = 4;
    c.train_chunk = 2;
    c.train_rounds = 3;
    c.train_silent_rounds = 1;
    c.train_dropout = 0;
    c.train_drop_path = 0;
    return c;
}

struct tiny_sam {
    struct config config;
    struct sam *sam;
    struct objective *objective;
    struct bench_slots slots;
    float *grads;
    int64_t n;
};

static inline void tiny_create(struct tiny_sam *t, struct config c, const struct ops *ops)
{
    int64_t scratch;
    const int64_t chunk = c.train_chunk, points = config_points(&c);

    memset(t, 0, sizeof *t);
    t->config = c;
    CHECK(config_check(&t->config) == OK);
    if (objective_scratch(&t->config, ops, 1, chunk, points, &scratch) != OK ||
        sam_create(&t->sam, &t->config, ops, chunk, points, scratch, true) != OK ||
        objective_create(&t->objective, t->sam, 1, false) != OK ||
        objective_trace_begin(t->objective) != OK ||
        bench_slots_create(&t->slots, &t->config) != OK)
        exit(1);
    t->n = t->sam->params.n_floats;
    params_initialize(&t->sam->params, 7, t->sam->weights);
    /* relative positions and biases begin at zero, where mistakes in them would not show */
    for (int i = 0; i < t->sam->params.n; i++) {
        const struct param *q = t->sam->params.at + i;

        if (q->init == INIT_ZERO)
            check_fill(t->sam->weights + q->offset, q->count, 9, (uint64_t)i, 0.1f, 0);
    }
    /* a fed-back mask that says little would hide mistakes in what flows back through it */
    {
        const struct param *q =
            t->sam->params.at +
            params_find(&t->sam->params, "prompt_encoder.mask_downscaling.6.weight");

        for (int64_t i = 0; i < q->count; i++) t->sam->weights[q->offset + i] *= 8;
    }
    if (sam_weights_changed(t->sam) != OK) exit(1);
    t->grads = calloc((size_t)t->n, sizeof *t->grads);
    if (!t->grads) exit(1);
}

static inline void tiny_destroy(struct tiny_sam *t)
{
    objective_destroy(t->objective);
    sam_destroy(t->sam);
    bench_slots_destroy(&t->slots);
    free(t->grads);
}

/* The loss whose gradient objective_slot adds. */
static inline double tiny_loss(const struct tiny_sam *t, const struct objective_losses *l)
{
    return t->config.loss_w_focal * l->focal + t->config.loss_w_dice * l->dice +
           t->config.loss_w_iou * l->iou_error;
}

static inline double tiny_slot(struct tiny_sam *t, int64_t slot, int64_t step)
{
    struct loader_slot s = t->slots.slot[slot];
    struct objective_losses l;

    s.step = step;
    CHECK(objective_begin(t->objective) == OK);
    CHECK(objective_slot(t->objective, &s, t->grads, NULL, NULL, NULL) == OK);
    objective_launched(t->objective);
    CHECK(objective_losses(t->objective, &l) == OK);
    return tiny_loss(t, &l);
}

#endif
