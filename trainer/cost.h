/* What a configuration costs, counted from its programs before any memory is taken: parameters, FLOPs, bytes. */
#ifndef TRAINER_COST_H
#define TRAINER_COST_H

#include "kernels/ops.h"
#include "trainer/config.h"
#include "trainer/program.h"

/* Bytes moved and FLOPs done, here and in the reference model; see program_cost. */
struct cost_pass {
    struct program_cost forward, backward;
};

/* By op; [0] forward, [1] backward. */
struct cost_ops {
    struct program_cost op[2][NODE_OP_COUNT];
};

struct cost {
    enum dtype compute;                       /* what run.precision means on the device */
    int64_t n_params, n_tensors;              /* trained parameters; tensors of the state dict */
    int64_t n_chunks;                         /* of an image's masks */
    struct cost_ops encoder_ops, decoder_ops; /* of one image: all chunks, all rounds */
    struct cost_pass encoder;                 /* one image */
    /* One mask, one round, without and with a mask prompt. Reference: all four masks and nothing shared, as the published
     * model computes them, with as many tokens as there are prompts in the round; later rounds: their mean. */
    struct cost_pass decoder_first, decoder_next;
    double image_flops,
        image_flops_reference; /* training one image: all masks, all rounds, forward and backward */
    double mask_flops_reference;             /* of these, each mask's */
    double step_flops, step_flops_reference; /* the whole batch */
    int64_t encoder_bytes,
        encoder_bytes_recomputed; /* activations and their gradients, one image */
    int64_t
        decoder_bytes; /* one chunk of masks, one round (all rounds when back-propagating through them) */
    int64_t encoder_scratch, decoder_scratch; /* an op's at most */
    int64_t weights_bytes;                    /* of one f32 buffer: weights, a gradient, a moment */
    int n_gradients; /* that one rank with all images holds at once, to sum them (cluster/plan.h) */
    int64_t checkpoint_bytes; /* weights and both moments */
};

/* ops: the device's, whose precision and fused ops the account follows; no op runs, and it need not be open. */
enum status cost_of(const struct config *c, const struct ops *ops, struct cost *cost) MUST_CHECK;

#endif
