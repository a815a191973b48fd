/* Times the loader by itself, and reading and decoding the same JPEGs, its limit. */
#ifndef TRAINER_BENCH_LOADER_H
#define TRAINER_BENCH_LOADER_H

#include <stdint.h>

#include "kernels/base/status.h"

struct bench_loader {
    int64_t frame, masks, n_images;                         /* in */
    int threads;                                            /* in */
    double images_per_second;                               /* out: by the wall */
    double images_per_core_second, decodes_per_core_second; /* out: by processor time */
};

/* Local. Loader and decoder alternate in blocks, so that a busy machine slows both. */
enum status bench_loader_run(struct bench_loader *b, const char *shards) MUST_CHECK;

#endif
