#include "data_pipeline/synth_shape.h"

#include <math.h>

static const double turn = 6.283185307179586;

/* Letters and the like on a grid of 4 × 4 units from −2 to 2, corners in order. */
struct glyph {
    int n;
    double xy[SYNTH_CORNERS][2];
};

static const struct glyph glyphs[] = {
    /* L */ { 6, { { -2, -2 }, { -0.6, -2 }, { -0.6, 0.6 }, { 2, 0.6 }, { 2, 2 }, { -2, 2 } } },
    /* T */
    { 8,
      { { -2, -2 },
        { 2, -2 },
        { 2, -0.7 },
        { 0.7, -0.7 },
        { 0.7, 2 },
        { -0.7, 2 },
        { -0.7, -0.7 },
        { -2, -0.7 } } },
    /* U */
    { 8,
      { { -2, -2 },
        { -0.8, -2 },
        { -0.8, 0.8 },
        { 0.8, 0.8 },
        { 0.8, -2 },
        { 2, -2 },
        { 2, 2 },
        { -2, 2 } } },
    /* plus */
    { 12,
      { { -0.7, -2 },
        { 0.7, -2 },
        { 0.7, -0.7 },
        { 2, -0.7 },
        { 2, 0.7 },
        { 0.7, 0.7 },
        { 0.7, 2 },
        { -0.7, 2 },
        { -0.7, 0.7 },
        { -2, 0.7 },
        { -2, -0.7 },
        { -0.7, -0.7 } } },
    /* Z */
    { 8,
      { { -2, -2 },
        { 0.6, -2 },
        { 0.6, 0.7 },
        { 2, 0.7 },
        { 2, 2 },
        { -0.6, 2 },
        { -0.6, -0.7 },
        { -2, -0.7 } } },
    /* arrow */
    { 7, { { -2, -0.7 }, { 0, -0.7 }, { 0, -2 }, { 2, 0 }, { 0, 2 }, { 0, 0.7 }, { -2, 0.7 } } },
    /* V */
    { 7,
      { { -2, -2 }, { -0.8, -2 }, { 0, 0.2 }, { 0.8, -2 }, { 2, -2 }, { 0.7, 2 }, { -0.7, 2 } } },
    /* triangle */
    { 3, { { -2, 2 }, { 0, -2 }, { 2, 2 } } },
    /* rectangle */
    { 4, { { -2, -1.4 }, { 2, -1.4 }, { 2, 1.4 }, { -2, 1.4 } } },
};

enum { N_GLYPHS = sizeof glyphs / sizeof *glyphs, RECTANGLE = N_GLYPHS - 1 };

static void take_glyph(struct synth_shape *s, int glyph)
{
    s->n_corners = glyphs[glyph].n;
    for (int i = 0; i < s->n_corners; i++) {
        s->x[i] = glyphs[glyph].xy[i][0] / 2;
        s->y[i] = glyphs[glyph].xy[i][1] / 2;
    }
}

static void draw_star(struct synth_shape *s, struct dice *d)
{
    const int n_rays = 3 + dice_below(d, 5);
    const double inner = dice_uniform(d, 0.38, 0.55);

    s->n_corners = 2 * n_rays;
    for (int i = 0; i < s->n_corners; i++) {
        const double r = i % 2 ? inner : 1, angle = turn * i / s->n_corners;

        s->x[i] = r * cos(angle);
        s->y[i] = r * sin(angle);
    }
}

/* A circle whose radius waves two to four times around, deeply enough for bays. */
static void draw_blob(struct synth_shape *s, struct dice *d)
{
    const int waves = 2 + dice_below(d, 3);
    const double depth = dice_uniform(d, 0.2, 0.45), bend = dice_uniform(d, -0.2, 0.2);

    s->n_corners = SYNTH_CORNERS;
    for (int i = 0; i < SYNTH_CORNERS; i++) {
        const double angle = turn * i / SYNTH_CORNERS;
        const double r = (1 + depth * cos(waves * angle) + bend * sin((waves + 1) * angle)) /
                         (1 + depth + fabs(bend));

        s->x[i] = r * cos(angle);
        s->y[i] = r * sin(angle);
    }
}

static bool polygon_has(const struct synth_shape *s, double u, double v)
{
    bool in = false;

    for (int i = 0, j = s->n_corners - 1; i < s->n_corners; j = i++) {
        if ((s->y[i] > v) == (s->y[j] > v)) continue;
        if (u < s->x[i] + (v - s->y[i]) / (s->y[j] - s->y[i]) * (s->x[j] - s->x[i])) in = !in;
    }
    return in;
}

bool synth_shape_has(const struct synth_shape *s, double u, double v)
{
    const double r2 = u * u + v * v, left = u - s->shift;

    switch (s->outline) {
    case SYNTH_POLYGON:
        return polygon_has(s, u, v);
    case SYNTH_ELLIPSE:
        return r2 < 1;
    case SYNTH_RING:
        return r2 < 1 && r2 >= s->hole * s->hole;
    case SYNTH_CRESCENT:
        return r2 < 1 && left * left + v * v >= s->hole * s->hole;
    }
    return false;
}

static double measure(const struct synth_shape *s)
{
    enum { STEPS = 48 };
    int n = 0;

    for (int i = 0; i < STEPS; i++)
        for (int j = 0; j < STEPS; j++)
            n += synth_shape_has(s, (2 * j + 1.0) / STEPS - 1, (2 * i + 1.0) / STEPS - 1);
    return 4.0 * n / (STEPS * STEPS);
}

struct synth_shape synth_shape_draw(struct dice *d)
{
    struct synth_shape s = { .outline = SYNTH_POLYGON };
    const int kind = dice_below(d, 14);

    if (kind < 6)
        take_glyph(&s, dice_below(d, N_GLYPHS));
    else if (kind < 9)
        draw_star(&s, d);
    else if (kind < 10)
        draw_blob(&s, d);
    else if (kind == 10)
        s.outline = SYNTH_ELLIPSE;
    else if (kind == 11) {
        s.outline = SYNTH_RING;
        s.hole = dice_uniform(d, 0.45, 0.65);
    } else {
        s.outline = SYNTH_CRESCENT;
        s.hole = dice_uniform(d, 0.7, 0.85);
        s.shift = dice_uniform(d, 0.45, 0.6);
    }
    s.area = measure(&s);
    return s;
}

struct synth_shape synth_shape_draw_part(struct dice *d)
{
    struct synth_shape s = { .outline = SYNTH_POLYGON };

    if (dice_chance(d, 0.5))
        s.outline = SYNTH_ELLIPSE;
    else
        take_glyph(&s, RECTANGLE);
    s.area = measure(&s);
    return s;
}
