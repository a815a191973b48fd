#include "data_pipeline/synth.h"

#include "data_pipeline/synth_shape.h"
#include "data_pipeline/synth_texture.h"
#include "kernels/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS_MAX = 2 * SYNTH_OBJECTS_MAX + 1 }; /* the ground is 0 */

_Static_assert((int64_t)SYNTH_SIDE_MAX *SYNTH_SIDE_MAX <= PICTURE_PIXELS_MAX, "no picture larger");

static const double area_min = 0.002;   /* of the image: smaller masks are left out */
static const int64_t pixels_min = 100;  /* as SA-1B's own limit */
static const double visible_min = 0.35; /* of an object, for its masks to count */
static const double alike = 0.9;        /* two masks of one object, IoU */

/* A shape somewhere in the image. */
struct element {
    struct synth_shape shape;
    struct synth_texture texture;
    double x, y, sin, cos;    /* centre, pixels; rotation */
    double across, down;      /* half extents along the shape's own axes, pixels */
    int64_t painted, visible; /* pixels */
};

struct object {
    double area;     /* wanted, of the image */
    double rank;     /* painted in falling order */
    int first, last; /* elements: the body, and a part or attachment */
    bool attached;
    int64_t painted; /* pixels of all its elements */
};

/* All that is planned of an image. */
struct plan {
    const struct synth_options *options;
    struct dice dice;
    struct synth_texture ground;
    double unit;
    int n_objects, n_elements;
    struct object object[SYNTH_OBJECTS_MAX];
    struct element element[ELEMENTS_MAX];
    float *noise; /* owned; one row */
    uint8_t *row; /* owned; one row, RGB */
};

static double reach(const struct element *e)
{
    return 1.3 * (e->across > e->down ? e->across : e->down);
}

/* Of several colours the one farthest from the ground and from the elements so far. */
static struct synth_colour draw_colour(struct plan *p)
{
    enum { TRIES = 8 };
    struct synth_colour best = { { 0 } };
    double best_distance = -1;

    for (int i = 0; i < TRIES; i++) {
        const double hue = dice_uniform(&p->dice, 0, 1);
        const double saturation = dice_uniform(&p->dice, 0.65, 1);
        const struct synth_colour c =
            synth_colour_from(hue, saturation, dice_uniform(&p->dice, 0.65, 1));
        double distance =
            fmin(synth_colour_distance(c, p->ground.a), synth_colour_distance(c, p->ground.b));

        for (int k = 1; k < p->n_elements; k++)
            distance = fmin(distance, synth_colour_distance(c, p->element[k].texture.a));
        if (distance > best_distance) {
            best_distance = distance;
            best = c;
        }
    }
    return best;
}

/* How much a circle at (x,y) would overlap those so far, in shares of the smaller one. */
static double crowding(const struct plan *p, double x, double y, double radius)
{
    double sum = 0;

    for (int k = 1; k < p->n_elements; k++) {
        const struct element *e = &p->element[k];
        const double r = reach(e), gap = hypot(e->x - x, e->y - y) - r - radius;

        if (gap < 0) sum -= gap / fmin(r, radius);
    }
    return sum;
}

static void turn(struct element *e, struct dice *d, double scale)
{
    const double angle = dice_uniform(d, 0, 6.283185307179586),
                 stretch = dice_uniform(d, 0.8, 1.25);

    e->sin = sin(angle);
    e->cos = cos(angle);
    e->across = scale * stretch;
    e->down = scale / stretch;
}

/* The free place of several; seldom of two only, so that some objects hide others. */
static void place(struct plan *p, struct element *e, int32_t h, int32_t w)
{
    const int n_tries = dice_chance(&p->dice, 0.15) ? 2 : 24;
    double best = INFINITY;

    for (int i = 0; i < n_tries; i++) {
        const double margin = fmin(0.7 * reach(e), 0.45 * (h < w ? h : w));
        const double x = dice_uniform(&p->dice, margin, w - margin);
        const double y = dice_uniform(&p->dice, margin, h - margin);
        const double crowd = crowding(p, x, y, reach(e));

        if (crowd < best) {
            best = crowd;
            e->x = x;
            e->y = y;
        }
    }
}

static void to_shape(const struct element *e, double x, double y, double *u, double *v)
{
    *u = (e->cos * (x - e->x) + e->sin * (y - e->y)) / e->across;
    *v = (e->cos * (y - e->y) - e->sin * (x - e->x)) / e->down;
}

static void to_image(const struct element *e, double u, double v, double *x, double *y)
{
    u *= e->across;
    v *= e->down;
    *x = e->x + e->cos * u - e->sin * v;
    *y = e->y + e->sin * u + e->cos * v;
}

/* A part lies on the body, an attachment at its edge. */
static void add_second(struct plan *p, const struct element *body, bool attached)
{
    enum { TRIES = 32 };
    struct element *e = &p->element[p->n_elements];
    const double scale = sqrt(body->across * body->down);
    double u = 0, v = 0;

    for (int i = 0; i < TRIES; i++) {
        u = dice_uniform(&p->dice, -0.8, 0.8);
        v = dice_uniform(&p->dice, -0.8, 0.8);
        if (synth_shape_has(&body->shape, u, v)) break;
    }
    if (attached) { /* outwards to the edge */
        for (int i = 0; i < TRIES && synth_shape_has(&body->shape, u, v); i++) {
            u *= 1.1;
            v *= 1.1;
        }
    }
    *e = (struct element){ .shape = synth_shape_draw_part(&p->dice) };
    to_image(body, u, v, &e->x, &e->y);
    turn(e, &p->dice, scale * dice_uniform(&p->dice, 0.4, 0.6));
    e->texture = synth_texture_draw(&p->dice, draw_colour(p), p->unit);
    p->n_elements++;
}

static void plan_object(struct plan *p, struct object *o, int32_t h, int32_t w)
{
    struct element *e = &p->element[p->n_elements];
    const double second = dice_uniform(&p->dice, 0, 1);

    *e = (struct element){ .shape = synth_shape_draw(&p->dice) };
    turn(e, &p->dice, sqrt(o->area * h * w / e->shape.area));
    place(p, e, h, w);
    e->texture = synth_texture_draw(&p->dice, draw_colour(p), p->unit);
    o->first = o->last = p->n_elements++;
    if (second < 0.3 && o->area > 0.02) {
        o->attached = second < 0.12;
        add_second(p, e, o->attached);
        o->last++;
    }
}

static double draw_area(struct dice *d)
{
    const double kind = dice_uniform(d, 0, 1);

    if (kind < 0.6) return dice_uniform(d, 0.1, 0.25);
    if (kind < 0.9) return dice_uniform(d, 0.04, 0.1);
    return dice_uniform(d, 0.01, 0.04);
}

static int by_rank(const void *a, const void *b)
{
    const double x = ((const struct object *)a)->rank, y = ((const struct object *)b)->rank;

    return (x < y) - (x > y);
}

static void plan_scene(struct plan *p, int32_t h, int32_t w)
{
    const int mean = p->options->n_objects, spread = mean / 3;
    const int n = mean - spread + dice_below(&p->dice, 2 * spread + 1);

    p->n_objects = n > SYNTH_OBJECTS_MAX ? SYNTH_OBJECTS_MAX : n;
    p->n_elements = 1;
    p->unit = (h < w ? h : w) / 20.0;
    p->ground = synth_texture_draw_ground(&p->dice, p->unit);
    for (int i = 0; i < p->n_objects; i++) {
        struct object *o = &p->object[i];

        /* many objects are smaller ones: together they fill at most about half the image */
        *o = (struct object){ .area = draw_area(&p->dice) * fmin(1, 4.0 / p->n_objects) };
        o->rank = o->area * dice_uniform(&p->dice, 0.3, 1);
    }
    qsort(p->object, (size_t)p->n_objects, sizeof *p->object, by_rank);
    for (int i = 0; i < p->n_objects; i++) plan_object(p, &p->object[i], h, w);
}

/* Paints element `id` of the object with element `body` (0: it is the body), on the body only or
 * anywhere; returns how many pixels are new to the object. */
static int64_t paint(struct plan *p, struct synth_scene *s, int id, int body, bool on_body_only)
{
    struct element *e = &p->element[id];
    const int32_t h = s->rough.height, w = s->rough.width;
    const int32_t x0 = (int32_t)fmax(0, floor(e->x - 1.15 * reach(e)));
    const int32_t x1 = (int32_t)fmin(w, ceil(e->x + 1.15 * reach(e)));
    const int32_t y0 = (int32_t)fmax(0, floor(e->y - 1.15 * reach(e)));
    const int32_t y1 = (int32_t)fmin(h, ceil(e->y + 1.15 * reach(e)));
    int64_t n_new = 0;

    for (int32_t y = y0; y < y1 && x0 < x1; y++) {
        uint16_t *owner = s->owner + (int64_t)y * w;
        uint8_t *rgb = s->rough.rgb + (int64_t)y * w * 3;

        synth_texture_row(&e->texture, y, x0, x1 - x0, p->noise, p->row);
        for (int32_t x = x0; x < x1; x++) {
            double u, v;

            to_shape(e, x + 0.5, y + 0.5, &u, &v);
            if (!synth_shape_has(&e->shape, u, v)) continue;
            if (on_body_only && owner[x] != body) continue;
            n_new += !body || owner[x] != body;
            e->painted++;
            owner[x] = (uint16_t)id;
            memcpy(rgb + 3 * x, p->row + 3 * (x - x0), 3);
        }
    }
    return n_new;
}

static void paint_scene(struct plan *p, struct synth_scene *s)
{
    const int32_t h = s->rough.height, w = s->rough.width;

    memset(s->owner, 0, (size_t)h * (size_t)w * sizeof *s->owner);
    for (int32_t y = 0; y < h; y++)
        synth_texture_row(&p->ground, y, 0, w, p->noise, s->rough.rgb + (int64_t)y * w * 3);
    for (int i = 0; i < p->n_objects; i++) {
        struct object *o = &p->object[i];

        o->painted = paint(p, s, o->first, 0, false);
        if (o->last > o->first) o->painted += paint(p, s, o->last, o->first, !o->attached);
    }
    for (int64_t i = 0; i < (int64_t)h * w; i++) p->element[s->owner[i]].visible++;
}

/* A camera's softness, 1 2 1 both ways, and its noise of about ±3. */
static void develop(struct synth_scene *s, struct rng_key key)
{
    const int32_t h = s->rough.height, w = s->rough.width;

    for (int32_t y = 0; y < h; y++) {
        const uint8_t *mid = s->rough.rgb + (int64_t)y * w * 3;
        const uint8_t *up = y ? mid - w * 3 : mid, *low = y + 1 < h ? mid + w * 3 : mid;
        uint8_t *to = s->picture.rgb + (int64_t)y * w * 3;
        uint64_t bits = 0;

        for (int32_t i = 0; i < w * 3; i++) {
            const int32_t l = i < 3 ? i : i - 3, r = i + 3 < w * 3 ? i + 3 : i;
            const int sum = up[l] + 2 * up[i] + up[r] + 2 * (mid[l] + 2 * mid[i] + mid[r]) +
                            low[l] + 2 * low[i] + low[r];

            if (i % 8 == 0)
                bits = rng_mix(key.seed ^ key.stream ^ ((uint64_t)y << 32 | (uint64_t)i));
            const int byte = (int)(bits >> (i % 8 * 8) & 0xFF);
            const int v = (sum + 8) / 16 + (byte & 7) + (byte >> 3 & 7) - 7;

            to[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
}

static void add_mask(struct plan *p, struct synth_scene *s, int first, int last)
{
    const int64_t n = (int64_t)s->picture.height * s->picture.width;
    int64_t area = 0;

    for (int k = first; k <= last; k++) area += p->element[k].visible;
    if (area < pixels_min || (double)area < area_min * (double)n) return;
    s->mask[s->n_masks++] = (struct synth_mask){
        .first = (uint16_t)first,
        .last = (uint16_t)last,
        .predicted_iou = dice_uniform(&p->dice, 0.88, 1),
        .stability_score = dice_uniform(&p->dice, 0.95, 1),
    };
}

static void list_masks(struct plan *p, struct synth_scene *s)
{
    s->n_masks = 0;
    for (int i = 0; i < p->n_objects; i++) {
        const struct object *o = &p->object[i];
        int64_t whole = 0;

        for (int k = o->first; k <= o->last; k++) whole += p->element[k].visible;
        if ((double)whole < visible_min * (double)o->painted) continue;
        add_mask(p, s, o->first, o->last);
        for (int k = o->first; k <= o->last && o->last > o->first; k++)
            if ((double)p->element[k].visible < alike * (double)whole) add_mask(p, s, k, k);
    }
}

static enum status reserve(struct synth_scene *s, int32_t h, int32_t w)
{
    const int64_t n = (int64_t)h * w;

    TRY(picture_reserve(&s->picture, h, w));
    TRY(picture_reserve(&s->rough, h, w));
    if (n > s->n_owner) {
        free(s->owner);
        s->n_owner = 0;
        s->owner = malloc((size_t)n * sizeof *s->owner);
        if (!s->owner) FAIL(E_MEMORY, "a scene of %lld pixels", (long long)n);
        s->n_owner = n;
    }
    return OK;
}

static int32_t draw_side(struct dice *d, int32_t mean)
{
    const int32_t side = (int32_t)(mean * dice_uniform(d, 0.8, 1.2));

    if (side > SYNTH_SIDE_MAX) return SYNTH_SIDE_MAX;
    return side < SYNTH_SIDE_MIN ? SYNTH_SIDE_MIN : side;
}

enum status synth_draw(const struct synth_options *o, int64_t image_id, struct synth_scene *s)
{
    struct plan *p = malloc(sizeof *p);

    if (!p) FAIL(E_MEMORY, "the plan of a scene");
    p->options = o;
    p->dice =
        (struct dice){ .key = rng_stream(o->seed, RNG_SYNTH, (uint64_t)image_id, 0), .next = 0 };

    const int32_t a = draw_side(&p->dice, o->width), b = draw_side(&p->dice, o->height);
    const bool stands = dice_chance(&p->dice, 0.25);
    const int32_t w = stands ? b : a, h = stands ? a : b;
    enum status st = reserve(s, h, w);

    p->noise = malloc((size_t)w * sizeof *p->noise);
    p->row = malloc((size_t)w * 3);
    if (st == OK && p->noise && p->row) {
        s->image_id = image_id;
        memset(&p->element[0], 0, sizeof p->element[0]);
        plan_scene(p, h, w);
        paint_scene(p, s);
        list_masks(p, s);
        develop(s, rng_sub(p->dice.key, 1));
    } else if (st == OK) {
        st = status_fail(E_MEMORY, __FILE__, __LINE__, "rows of %d pixels", w);
    }
    free(p->noise);
    free(p->row);
    free(p);
    return st;
}

void synth_scene_destroy(struct synth_scene *s)
{
    if (!s) return;
    picture_destroy(&s->picture);
    picture_destroy(&s->rough);
    free(s->owner);
    *s = (struct synth_scene){ 0 };
}

void synth_mask_pixels(const struct synth_scene *s, int64_t mask, uint8_t *pixels)
{
    const int64_t n = (int64_t)s->picture.height * s->picture.width;
    const struct synth_mask *m = &s->mask[mask];

    ASSERT(mask >= 0 && mask < s->n_masks);
    for (int64_t i = 0; i < n; i++) pixels[i] = s->owner[i] >= m->first && s->owner[i] <= m->last;
}
