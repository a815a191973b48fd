/* One step's launches, counted and not run: on a device that can count, its memory addresses only. */
#ifndef TRAINER_BENCH_COUNT_H
#define TRAINER_BENCH_COUNT_H

#include "kernels/ops.h"
#include "trainer/config.h"

enum { BENCH_KERNELS = 256 };

struct bench_count {
    struct launch_count kernel[BENCH_KERNELS]; /* by name */
    int64_t n_kernels, n_launches;
    int64_t memory; /* bytes of the device that training takes */
};

/* Local: one rank. E_NO_DEVICE where ops cannot count. */
enum status bench_count_run(struct bench_count *b, const struct config *c,
                            const struct ops *ops) MUST_CHECK;

#endif
