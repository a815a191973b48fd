/* What gradients of slots are in tests of their sums, and what must come out of these: a serial sum over the tree, written here
 * once more without plan.c. */
#ifndef TESTS_CLUSTER_TREE_SUM_H
#define TESTS_CLUSTER_TREE_SUM_H

#include "kernels/base/rng.h"

static inline float value(int64_t step, int64_t slot, int64_t i, int integers)
{
    const struct rng_key k =
        rng_stream(11, RNG_TEST, (uint64_t)(step * 1000 + slot), (uint64_t)integers);

    if (integers) return (float)((int)rng_below(k, (uint64_t)i, 201) - 100);
    /* magnitudes from 2^-20 to 2^20, so that every other order of additions shows */
    const int exponent = (int)rng_below(rng_sub(k, 1), (uint64_t)i, 41) - 20;
    float v = rng_uniform(k, (uint64_t)i) - 0.5f;

    for (int e = 0; e < exponent; e++) v *= 2;
    for (int e = 0; e > exponent; e--) v /= 2;
    return v;
}

/* The block [begin, begin + size), size a power of two: left half + right half. */
static inline float block_sum(int64_t step, int64_t begin, int64_t size, int64_t i, int integers)
{
    if (size == 1) return value(step, begin, i, integers);
    return block_sum(step, begin, size / 2, i, integers) +
           block_sum(step, begin + size / 2, size / 2, i, integers);
}

/* Blocks by the binary digits of n_slots, the largest first, added from left to right. */
static inline float tree_sum(int64_t step, int64_t n_slots, int64_t i, int integers)
{
    float sum = 0;
    int64_t at = 0;

    for (int bit = 30; bit >= 0; bit--) {
        const int64_t size = (int64_t)1 << bit;

        if (!(n_slots & size)) continue;
        sum = at ? sum + block_sum(step, at, size, i, integers)
                 : block_sum(step, at, size, i, integers);
        at += size;
    }
    return sum;
}

#endif
