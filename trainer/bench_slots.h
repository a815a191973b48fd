/* Slots for timing a step without data: noise for an image, ellipses for masks. Deterministic. */
#ifndef TRAINER_BENCH_SLOTS_H
#define TRAINER_BENCH_SLOTS_H

#include "data_pipeline/loader.h"
#include "trainer/config.h"

struct bench_slots {
    struct loader_slot *slot; /* (n), and what they point to: owned */
    int64_t n;
    void *memory[6];
};

/* One slot for each image of the batch, every one with all its masks. */
enum status bench_slots_create(struct bench_slots *b, const struct config *c) MUST_CHECK;
void bench_slots_destroy(struct bench_slots *b);

#endif
