#include "trainer/cost.h"

#include "trainer/image_encoder.h"
#include "trainer/mask_decoder.h"
#include "trainer/objective.h"

static enum status encoder_cost(const struct config *c, const struct ops *ops,
                                const struct params *params, bool recompute, struct cost_pass *pass,
                                int64_t *bytes)
{
    struct program *p = NULL;
    struct image_encoder at;
    struct model m = { 0 };
    enum status s = program_create(&p, F32);

    if (s == OK) s = model_create(&m, c, params, p, ops, true);
    if (s == OK) {
        image_encoder_build(&m, 1, false, &at);
        s = program_plan(p, ops, PROGRAM_TRAIN, recompute);
    }
    if (s == OK) {
        pass->forward = program_cost_total(p, false);
        pass->backward = program_cost_total(p, true);
        *bytes = program_bytes(p);
    }
    model_destroy(&m);
    program_destroy(p);
    return s;
}

/* Masks share nothing but what the first round shares on purpose: costs of a chunk are divided by its masks. */
static enum status decoder_cost(const struct config *c, const struct ops *ops,
                                const struct params *params, bool first, struct cost_pass *pass,
                                int64_t *bytes)
{
    const int64_t chunk = c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;
    const double n = (double)chunk;
    const struct mask_decoder_shape shape = { .n_masks = chunk,
                                              .n_points = objective_points(c),
                                              .mask_prompt = !first,
                                              .mask_prompt_grad = c->train_through_rounds,
                                              .first_mask = first ? 1 : 0,
                                              .n_out = first ? 3 : 1 };
    struct program_cost *cost[2] = { &pass->forward, &pass->backward };
    struct program *p = NULL;
    struct mask_decoder at;
    struct model m = { 0 };
    enum status s = program_create(&p, F32);

    if (s == OK) s = model_create(&m, c, params, p, ops, true);
    if (s == OK) {
        mask_decoder_build(&m, &shape, false, &at);
        s = program_plan(p, ops, PROGRAM_TRAIN, false);
    }
    for (int i = 0; s == OK && i < 2; i++) {
        *cost[i] = program_cost_total(p, i);
        cost[i]->flops /= n;
        cost[i]->flops_reference /= n;
        cost[i]->bytes /= n;
    }
    if (s == OK && program_bytes(p) > *bytes) *bytes = program_bytes(p);
    model_destroy(&m);
    program_destroy(p);
    return s;
}

static void add_up(const struct config *c, struct cost *k)
{
    const double masks = (double)c->train_masks, later = (double)(c->train_rounds - 1);
    const struct cost_pass *first = &k->decoder_first, *next = &k->decoder_next;

    k->image_flops = k->encoder.forward.flops + k->encoder.backward.flops +
                     masks * (first->forward.flops + first->backward.flops +
                              later * (next->forward.flops + next->backward.flops));
    k->mask_flops_reference =
        first->forward.flops_reference + first->backward.flops_reference +
        later * (next->forward.flops_reference + next->backward.flops_reference);
    k->image_flops_reference = k->encoder.forward.flops_reference +
                               k->encoder.backward.flops_reference +
                               masks * k->mask_flops_reference;
    k->step_flops = k->image_flops * (double)c->train_batch;
    k->step_flops_reference = k->image_flops_reference * (double)c->train_batch;
    if (c->train_through_rounds) k->decoder_bytes *= c->train_rounds;
}

enum status cost_of(const struct config *c, const struct ops *ops, struct cost *cost)
{
    struct params params;
    struct cost k = { 0 };
    struct cost_pass again;
    enum status s;

    TRY(params_create(&params, c));
    k.n_params = params.n_trained;
    k.n_tensors = params.n;
    k.weights_bytes = params.n_floats * (int64_t)sizeof(float);
    k.checkpoint_bytes = 3 * k.weights_bytes;
    s = encoder_cost(c, ops, &params, false, &k.encoder, &k.encoder_bytes);
    if (s == OK) s = encoder_cost(c, ops, &params, true, &again, &k.encoder_bytes_recomputed);
    if (s == OK) s = decoder_cost(c, ops, &params, true, &k.decoder_first, &k.decoder_bytes);
    if (s == OK) s = decoder_cost(c, ops, &params, false, &k.decoder_next, &k.decoder_bytes);
    params_destroy(&params);
    if (s != OK) return s;
    add_up(c, &k);
    *cost = k;
    return OK;
}
