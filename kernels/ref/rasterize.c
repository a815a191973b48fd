#include "kernels/rasterize.h"

#include <string.h>

#include "kernels/rasterize_check.h"

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Runs to a column-major bitmap of n pixels; what would lie behind its end is dropped. */
static void decode(uint8_t *bitmap, int64_t n, const int32_t *runs, int64_t n_runs)
{
    int64_t at = 0;

    memset(bitmap, 0, (size_t)n);
    for (int64_t k = 0; k < n_runs; k++) {
        const int64_t run = min_of(runs[k], n - at);

        if (k & 1) memset(bitmap + at, 1, (size_t)run);
        at += run;
    }
}

/* Masked area of the cell of rows [y0,y1) and columns [x0,x1), all in 1/65536 pixel. */
static int64_t covered(const uint8_t *bitmap, int64_t h, int64_t w, int64_t y0, int64_t y1,
                       int64_t x0, int64_t x1)
{
    const int64_t P = RASTERIZE_PIXEL;
    int64_t sum = 0;

    for (int64_t c = x0 / P; c < w && c * P < x1; c++) {
        const int64_t wide = min_of(x1, (c + 1) * P) - (x0 > c * P ? x0 : c * P);

        for (int64_t r = y0 / P; r < h && r * P < y1; r++) {
            const int64_t tall = min_of(y1, (r + 1) * P) - (y0 > r * P ? y0 : r * P);

            if (bitmap[c * h + r]) sum += wide * tall;
        }
    }
    return sum;
}

enum status rasterize_ref(struct tensor gt, struct tensor runs, struct tensor first,
                          struct tensor geometry, struct stream *s)
{
    uint8_t *bitmap;

    TRY(rasterize_check(gt, runs, first, geometry));

    const int32_t *g = geometry.data;
    const int64_t M = gt.dim[0], R = gt.dim[1], h = g[RASTERIZE_H], w = g[RASTERIZE_W];
    const int64_t nh = g[RASTERIZE_NH], nw = g[RASTERIZE_NW], S = g[RASTERIZE_S];

    STREAM_SCRATCH(s, bitmap, h * w);

    const int64_t *f = first.data;

    for (int64_t m = 0; m < M; m++) {
        uint8_t *out = (uint8_t *)gt.data + m * R * R;

        decode(bitmap, h * w, (const int32_t *)runs.data + f[m], f[m + 1] - f[m]);
        for (int64_t i = 0; i < R; i++) {
            const int64_t y0 = rasterize_edge(i, R, S, h, nh);
            const int64_t y1 = rasterize_edge(i + 1, R, S, h, nh);

            for (int64_t j = 0; j < R; j++) {
                const int64_t x0 = rasterize_edge(j, R, S, w, nw);
                const int64_t x1 = rasterize_edge(j + 1, R, S, w, nw);

                out[i * R + j] = 2 * covered(bitmap, h, w, y0, y1, x0, x1) >= (y1 - y0) * (x1 - x0);
            }
        }
    }
    return OK;
}
