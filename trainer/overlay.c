#include "trainer/overlay.h"

#include "kernels/base/check.h"

#include <math.h>
#include <string.h>

struct colour {
    uint8_t v[3];
};

static const struct colour colours[OVERLAY_COLOURS] = {
    { { 230, 25, 75 } },  { { 60, 180, 75 } },   { { 0, 130, 255 } },  { { 255, 200, 25 } },
    { { 200, 70, 240 } }, { { 245, 130, 48 } },  { { 70, 220, 230 } }, { { 240, 50, 200 } },
    { { 190, 240, 70 } }, { { 250, 170, 190 } }, { { 0, 128, 128 } },  { { 170, 110, 40 } },
};
static const struct colour white = { { 255, 255, 255 } };

static struct colour colour_of(int number)
{
    return colours[(number % OVERLAY_COLOURS + OVERLAY_COLOURS) % OVERLAY_COLOURS];
}

static void blend(struct picture *p, int64_t x, int64_t y, struct colour c, float alpha)
{
    if (x < 0 || y < 0 || x >= p->width || y >= p->height) return;
    uint8_t *rgb = p->rgb + (y * p->width + x) * 3;
    for (int i = 0; i < 3; i++)
        rgb[i] = (uint8_t)((float)rgb[i] + alpha * (float)(c.v[i] - rgb[i]) + 0.5f);
}

static int64_t line_width(const struct picture *p)
{
    return 1 + (p->height < p->width ? p->height : p->width) / 500;
}

static bool has(const struct picture *p, const uint8_t *mask, int64_t x, int64_t y)
{
    return x >= 0 && y >= 0 && x < p->width && y < p->height && mask[y * p->width + x];
}

/* Within the mask, with a pixel outside at most line_width away along an axis. */
static bool on_edge(const struct picture *p, const uint8_t *mask, int64_t x, int64_t y, int64_t r)
{
    if (!has(p, mask, x, y)) return false;
    for (int64_t k = 1; k <= r; k++)
        if (!has(p, mask, x - k, y) || !has(p, mask, x + k, y) || !has(p, mask, x, y - k) ||
            !has(p, mask, x, y + k))
            return true;
    return false;
}

void overlay_contour(struct picture *p, const uint8_t *mask, int colour)
{
    const int64_t r = line_width(p);

    for (int64_t y = 0; y < p->height; y++)
        for (int64_t x = 0; x < p->width; x++)
            if (on_edge(p, mask, x, y, r)) blend(p, x, y, colour_of(colour), 1);
}

void overlay_mask(struct picture *p, const uint8_t *mask, int colour, float alpha)
{
    for (int64_t y = 0; y < p->height; y++)
        for (int64_t x = 0; x < p->width; x++)
            if (has(p, mask, x, y)) blend(p, x, y, colour_of(colour), alpha);
    overlay_contour(p, mask, colour);
}

void overlay_point(struct picture *p, double x, double y, bool positive)
{
    const double radius = 4 + 2 * (double)line_width(p), arm = 0.6 * radius;
    const struct colour c = colours[positive ? OVERLAY_GREEN : OVERLAY_RED];
    const int64_t reach = (int64_t)radius + 2;

    if (!(fabs(x) < 1e6 && fabs(y) < 1e6)) return;
    const int64_t cx = (int64_t)floor(x), cy = (int64_t)floor(y);
    for (int64_t dy = -reach; dy <= reach; dy++) {
        for (int64_t dx = -reach; dx <= reach; dx++) {
            const double r = hypot((double)dx, (double)dy);
            const double across = fabs((double)dx), down = fabs((double)dy);
            const double half = 0.15 * radius;
            const bool sign =
                (down <= half && across <= arm) || (positive && across <= half && down <= arm);

            if (r <= radius + 1.2) blend(p, cx + dx, cy + dy, sign || r > radius ? white : c, 1);
        }
    }
}

enum status overlay_beside(struct picture *out, const struct picture *const *pictures, int n,
                           int32_t margin)
{
    int64_t width = margin, height = 0, x = margin;

    ASSERT(n >= 1 && margin >= 0);
    for (int i = 0; i < n; i++) {
        width += pictures[i]->width + margin;
        if (pictures[i]->height > height) height = pictures[i]->height;
    }
    height += 2 * (int64_t)margin;
    if (width > PICTURE_SIDE_MAX || height > PICTURE_SIDE_MAX)
        FAIL(E_SHAPE, "%d pictures beside one another are %lld×%lld pixels", n, (long long)width,
             (long long)height);
    TRY(picture_reserve(out, (int32_t)height, (int32_t)width));
    memset(out->rgb, 255, (size_t)(width * height * 3));
    for (int i = 0; i < n; i++) {
        const struct picture *p = pictures[i];

        for (int64_t y = 0; y < p->height; y++)
            memcpy(out->rgb + ((y + margin) * width + x) * 3, p->rgb + y * p->width * 3,
                   (size_t)p->width * 3);
        x += p->width + margin;
    }
    return OK;
}
