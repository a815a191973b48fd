/* Numbers drawn one after another from a counter-based stream, for things that are drawn as a whole
 * from one key: the same key gives the same thing anywhere. */
#ifndef DATA_PIPELINE_DICE_H
#define DATA_PIPELINE_DICE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/rng.h"

struct dice {
    struct rng_key key;
    uint64_t next;
};

static inline double dice_uniform(struct dice *d, double lo, double hi)
{
    return lo + (hi - lo) * (double)rng_uniform(d->key, d->next++);
}

/* Uniform in 0 … n−1. */
static inline int dice_below(struct dice *d, int n)
{
    return (int)rng_below(d->key, d->next++, (uint64_t)n);
}

static inline bool dice_chance(struct dice *d, double p)
{
    return dice_uniform(d, 0, 1) < p;
}

#endif
