#include "trainer/eval_trivial.h"

#include <math.h>

#include "trainer/eval_score.h"

struct overlap {
    int64_t both, own;
};

static float iou(struct overlap o, int64_t area)
{
    const int64_t any = o.own + area - o.both;

    return any ? (float)((double)o.both / (double)any) : 1;
}

static void count(struct overlap *o, int inside, uint8_t truth)
{
    o->own += inside;
    o->both += inside & truth;
}

enum { DISC, SMALL, LARGE, HUGE_DISC, BOX, ELLIPSE, SHAPES };

void eval_trivial(const struct eval_trivial *t, float *score)
{
    static const double sizes[4] = { 1, 0.5, 2, 8 };
    const double unit = t->median_area * (double)t->h * t->w / M_PI;
    const struct rle_extent *b = &t->extent;
    struct overlap o[SHAPES] = { 0 };
    float best = 0;

    for (int32_t y = 0; y < t->h; y++)
        for (int32_t x = 0; x < t->w; x++) {
            const uint8_t truth = t->truth[(int64_t)y * t->w + x];
            const double dx = x - t->click_x, dy = y - t->click_y, r2 = dx * dx + dy * dy;
            const int in_box = x >= b->x0 && x < b->x1 && y >= b->y0 && y < b->y1;

            for (int i = 0; i < 4; i++) count(o + DISC + i, r2 <= sizes[i] * unit, truth);
            count(o + BOX, in_box, truth);
            if (in_box) {
                const double u = (2.0 * x + 1 - b->x0 - b->x1) / (b->x1 - b->x0);
                const double v = (2.0 * y + 1 - b->y0 - b->y1) / (b->y1 - b->y0);

                count(o + ELLIPSE, u * u + v * v <= 1, truth);
            }
        }
    for (int i = SMALL; i <= HUGE_DISC; i++)
        if (iou(o[i], b->area) > best) best = iou(o[i], b->area);
    score[EVAL_disc] = iou(o[DISC], b->area);
    score[EVAL_disc_oracle] = best;
    score[EVAL_box_filled] = iou(o[BOX], b->area);
    score[EVAL_ellipse] = iou(o[ELLIPSE], b->area);
    score[EVAL_whole] = (float)((double)b->area / ((double)t->h * t->w));
}
