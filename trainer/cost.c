#include "trainer/cost.h"

#include "cluster/plan.h"
#include "trainer/image_encoder.h"
#include "trainer/mask_decoder.h"
#include "trainer/objective.h"

/* What all programs of a configuration are recorded with. */
struct recording {
    const struct config *c;
    const struct ops *ops;
    const struct params *params;
    enum dtype compute;
};

static void add_ops(struct cost_ops *sum, const struct program *p, double times)
{
    for (int backward = 0; backward < 2; backward++) {
        struct program_cost cost[NODE_OP_COUNT];

        program_cost(p, backward, cost);
        for (int i = 0; i < NODE_OP_COUNT; i++) {
            struct program_cost *to = sum->op[backward] + i;

            to->flops += times * cost[i].flops;
            to->flops_reference += times * cost[i].flops_reference;
            to->bytes += times * cost[i].bytes;
            to->n_nodes += (int64_t)times * cost[i].n_nodes;
        }
    }
}

static void at_least(int64_t *most, int64_t bytes)
{
    if (*most < bytes) *most = bytes;
}

/* ops: added to; NULL: not wanted. */
static enum status encoder_cost(const struct recording *r, bool recompute, struct cost *k,
                                int64_t *bytes, struct cost_ops *ops)
{
    struct program *p = NULL;
    struct image_encoder at;
    struct model m = { 0 };
    enum status s = program_create(&p, r->compute);

    if (s == OK) s = model_create(&m, r->c, r->params, p, r->ops, true);
    if (s == OK) {
        image_encoder_build(&m, 1, false, &at);
        s = program_plan(p, r->ops, PROGRAM_TRAIN, recompute);
    }
    if (s == OK) *bytes = program_bytes(p);
    if (s == OK && ops) {
        k->encoder.forward = program_cost_total(p, false);
        k->encoder.backward = program_cost_total(p, true);
        k->encoder_scratch = program_scratch(p);
        add_ops(ops, p, 1);
    }
    model_destroy(&m);
    program_destroy(p);
    return s;
}

static int64_t chunk_of(const struct config *c)
{
    return c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;
}

/* One round of a chunk. times: how often an image's training runs it. */
static enum status decoder_cost(const struct recording *r, bool first, double times, struct cost *k,
                                struct cost_pass *pass)
{
    const double n = (double)chunk_of(r->c);
    const struct mask_decoder_shape shape = { .n_masks = chunk_of(r->c),
                                              .n_points = config_points(r->c),
                                              .mask_prompt = !first,
                                              .mask_prompt_grad = r->c->train_through_rounds,
                                              .first_mask = first ? 1 : 0,
                                              .n_out = first                ? 3
                                                       : r->c->run_one_mask ? 1
                                                                            : MASK_TOKENS };
    struct program_cost *cost[2] = { &pass->forward, &pass->backward };
    struct program *p = NULL;
    struct mask_decoder at;
    struct model m = { 0 };
    enum status s = program_create(&p, r->compute);

    if (s == OK) s = model_create(&m, r->c, r->params, p, r->ops, true);
    if (s == OK) {
        mask_decoder_build(&m, &shape, false, &at);
        s = program_plan(p, r->ops, PROGRAM_TRAIN, false);
    }
    for (int i = 0; s == OK && i < 2; i++) {
        *cost[i] = program_cost_total(p, i);
        cost[i]->flops /= n;
        cost[i]->bytes /= n;
    }
    if (s == OK) {
        add_ops(&k->decoder_ops, p, times);
        at_least(&k->decoder_bytes, program_bytes(p));
        at_least(&k->decoder_scratch, program_scratch(p));
    }
    model_destroy(&m);
    program_destroy(p);
    return s;
}

/* Forward FLOPs of one mask and round in the published model, which computes four masks and shares nothing. */
static enum status reference_round(const struct recording *r, int64_t n_points, bool mask_prompt,
                                   double *flops)
{
    enum { OFF = 1 };
    const struct mask_decoder_shape shape = {
        .n_masks = 1, .n_points = n_points, .mask_prompt = true, .n_out = MASK_TOKENS
    };
    struct program_cost cost[NODE_OP_COUNT];
    struct config c = *r->c;
    struct program *p = NULL;
    struct mask_decoder at;
    struct model m = { 0 };
    enum status s = program_create(&p, r->compute);

    c.run_absorb = c.run_fuse_upscaling = OFF;
    if (s == OK) s = model_create(&m, &c, r->params, p, r->ops, true);
    if (s == OK) {
        mask_decoder_build(&m, &shape, false, &at);
        s = program_plan(p, r->ops, PROGRAM_FORWARD, false);
    }
    *flops = 0;
    if (s == OK) program_cost(p, false, cost);
    for (int i = 0; s == OK && i < NODE_OP_COUNT; i++)
        if (mask_prompt || i != NODE_PATCH_CONV) /* these bring the fed-back mask to size */
            *flops += cost[i].flops_reference;
    model_destroy(&m);
    program_destroy(p);
    return s;
}

/* Silent rounds are taken to be the last ones. */
static enum status reference_rounds(const struct recording *r, struct cost *k)
{
    const int64_t most = config_points(r->c), rounds = r->c->train_rounds;
    double first, sum = 0, one = 0;

    TRY(reference_round(r, 2, false, &first));
    for (int64_t i = 1; i < rounds; i++) {
        if (2 + i <= most || i == 1)
            TRY(reference_round(r, 2 + i < most ? 2 + i : most, true, &one));
        sum += one;
    }
    k->decoder_first.forward.flops_reference = first;
    k->decoder_first.backward.flops_reference = 2 * first;
    if (rounds > 1) sum /= (double)(rounds - 1);
    k->decoder_next.forward.flops_reference = sum;
    k->decoder_next.backward.flops_reference = 2 * sum;
    return OK;
}

static double both(const struct cost_pass *pass, bool reference)
{
    return reference ? pass->forward.flops_reference + pass->backward.flops_reference
                     : pass->forward.flops + pass->backward.flops;
}

static void add_up(const struct config *c, struct cost *k)
{
    const double masks = (double)c->train_masks, later = (double)(c->train_rounds - 1);
    const double computed = (double)(k->n_chunks * chunk_of(c)); /* the last chunk is a whole one */

    k->image_flops = both(&k->encoder, false) + computed * (both(&k->decoder_first, false) +
                                                            later * both(&k->decoder_next, false));
    k->mask_flops_reference = both(&k->decoder_first, true) + later * both(&k->decoder_next, true);
    k->image_flops_reference = both(&k->encoder, true) + masks * k->mask_flops_reference;
    k->step_flops = k->image_flops * (double)c->train_batch;
    k->step_flops_reference = k->image_flops_reference * (double)c->train_batch;
    if (c->train_through_rounds) k->decoder_bytes *= c->train_rounds;
}

static enum status programs_cost(const struct recording *r, struct cost *k)
{
    const bool again = r->c->train_recompute;
    const double chunks = (double)k->n_chunks, later = chunks * (double)(r->c->train_rounds - 1);

    TRY(encoder_cost(r, false, k, &k->encoder_bytes, again ? NULL : &k->encoder_ops));
    TRY(encoder_cost(r, true, k, &k->encoder_bytes_recomputed, again ? &k->encoder_ops : NULL));
    TRY(decoder_cost(r, true, chunks, k, &k->decoder_first));
    TRY(decoder_cost(r, false, later, k, &k->decoder_next));
    return reference_rounds(r, k);
}

enum status cost_of(const struct config *c, const struct ops *ops, struct cost *cost)
{
    struct params params;
    struct recording r = { .c = c, .ops = ops, .params = &params };
    struct cost k = { .n_chunks = (c->train_masks + chunk_of(c) - 1) / chunk_of(c) };
    enum status s;

    TRY(sam_precision(c, ops, &r.compute));
    TRY(params_create(&params, c));
    k.compute = r.compute;
    k.n_params = params.n_trained;
    k.n_tensors = params.n;
    k.weights_bytes = params.n_floats * (int64_t)sizeof(float);
    k.n_gradients = plan_levels((struct plan_range){ 0, c->train_batch });
    k.checkpoint_bytes = 3 * k.weights_bytes;
    s = programs_cost(&r, &k);
    params_destroy(&params);
    if (s != OK) return s;
    add_up(c, &k);
    *cost = k;
    return OK;
}
