#include "data_pipeline/rle.h"

#include "kernels/base/check.h"

#include <stdbool.h>
#include <string.h>

enum {
    GROUP_BITS = 5, /* payload of one character */
    GROUPS_MAX = 7, /* 35 bits: more than any run needs, and no shift can overflow */
    CHAR_FIRST = 48,
    CHAR_COUNT = 64,
    MORE = 0x20, /* another group follows */
    SIGN = 0x10  /* in the last group: the number is negative */
};

static enum status refuse(const char **why, const char *reason)
{
    *why = reason;
    return E_CORRUPT;
}

enum status rle_decode(const char *text, int64_t n_text, int32_t h, int32_t w, int32_t *runs,
                       int64_t max_runs, int64_t *n_runs, const char **why)
{
    const unsigned char *p = (const unsigned char *)text, *const end = p + n_text;
    int64_t n = 0, left;

    if (h < 1 || w < 1 || h > RLE_SIDE_MAX || w > RLE_SIDE_MAX || (int64_t)h * w > RLE_AREA_MAX)
        return refuse(why, "mask size out of range");
    left = (int64_t)h * w;
    while (p < end) {
        uint32_t c = (uint32_t)*p++ - CHAR_FIRST;
        int64_t x = (int64_t)(c & (MORE - 1));
        int shift = GROUP_BITS;

        if (c >= CHAR_COUNT) return refuse(why, "RLE has a character outside 48…111");
        while (c & MORE) {
            if (p == end) return refuse(why, "RLE ends inside a number");
            if (shift == GROUP_BITS * GROUPS_MAX) return refuse(why, "RLE has an overlong number");
            c = (uint32_t)*p++ - CHAR_FIRST;
            if (c >= CHAR_COUNT) return refuse(why, "RLE has a character outside 48…111");
            x |= (int64_t)(c & (MORE - 1)) << shift;
            shift += GROUP_BITS;
        }
        if (c & SIGN) x -= (int64_t)1 << shift;
        if (n == max_runs) return refuse(why, "RLE has more runs than allowed");
        if (n > 2) x += runs[n - 2];
        if (x < 0) return refuse(why, "RLE has a negative run");
        if (x > left) return refuse(why, "RLE runs exceed the mask's size");
        left -= x;
        runs[n++] = (int32_t)x;
    }
    if (left != 0) return refuse(why, "RLE runs do not fill the mask's size");
    *n_runs = n;
    return OK;
}

enum status rle_encode(const int32_t *runs, int64_t n_runs, char *text, int64_t max_text,
                       int64_t *n_text)
{
    int64_t n = 0;

    for (int64_t i = 0; i < n_runs; i++) {
        int64_t x = runs[i];
        bool more = true;

        if (i > 2) x -= runs[i - 2];
        while (more) {
            uint32_t c = (uint32_t)(x & (MORE - 1));

            x >>= GROUP_BITS; /* arithmetic: keeps the sign */
            more = (c & SIGN) ? x != -1 : x != 0;
            if (more) c |= MORE;
            if (n == max_text) return E_MEMORY;
            text[n++] = (char)(c + CHAR_FIRST);
        }
    }
    *n_text = n;
    return OK;
}

struct rle_extent rle_extent(const int32_t *runs, int64_t n_runs, int32_t h)
{
    struct rle_extent e = { .x0 = INT32_MAX, .y0 = INT32_MAX };
    int64_t at = 0;

    for (int64_t i = 0; i < n_runs; i++) {
        const int64_t first = at, last = at + runs[i] - 1;
        int32_t x, y, x_last, y_last;

        at += runs[i];
        if (!(i & 1) || runs[i] == 0) continue;
        e.area += runs[i];
        x = (int32_t)((uint32_t)first / (uint32_t)h);
        y = (int32_t)((uint32_t)first % (uint32_t)h);
        x_last = (int32_t)((uint32_t)last / (uint32_t)h);
        y_last = (int32_t)((uint32_t)last % (uint32_t)h);
        if (x_last > x) { /* goes round a column's end */
            y = 0;
            y_last = h - 1;
        }
        if (x < e.x0) e.x0 = x;
        if (y < e.y0) e.y0 = y;
        if (x_last + 1 > e.x1) e.x1 = x_last + 1;
        if (y_last + 1 > e.y1) e.y1 = y_last + 1;
    }
    if (e.area == 0) e = (struct rle_extent){ 0 };
    return e;
}

enum status rle_from_pixels(const uint8_t *pixels, int32_t h, int32_t w, int32_t *runs,
                            int64_t max_runs, int64_t *n_runs)
{
    int64_t n = 0;
    int32_t run = 0;
    bool inside = false;

    ASSERT(h >= 1 && w >= 1 && (int64_t)h * w <= RLE_AREA_MAX);
    for (int32_t x = 0; x < w; x++) {
        const uint8_t *p = pixels + x;

        for (int32_t y = 0; y < h; y++, p += w) {
            if ((*p != 0) != inside) {
                if (n == max_runs) return E_MEMORY;
                runs[n++] = run;
                run = 0;
                inside = !inside;
            }
            run++;
        }
    }
    if (n == max_runs) return E_MEMORY;
    runs[n++] = run;
    *n_runs = n;
    return OK;
}

void rle_to_pixels(const int32_t *runs, int64_t n_runs, int32_t h, int32_t w, uint8_t *pixels)
{
    int64_t at = 0;

    memset(pixels, 0, (size_t)h * (size_t)w);
    for (int64_t i = 0; i < n_runs; i++) {
        if (i & 1) {
            int64_t x = at / h, y = at % h;

            for (int32_t k = 0; k < runs[i]; k++) {
                pixels[y * w + x] = 1;
                if (++y == h) {
                    y = 0;
                    x++;
                }
            }
        }
        at += runs[i];
    }
}
