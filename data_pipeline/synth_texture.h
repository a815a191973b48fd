/* What surfaces of synthetic objects and backgrounds look like: two colours, mixed by a pattern of
 * stripes, checks, dots, a gradient or noise, with a little noise over all of it. A texture is a
 * function of the pixel's place, so it can be painted in any order. */
#ifndef DATA_PIPELINE_SYNTH_TEXTURE_H
#define DATA_PIPELINE_SYNTH_TEXTURE_H

#include <stdint.h>

#include "data_pipeline/dice.h"

struct synth_colour {
    double v[3]; /* red, green, blue, 0…255 */
};

enum synth_pattern { SYNTH_GRADIENT, SYNTH_STRIPES, SYNTH_CHECKS, SYNTH_DOTS, SYNTH_CLOUDS };

struct synth_texture {
    enum synth_pattern pattern;
    struct synth_colour a, b;
    double dx, dy; /* direction of the pattern over its period, per pixel */
    double phase;
    double cell;      /* pixels between the lattice points of the coarsest noise */
    double roughness; /* share of noise beside the pattern, 0…1 */
    struct rng_key key;
};

struct synth_colour synth_colour_from(double hue, double saturation, double value); /* each 0…1 */
double synth_colour_distance(struct synth_colour a, struct synth_colour b);

/* A background: two greyish colours that lie close. unit: about a twentieth of the image. */
struct synth_texture synth_texture_draw_ground(struct dice *d, double unit);

/* An object's surface around colour `a`. */
struct synth_texture synth_texture_draw(struct dice *d, struct synth_colour a, double unit);

/* rgb: (n,3), the pixels x0 … x0+n−1 of row y. noise: (n) scratch. */
void synth_texture_row(const struct synth_texture *t, int32_t y, int32_t x0, int32_t n,
                       float *noise, uint8_t *rgb);

#endif
