#include "data_pipeline/synth_texture.h"

#include <math.h>

enum { OCTAVES = 3 };

struct synth_colour synth_colour_from(double hue, double saturation, double value)
{
    struct synth_colour c;

    for (int i = 0; i < 3; i++) {
        const double k = fmod(hue * 6 + 5 - 2 * i, 6), low = k < 4 - k ? k : 4 - k;
        const double ramp = low < 0 ? 0 : low > 1 ? 1 : low;

        c.v[i] = 255 * value * (1 - saturation * ramp);
    }
    return c;
}

double synth_colour_distance(struct synth_colour a, struct synth_colour b)
{
    double sum = 0;

    for (int i = 0; i < 3; i++) sum += (a.v[i] - b.v[i]) * (a.v[i] - b.v[i]);
    return sqrt(sum);
}

static void set_direction(struct synth_texture *t, struct dice *d, double period)
{
    const double angle = dice_uniform(d, 0, 6.283185307179586);

    t->dx = cos(angle) / period;
    t->dy = sin(angle) / period;
    t->phase = dice_uniform(d, 0, 1);
}

struct synth_texture synth_texture_draw_ground(struct dice *d, double unit)
{
    struct synth_texture t = { .pattern = dice_chance(d, 0.5) ? SYNTH_GRADIENT : SYNTH_CLOUDS,
                               .cell = unit * dice_uniform(d, 2, 6),
                               .roughness = dice_uniform(d, 0.2, 0.5),
                               .key = rng_sub(d->key, d->next++) };
    const double hue = dice_uniform(d, 0, 1), value = dice_uniform(d, 0.2, 0.6);

    t.a = synth_colour_from(hue, dice_uniform(d, 0, 0.1), value);
    t.b = synth_colour_from(hue + dice_uniform(d, 0, 0.2), dice_uniform(d, 0, 0.1),
                            value + dice_uniform(d, -0.1, 0.1));
    set_direction(&t, d, unit * dice_uniform(d, 15, 40));
    return t;
}

struct synth_texture synth_texture_draw(struct dice *d, struct synth_colour a, double unit)
{
    static const enum synth_pattern choices[] = { SYNTH_GRADIENT, SYNTH_GRADIENT, SYNTH_CLOUDS,
                                                  SYNTH_STRIPES,  SYNTH_CHECKS,   SYNTH_DOTS };
    struct synth_texture t = { .pattern = choices[dice_below(d, 6)],
                               .a = a,
                               .cell = unit * dice_uniform(d, 0.5, 2),
                               .roughness = dice_uniform(d, 0, 0.25),
                               .key = rng_sub(d->key, d->next++) };
    const double shade = dice_uniform(d, 0.65, 0.85);

    for (int i = 0; i < 3; i++) t.b.v[i] = a.v[i] * shade;
    set_direction(&t, d, unit * dice_uniform(d, 0.8, t.pattern == SYNTH_GRADIENT ? 8 : 1.6));
    return t;
}

static float lattice(struct rng_key key, int64_t x, int64_t y)
{
    const uint64_t h = rng_mix(key.stream ^ key.seed ^ rng_mix((uint64_t)x << 32 ^ (uint64_t)y));

    return (float)(h >> 40) * 5.9604644775390625e-8f; /* 24 bits, 0…1 */
}

static double smooth(double x)
{
    return x * x * (3 - 2 * x);
}

/* Adds `weight` times value noise on a lattice of `cell` pixels. */
static void add_noise(struct rng_key key, double cell, float weight, int32_t y, int32_t x0,
                      int32_t n, float *noise)
{
    const double v = y / cell;
    const int64_t iy = (int64_t)floor(v);
    const float fy = (float)smooth(v - (double)iy);
    int64_t ix_last = INT64_MIN;
    float left = 0, right = 0;

    for (int32_t i = 0; i < n; i++) {
        const double u = (x0 + i) / cell;
        const int64_t ix = (int64_t)floor(u);

        if (ix != ix_last) {
            left = lattice(key, ix, iy) * (1 - fy) + lattice(key, ix, iy + 1) * fy;
            right = lattice(key, ix + 1, iy) * (1 - fy) + lattice(key, ix + 1, iy + 1) * fy;
            ix_last = ix;
        }
        noise[i] += weight * (left + (right - left) * (float)smooth(u - (double)ix));
    }
}

static double triangle_wave(double x)
{
    return fabs(2 * (x - floor(x)) - 1);
}

/* 0…1: how much of colour b there is. */
static double pattern_at(const struct synth_texture *t, int32_t x, int32_t y, double noise)
{
    const double along = x * t->dx + y * t->dy + t->phase, across = y * t->dx - x * t->dy;

    switch (t->pattern) {
    case SYNTH_GRADIENT:
        return triangle_wave(along);
    case SYNTH_STRIPES:
        return triangle_wave(along) > 0.5;
    case SYNTH_CHECKS:
        return (triangle_wave(along) > 0.5) != (triangle_wave(across) > 0.5);
    case SYNTH_DOTS: {
        const double u = triangle_wave(along), v = triangle_wave(across);

        return u * u + v * v < 0.35;
    }
    case SYNTH_CLOUDS:
        return noise;
    }
    return 0;
}

void synth_texture_row(const struct synth_texture *t, int32_t y, int32_t x0, int32_t n,
                       float *noise, uint8_t *rgb)
{
    float weight = 0.5f;
    double cell = t->cell;

    for (int32_t i = 0; i < n; i++) noise[i] = 0;
    for (int octave = 0; octave < OCTAVES; octave++, weight /= 2, cell /= 2)
        add_noise(rng_sub(t->key, (uint64_t)octave), cell < 1 ? 1 : cell, weight, y, x0, n, noise);
    for (int32_t i = 0; i < n; i++) {
        const double pattern = pattern_at(t, x0 + i, y, noise[i]);
        const double mix = pattern + t->roughness * ((double)noise[i] - pattern);

        for (int c = 0; c < 3; c++) {
            const double v = t->a.v[c] + mix * (t->b.v[c] - t->a.v[c]);

            rgb[3 * i + c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5 > 255 ? 255 : v + 0.5);
        }
    }
}
