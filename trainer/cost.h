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

struct cost {
    int64_t n_params, n_tensors; /* trained parameters; tensors of the state dict */
    struct cost_pass encoder;    /* one image */
    struct cost_pass decoder_first,
        decoder_next; /* one mask, one round; without and with a mask prompt */
    double image_flops,
        image_flops_reference; /* training one image: all masks, all rounds, forward and backward */
    double mask_flops_reference;             /* of these, each mask's */
    double step_flops, step_flops_reference; /* the whole batch */
    int64_t encoder_bytes,
        encoder_bytes_recomputed; /* activations and their gradients, one image, f32 */
    int64_t
        decoder_bytes; /* one chunk of masks, one round (all rounds when back-propagating through them) */
    int64_t weights_bytes;    /* of one buffer: weights, a gradient, a moment */
    int64_t checkpoint_bytes; /* weights and both moments */
};

/* ops: whose shape checks and scratch are asked; no op runs. */
enum status cost_of(const struct config *c, const struct ops *ops, struct cost *cost) MUST_CHECK;

#endif
