/* Mask texts from outside, against the naive bitmap: whatever the bytes, a refusal or runs that
 * fill the mask exactly, whose extent the pixels have too, and which survive a round trip.
 *
 * Input: height − 1, width − 1 (one byte each), the text. */
#include "data_pipeline/rle.h"
#include "kernels/base/check.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rle_extent naive_extent(const uint8_t *pixels, int32_t h, int32_t w)
{
    struct rle_extent e = { .x0 = w, .y0 = h };

    for (int32_t y = 0; y < h; y++)
        for (int32_t x = 0; x < w; x++) {
            if (!pixels[y * w + x]) continue;
            e.area++;
            if (x < e.x0) e.x0 = x;
            if (y < e.y0) e.y0 = y;
            if (x >= e.x1) e.x1 = x + 1;
            if (y >= e.y1) e.y1 = y + 1;
        }
    return e.area ? e : (struct rle_extent){ 0 };
}

static void check_pixels(const int32_t *runs, int64_t n, int32_t h, int32_t w)
{
    static uint8_t pixels[SIDE * SIDE], back[SIDE * SIDE];
    static int32_t again[SIDE * SIDE + 1];
    const struct rle_extent e = rle_extent(runs, n, h);
    struct rle_extent naive;
    int64_t n_again;

    rle_to_pixels(runs, n, h, w, pixels);
    naive = naive_extent(pixels, h, w);
    ASSERT(memcmp(&e, &naive, sizeof e) == 0);
    ASSERT(rle_from_pixels(pixels, h, w, again, SIDE * SIDE + 1, &n_again) == OK);
    rle_to_pixels(again, n_again, h, w, back);
    ASSERT(memcmp(pixels, back, (size_t)(h * w)) == 0);
}

static void check_text(const int32_t *runs, int64_t n, int32_t h, int32_t w)
{
    char *const text = malloc((size_t)(7 * n) + 1);
    int32_t *const again = malloc((size_t)n * sizeof *again + 1);
    int64_t n_text = 0, n_again = 0;
    const char *why;

    ASSERT(text && again);
    ASSERT(rle_encode(runs, n, text, 7 * n, &n_text) == OK);
    ASSERT(rle_decode(text, n_text, h, w, again, n, &n_again, &why) == OK);
    ASSERT(n_again == n && memcmp(runs, again, (size_t)n * sizeof *runs) == 0);
    free(text);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *why = NULL;
    int64_t n = 0, sum = 0, n_text;
    int32_t h, w, *runs;
    char *text;

    if (size < 2) return 0;
    h = data[0] + 1;
    w = data[1] + 1;
    n_text = (int64_t)size - 2;
    text = malloc((size_t)n_text + (n_text == 0)); /* exactly sized: a byte too far is seen */
    runs = malloc((size_t)n_text * sizeof *runs + (n_text == 0));
    ASSERT(text && runs);
    memcpy(text, data + 2, (size_t)n_text);
    if (rle_decode(text, n_text, h, w, runs, rle_max_runs(n_text), &n, &why) == OK) {
        for (int64_t i = 0; i < n; i++) {
            ASSERT(runs[i] >= 0);
            sum += runs[i];
        }
        ASSERT(sum == (int64_t)h * w);
        check_pixels(runs, n, h, w);
        check_text(runs, n, h, w);
    } else {
        ASSERT(why);
    }
    free(text);
    free(runs);
    return 0;
}
