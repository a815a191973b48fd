/* Which sample a slot of a step gets: a pure function of counters, with no files, no ranks and no
 * state inside, so that it is the same on 1, 3 or 256 ranks, after restarts and resizes.
 *
 * A slot is one image of the global batch. Slots are numbered through the run: global slot
 * g = step · batch + slot, step from 0. Epoch g / n_images, position g mod n_images; the image is a
 * keyed permutation (Feistel network with cycle walking) of the position: each image exactly once
 * an epoch, in another order every epoch. */
#ifndef DATA_PIPELINE_ORDER_H
#define DATA_PIPELINE_ORDER_H

#include <stdint.h>

struct order_place {
    int64_t epoch, image;
};

/* n_images ≥ 1, g ≥ 0. */
struct order_place order_at(uint64_t seed, int64_t n_images, int64_t g);

/* Which masks of an image with n_masks a slot uses: min(n_masks, n_wanted) different ones, chosen by
 * counter from (seed, epoch, image), ascending, into chosen. Returns how many. */
int64_t order_masks(uint64_t seed, struct order_place place, int64_t n_masks, int64_t n_wanted,
                    int32_t *chosen);

#endif
