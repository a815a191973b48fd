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
static const struct colour white = { { 255, 255, 255 } }, black = { { 0, 0, 0 } };

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

/* Pixels [x0,x1) × [y0,y1). */
static void fill(struct picture *p, int64_t x0, int64_t y0, int64_t x1, int64_t y1, struct colour c)
{
    if (x0 < 0) x0 = 0;
    if (y0 < 0) y0 = 0;
    for (int64_t y = y0; y < y1 && y < p->height; y++)
        for (int64_t x = x0; x < x1 && x < p->width; x++) blend(p, x, y, c, 1);
}

/* How thick lines are drawn: 1 pixel in small pictures, more in large ones. */
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

void overlay_box(struct picture *p, const float box[4], int colour)
{
    const int64_t t = line_width(p);
    const struct colour c = colour_of(colour);
    int64_t v[4];

    for (int i = 0; i < 4; i++) {
        if (!(fabsf(box[i]) < 1e6f)) return;
        v[i] = (int64_t)floorf(box[i] + 0.5f);
    }
    fill(p, v[0], v[1], v[2], v[1] + t, c);
    fill(p, v[0], v[3] - t, v[2], v[3], c);
    fill(p, v[0], v[1] + t, v[0] + t, v[3] - t, c);
    fill(p, v[2] - t, v[1] + t, v[2], v[3] - t, c);
}

enum { GLYPH_WIDTH = 5, GLYPH_HEIGHT = 7 };

/* Rows from the top, the leftmost pixel in bit 4. */
struct glyph {
    char letter;
    uint8_t row[GLYPH_HEIGHT];
};

static const struct glyph font[] = {
    { '0', { 14, 17, 19, 21, 25, 17, 14 } }, { '1', { 4, 12, 4, 4, 4, 4, 14 } },
    { '2', { 14, 17, 1, 2, 4, 8, 31 } },     { '3', { 31, 2, 4, 2, 1, 17, 14 } },
    { '4', { 2, 6, 10, 18, 31, 2, 2 } },     { '5', { 31, 16, 30, 1, 1, 17, 14 } },
    { '6', { 6, 8, 16, 30, 17, 17, 14 } },   { '7', { 31, 1, 2, 4, 8, 8, 8 } },
    { '8', { 14, 17, 17, 14, 17, 17, 14 } }, { '9', { 14, 17, 17, 15, 1, 2, 12 } },
    { 'A', { 14, 17, 17, 31, 17, 17, 17 } }, { 'B', { 30, 17, 17, 30, 17, 17, 30 } },
    { 'C', { 14, 17, 16, 16, 16, 17, 14 } }, { 'D', { 28, 18, 17, 17, 17, 18, 28 } },
    { 'E', { 31, 16, 16, 30, 16, 16, 31 } }, { 'F', { 31, 16, 16, 30, 16, 16, 16 } },
    { 'G', { 14, 17, 16, 23, 17, 17, 15 } }, { 'H', { 17, 17, 17, 31, 17, 17, 17 } },
    { 'I', { 14, 4, 4, 4, 4, 4, 14 } },      { 'J', { 7, 2, 2, 2, 2, 18, 12 } },
    { 'K', { 17, 18, 20, 24, 20, 18, 17 } }, { 'L', { 16, 16, 16, 16, 16, 16, 31 } },
    { 'M', { 17, 27, 21, 21, 17, 17, 17 } }, { 'N', { 17, 17, 25, 21, 19, 17, 17 } },
    { 'O', { 14, 17, 17, 17, 17, 17, 14 } }, { 'P', { 30, 17, 17, 30, 16, 16, 16 } },
    { 'Q', { 14, 17, 17, 17, 21, 18, 13 } }, { 'R', { 30, 17, 17, 30, 20, 18, 17 } },
    { 'S', { 15, 16, 16, 14, 1, 1, 30 } },   { 'T', { 31, 4, 4, 4, 4, 4, 4 } },
    { 'U', { 17, 17, 17, 17, 17, 17, 14 } }, { 'V', { 17, 17, 17, 17, 17, 10, 4 } },
    { 'W', { 17, 17, 17, 21, 21, 21, 10 } }, { 'X', { 17, 17, 10, 4, 10, 17, 17 } },
    { 'Y', { 17, 17, 17, 10, 4, 4, 4 } },    { 'Z', { 31, 1, 2, 4, 8, 16, 31 } },
    { '.', { 0, 0, 0, 0, 0, 12, 12 } },      { '%', { 24, 25, 2, 4, 8, 19, 3 } },
    { '-', { 0, 0, 0, 31, 0, 0, 0 } },       { '+', { 0, 4, 4, 31, 4, 4, 0 } },
    { ':', { 0, 12, 12, 0, 12, 12, 0 } },    { '/', { 1, 1, 2, 4, 8, 16, 16 } },
};

static const uint8_t *glyph_of(char letter)
{
    static const uint8_t blank[GLYPH_HEIGHT];

    if (letter >= 'a' && letter <= 'z') letter = (char)(letter - 'a' + 'A');
    for (size_t i = 0; i < sizeof font / sizeof *font; i++)
        if (font[i].letter == letter) return font[i].row;
    return blank;
}

void overlay_text(struct picture *p, int32_t x, int32_t y, int32_t scale, const char *text)
{
    const int64_t step = (int64_t)(GLYPH_WIDTH + 1) * scale, n = (int64_t)strlen(text);

    ASSERT(scale >= 1);
    fill(p, x, y, x + n * step + scale, y + (int64_t)(GLYPH_HEIGHT + 2) * scale, black);
    for (int64_t i = 0; i < n && x + i * step < p->width; i++) {
        const uint8_t *rows = glyph_of(text[i]);

        for (int r = 0; r < GLYPH_HEIGHT; r++) {
            for (int c = 0; c < GLYPH_WIDTH; c++) {
                const int64_t left = x + i * step + (int64_t)(c + 1) * scale;
                const int64_t top = y + (int64_t)(r + 1) * scale;

                if (rows[r] >> (GLYPH_WIDTH - 1 - c) & 1)
                    fill(p, left, top, left + scale, top + scale, white);
            }
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
