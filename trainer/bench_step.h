/* Times training steps on one rank, through the very functions the loop uses: objective, gradient sums, norm, AdamW. */
#ifndef TRAINER_BENCH_STEP_H
#define TRAINER_BENCH_STEP_H

#include <stdbool.h>

#include "trainer/bench_device.h"
#include "trainer/config.h"
#include "trainer/program.h"

#define BENCH_PHASES(X)                                                                            \
    X(DATA, "data")                                                                                \
    X(ENCODER_FORWARD, "encoder forward")                                                          \
    X(PROMPTS, "prompts")                                                                          \
    X(DECODER_FORWARD, "decoder forward")                                                          \
    X(LOSS, "loss")                                                                                \
    X(DECODER_BACKWARD, "decoder backward")                                                        \
    X(ENCODER_BACKWARD, "encoder backward")                                                        \
    X(SUMS, "gradient sums")                                                                       \
    X(OPTIMIZER, "optimizer")
#define BENCH_ENUM(name, text) BENCH_##name,
enum bench_phase { BENCH_PHASES(BENCH_ENUM) BENCH_N_PHASES };
#undef BENCH_ENUM

enum bench_part { BENCH_ENC_FWD, BENCH_ENC_BWD, BENCH_DEC_FWD, BENCH_DEC_BWD, BENCH_N_PARTS };

/* Of one step. */
struct bench_op {
    double calls, seconds, flops, bytes;
};

struct bench_step {
    const struct config *config; /* in */
    int64_t side;                /* in: of the product that a device's limits are measured with */
    const char *data;            /* in: shards, or NULL for made-up slots */
    int64_t n_timed;             /* in */
    double phase[BENCH_N_PHASES], step_seconds, step_min, step_max; /* out: seconds; medians */
    double flops, flops_reference;                                  /* out: of a step */
    const char *device;                                             /* out: the backend's name */
    bool on_host;            /* out: it computes on the CPU whose limits can be measured */
    double profiled_seconds; /* out: of a step while single ops were timed */
    /* out, of devices with memory of their own: */
    struct bench_limits limits;
    int64_t memory; /* bytes of the device that training takes */
    /* behind the timed steps, of devices that say it: bytes in use, those before training took any apart */
    struct device_usage usage;
    int64_t used_before; /* -1: it does not say */
    double idle;         /* share of the step, at most, when ops were timed; else NaN */
    struct bench_op op[BENCH_N_PARTS][NODE_OP_COUNT];
};

/* ops: run as many steps again with every op timed. Local. */
enum status bench_step_run(struct bench_step *b, bool ops) MUST_CHECK;

const char *bench_phase_name(enum bench_phase p);
const char *bench_part_name(enum bench_part p);

#endif
