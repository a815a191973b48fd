/* Two passes (Meijster, Roerdink, Hesselink, 2000): the distance within each column, then along
 * each row the lower envelope of the parabolas (x − i)² + column[i]². */
#include "data_pipeline/distance.h"

#include "kernels/base/check.h"

#include <stdlib.h>
#include <string.h>

/* The pixels of `mask` that are not in `less` (NULL: none are); only its box is worked on. */
struct region {
    const uint8_t *mask, *less;
    int32_t stride;
    int32_t x0, y0, x1, y1; /* box, exclusive; empty when x0 ≥ x1 */
};

void distance_destroy(struct distance *d)
{
    if (!d) return;
    free(d->column);
    free(d->line);
    *d = (struct distance){ 0 };
}

enum status distance_reserve(struct distance *d, int32_t height, int32_t width)
{
    const int64_t n_column = (int64_t)height * width, n_line = 3 * ((int64_t)width + 2);

    if (height < 1 || width < 1 || height > DISTANCE_SIDE_MAX || width > DISTANCE_SIDE_MAX)
        FAIL(E_SHAPE, "distances in a mask of %d×%d pixels; sides are 1 to %d", width, height,
             DISTANCE_SIDE_MAX);
    if (n_column > d->n_column) {
        free(d->column);
        d->n_column = 0;
        d->column = malloc((size_t)n_column * sizeof *d->column);
        if (!d->column) FAIL(E_MEMORY, "distances in %lld pixels", (long long)n_column);
        d->n_column = n_column;
    }
    if (n_line > d->n_line) {
        free(d->line);
        d->n_line = 0;
        d->line = malloc((size_t)n_line * sizeof *d->line);
        if (!d->line) FAIL(E_MEMORY, "distances in rows of %d pixels", width);
        d->n_line = n_line;
    }
    return OK;
}

static uint8_t inside(const struct region *r, int64_t i)
{
    return r->mask[i] & (uint8_t) ~(r->less ? r->less[i] : 0);
}

/* Eight pixels at once; nonzero when any is inside. */
static uint64_t inside8(const struct region *r, int64_t i)
{
    uint64_t mask, less = 0;

    memcpy(&mask, r->mask + i, sizeof mask);
    if (r->less) memcpy(&less, r->less + i, sizeof less);
    return mask & ~less;
}

/* Widens the box by row y. */
static void box_row(struct region *r, int32_t y, int32_t w)
{
    const int64_t row = (int64_t)y * r->stride;
    int32_t lo = 0, hi = w;

    while (lo + 8 <= w && !inside8(r, row + lo)) lo += 8;
    while (lo < w && !inside(r, row + lo)) lo++;
    if (lo == w) return;
    while (hi - 8 > lo && !inside8(r, row + hi - 8)) hi -= 8;
    while (!inside(r, row + hi - 1)) hi--;
    if (r->y1 == 0) r->y0 = y;
    r->y1 = y + 1;
    if (lo < r->x0) r->x0 = lo;
    if (hi > r->x1) r->x1 = hi;
}

static struct region region_of(const uint8_t *mask, const uint8_t *less, int32_t h, int32_t w)
{
    struct region r = { .mask = mask, .less = less, .stride = w, .x0 = w };

    for (int32_t y = 0; y < h; y++) box_row(&r, y, w);
    return r;
}

/* column: (box rows, box columns). Outside the box nothing is inside, so it needs no pixel more. */
static void column_pass(uint16_t *column, const struct region *r)
{
    const int32_t w = r->x1 - r->x0, h = r->y1 - r->y0;

    for (int32_t y = 0; y < h; y++) {
        const int64_t from = (int64_t)(y + r->y0) * r->stride + r->x0;
        uint16_t *row = column + (int64_t)y * w;

        for (int32_t x = 0; x < w; x++) {
            const uint16_t above = y ? row[x - w] : 0;

            row[x] = inside(r, from + x) ? (uint16_t)(above + 1) : 0;
        }
    }
    for (int32_t y = h - 1; y >= 0; y--) {
        uint16_t *row = column + (int64_t)y * w;

        for (int32_t x = 0; x < w; x++) {
            const int32_t below = y + 1 < h ? row[x + w] + 1 : 1;

            if (row[x] > below) row[x] = (uint16_t)below;
        }
    }
}

static int64_t parabola(const uint16_t *row, int32_t w, int32_t i, int32_t x)
{
    const int64_t height = i >= 0 && i < w ? row[i] : 0, across = x - i;

    return across * across + height * height;
}

/* The first x at which parabola i is below or level with parabola j < i. */
static int64_t crossing(const uint16_t *row, int32_t w, int32_t j, int32_t i)
{
    const int64_t a = parabola(row, w, j, 0), b = parabola(row, w, i, 0), d = 2 * (int64_t)(i - j);
    const int64_t n = b - a;

    return n <= 0 ? -(-n / d) : (n + d - 1) / d;
}

/* squared[x] of one row, 0 ≤ x < w; the pixels at −1 and w are outside. line: (2, w + 2). */
static void row_pass(int32_t *squared, const uint16_t *row, int32_t w, int32_t *line)
{
    int32_t *const which = line, *const from = line + w + 2; /* parabola, and where it takes over */
    int32_t n = 1;

    which[0] = -1;
    from[0] = 0;
    for (int32_t i = 0; i <= w; i++) {
        int64_t at = 0;

        while (n > 0) {
            at = crossing(row, w, which[n - 1], i);
            if (at > from[n - 1]) break;
            n--;
        }
        if (n == 0) at = 0;
        if (at >= w) continue;
        which[n] = i;
        from[n++] = (int32_t)at;
    }
    for (int32_t x = w - 1; x >= 0; x--) {
        while (from[n - 1] > x) n--;
        squared[x] = (int32_t)parabola(row, w, which[n - 1], x);
    }
}

void distance_transform(struct distance *d, const uint8_t *mask, int32_t h, int32_t w,
                        int32_t *squared)
{
    const struct region r = region_of(mask, NULL, h, w);
    const int32_t box_w = r.x1 - r.x0;

    ASSERT((int64_t)h * w <= d->n_column && 3 * ((int64_t)w + 2) <= d->n_line);
    memset(squared, 0, (size_t)h * (size_t)w * sizeof *squared);
    if (box_w <= 0) return;
    column_pass(d->column, &r);
    for (int32_t y = r.y0; y < r.y1; y++)
        row_pass(squared + (int64_t)y * w + r.x0, d->column + (int64_t)(y - r.y0) * box_w, box_w,
                 d->line);
}

/* No pixel of the row is deeper than this: the least of its distances up, down, left and right. */
static int32_t row_bound(const uint16_t *row, int32_t w, int32_t *left)
{
    int32_t run = 0, bound = 0;

    for (int32_t x = 0; x < w; x++) {
        run = row[x] ? run + 1 : 0;
        left[x] = run < row[x] ? run : row[x];
    }
    run = 0;
    for (int32_t x = w - 1; x >= 0; x--) {
        run = row[x] ? run + 1 : 0;
        const int32_t least = run < left[x] ? run : left[x];
        if (least > bound) bound = least;
    }
    return bound;
}

static struct distance_peak peak_of(struct distance *d, const uint8_t *mask, const uint8_t *less,
                                    int32_t h, int32_t w)
{
    const struct region r = region_of(mask, less, h, w);
    const int32_t box_w = r.x1 - r.x0;
    struct distance_peak peak = { 0 };

    ASSERT((int64_t)h * w <= d->n_column && 3 * ((int64_t)w + 2) <= d->n_line);
    if (box_w <= 0) return peak;
    column_pass(d->column, &r);
    for (int32_t y = r.y0; y < r.y1; y++) {
        const uint16_t *row = d->column + (int64_t)(y - r.y0) * box_w;
        int32_t *const squared = d->line + 2 * (int64_t)(box_w + 2);
        const int64_t bound = row_bound(row, box_w, squared);

        if (bound * bound <= peak.squared) continue;
        row_pass(squared, row, box_w, d->line);
        for (int32_t x = 0; x < box_w; x++)
            if (squared[x] > peak.squared) peak = (struct distance_peak){ squared[x], r.x0 + x, y };
    }
    return peak;
}

struct distance_peak distance_peak(struct distance *d, const uint8_t *mask, int32_t h, int32_t w)
{
    return peak_of(d, mask, NULL, h, w);
}

struct distance_click distance_click(struct distance *d, const uint8_t *truth, const uint8_t *guess,
                                     int32_t h, int32_t w)
{
    const struct distance_peak missing = peak_of(d, truth, guess, h, w);
    const struct distance_peak excess = peak_of(d, guess, truth, h, w);
    const bool positive = missing.squared > excess.squared;
    const struct distance_peak deeper = positive ? missing : excess;

    return (struct distance_click){ deeper.x, deeper.y, positive, deeper.squared > 0 };
}
