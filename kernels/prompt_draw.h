/* The arithmetic of prompt.h that all backends share: how an option and a random number become a
 * coordinate. For the host, compile without contraction. */
#ifndef KERNELS_PROMPT_DRAW_H
#define KERNELS_PROMPT_DRAW_H

#include "kernels/base/rng.h"
#include "kernels/base/rounded.h"
#include "kernels/prompt.h"

/* What index of a mask's stream is for. */
enum { PROMPT_DRAW_KIND, PROMPT_DRAW_POINT, PROMPT_DRAW_BOX = 16, PROMPT_DRAW_CLICK = 64 };
enum { PROMPT_LABEL_NONE = -1, PROMPT_LABEL_BOX = 2 };

RNG_FN struct rng_key prompt_draw_key(const int64_t key[2], int64_t mask)
{
    struct rng_key k;

    k.seed = (uint64_t)key[0];
    k.stream = (uint64_t)key[1];
    return rng_sub(k, (uint64_t)mask);
}

/* Centre of pixel i of R, in a frame of S: (i+½)·S/R − ½, divided once. */
RNG_FN float prompt_draw_centre(int64_t i, int64_t R, int64_t S)
{
    return (float)((2 * i + 1) * S) / (float)(2 * R) - 0.5f;
}

RNG_FN float prompt_draw_clamp(float x, float lo, float hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* Coordinate c of the box with its noise. */
RNG_FN float prompt_draw_coordinate(int c, const float box[4], const float size[2],
                                    struct rng_key key, const struct prompt_options *o)
{
    const uint64_t index = (uint64_t)(PROMPT_DRAW_BOX + c);
    const float side = box[2 + (c & 1)] - box[c & 1], reach = rounded_product(o->box_noise, side);
    float noise;

    if (o->law == BOX_NOISE_NORMAL)
        noise = prompt_draw_clamp(
            rounded_product(rounded_product(rng_near_normal(key, index), o->box_noise), side),
            -o->box_noise_max, o->box_noise_max);
    else
        noise = rounded_product(2.0f * rng_uniform(key, index) - 1.0f,
                                reach < o->box_noise_max ? reach : o->box_noise_max);
    return prompt_draw_clamp(box[c] + noise, 0.0f, size[c & 1]);
}

/* Whether corners (x0,y0,x1,y1) with their noise are a box; if not, the true one is taken. */
RNG_FN bool prompt_draw_is_box(float x0, float y0, float x1, float y1)
{
    return x1 - x0 > 1.0f && y1 - y0 > 1.0f;
}

/* The box with its noise, or the true box when a side falls to 1 or less. */
RNG_FN void prompt_draw_box(float out[4], const float box[4], const float size[2],
                            struct rng_key key, const struct prompt_options *o)
{
    for (int c = 0; c < 4; c++) out[c] = prompt_draw_coordinate(c, box, size, key, o);
    if (prompt_draw_is_box(out[0], out[1], out[2], out[3])) return;
    for (int c = 0; c < 4; c++) out[c] = box[c];
}

#endif
