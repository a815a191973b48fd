#include "data_pipeline/order.h"

#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/rng.h"

enum { ROUNDS = 8, HALF_MIN = 3, HALF_MAX = 24 };

/* A permutation of [0, 4^half): each round mixes one half into the other. */
static uint64_t feistel(struct rng_key key, int half, uint64_t x)
{
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t left = x >> half, right = x & mask;

    for (uint64_t round = 0; round < ROUNDS; round++) {
        const struct rng_block b = rng_philox(key, round << 32 | right);
        const uint64_t mixed = left ^ (b.v[0] & mask);

        left = right;
        right = mixed;
    }
    return left << half | right;
}

/* Cycle walking: the permutation of the larger range, applied until it lands within n_images, is
 * one of [0, n_images). It ends because the walk's cycle contains its start, which lies within. */
struct order_place order_at(uint64_t seed, int64_t n_images, int64_t g)
{
    struct order_place place;
    struct rng_key key;
    uint64_t x;
    int half = HALF_MIN;

    ASSERT(n_images >= 1 && g >= 0);
    while ((int64_t)1 << (2 * half) < n_images) half++;
    ASSERT(half <= HALF_MAX);
    place.epoch = g / n_images;
    key = rng_stream(seed, RNG_ORDER, (uint64_t)place.epoch, 0);
    x = (uint64_t)(g % n_images);
    do x = feistel(key, half, x);
    while (x >= (uint64_t)n_images);
    place.image = (int64_t)x;
    return place;
}

/* Floyd's sampling: no memory beyond the result, every subset equally likely. */
int64_t order_masks(uint64_t seed, struct order_place place, int64_t n_masks, int64_t n_wanted,
                    int32_t *chosen)
{
    const struct rng_key key =
        rng_stream(seed, RNG_MASKS, (uint64_t)place.epoch, (uint64_t)place.image);
    const int64_t n = n_masks < n_wanted ? n_masks : n_wanted;

    ASSERT(n_masks >= 0 && n_masks <= INT32_MAX && n_wanted >= 0);
    for (int64_t k = 0; k < n; k++) {
        const int64_t last = n_masks - n + k;
        int32_t pick = (int32_t)rng_below(key, (uint64_t)k, (uint64_t)last + 1);
        int64_t at = 0;

        while (at < k && chosen[at] < pick) at++;
        if (at < k && chosen[at] == pick) {
            pick = (int32_t)last; /* greater than all chosen so far */
            at = k;
        }
        memmove(chosen + at + 1, chosen + at, (size_t)(k - at) * sizeof *chosen);
        chosen[at] = pick;
    }
    return n;
}
