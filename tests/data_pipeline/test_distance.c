/* Distances against brute force, the deepest pixel and the click against the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/distance.h"
#include "kernels/base/rng.h"

enum { SIDE = 34 };

/* Squared distance to the nearest pixel outside, those one step beyond the border included. */
static int32_t brute(const uint8_t *mask, int32_t h, int32_t w, int32_t x, int32_t y)
{
    int32_t best = INT32_MAX;

    for (int32_t j = -1; j <= h; j++) {
        for (int32_t i = -1; i <= w; i++) {
            const int inside = j >= 0 && j < h && i >= 0 && i < w && mask[j * w + i];
            const int32_t r2 = (i - x) * (i - x) + (j - y) * (j - y);

            if (!inside && r2 < best) best = r2;
        }
    }
    return best;
}

static struct distance_peak brute_peak(const uint8_t *mask, int32_t h, int32_t w)
{
    struct distance_peak peak = { 0 };

    for (int32_t y = 0; y < h; y++)
        for (int32_t x = 0; x < w; x++) {
            const int32_t r2 = brute(mask, h, w, x, y);

            if (r2 > peak.squared) peak = (struct distance_peak){ r2, x, y };
        }
    return peak;
}

/* Speckle of any density, cut to a disc now and then so that boxes are smaller than the image. */
static void draw(uint8_t *mask, int32_t h, int32_t w, uint64_t n)
{
    static const float density[] = { 0, 0.2f, 0.8f, 0.97f, 1 };
    const struct rng_key key = rng_stream(3, RNG_TEST, n, 1);
    const int32_t radius = (int32_t)rng_below(key, 0, SIDE);

    for (int32_t y = 0; y < h; y++)
        for (int32_t x = 0; x < w; x++) {
            const int32_t r2 = (x - w / 3) * (x - w / 3) + (y - h / 2) * (y - h / 2);
            const float u = rng_uniform(key, (uint64_t)(1 + y * w + x));

            mask[y * w + x] = u < density[n % 5] && (n % 2 || r2 < radius * radius);
        }
}

static void draw_size(uint64_t n, int32_t *h, int32_t *w)
{
    const struct rng_key key = rng_stream(3, RNG_TEST, n, 0);

    *h = 1 + (int32_t)rng_below(key, 0, SIDE);
    *w = 1 + (int32_t)rng_below(key, 1, SIDE);
}

static void test_brute_force(void **state)
{
    struct distance d = { 0 };
    uint8_t mask[SIDE * SIDE];
    int32_t squared[SIDE * SIDE], h, w;

    (void)state;
    for (uint64_t n = 0; n < 60; n++) {
        draw_size(n, &h, &w);
        draw(mask, h, w, n);
        assert_int_equal(distance_reserve(&d, h, w), OK);
        distance_transform(&d, mask, h, w, squared);
        for (int32_t y = 0; y < h; y++)
            for (int32_t x = 0; x < w; x++)
                assert_int_equal(squared[y * w + x], brute(mask, h, w, x, y));

        const struct distance_peak want = brute_peak(mask, h, w),
                                   got = distance_peak(&d, mask, h, w);
        assert_int_equal(got.squared, want.squared);
        assert_int_equal(got.x, want.x);
        assert_int_equal(got.y, want.y);
    }
    distance_destroy(&d);
}

static void test_click(void **state)
{
    struct distance d = { 0 };
    uint8_t truth[SIDE * SIDE], guess[SIDE * SIDE], missing[SIDE * SIDE], excess[SIDE * SIDE];
    int32_t h, w, n_positive = 0, n_negative = 0;

    (void)state;
    assert_int_equal(distance_reserve(&d, SIDE, SIDE), OK);
    for (uint64_t n = 0; n < 60; n++) {
        draw_size(n, &h, &w);
        draw(truth, h, w, n);
        draw(guess, h, w, n * 7 + 3);
        for (int32_t i = 0; i < h * w; i++) {
            missing[i] = truth[i] && !guess[i];
            excess[i] = guess[i] && !truth[i];
        }
        const struct distance_peak fn = brute_peak(missing, h, w), fp = brute_peak(excess, h, w);
        const struct distance_peak want = fn.squared > fp.squared ? fn : fp;
        const struct distance_click got = distance_click(&d, truth, guess, h, w);

        assert_int_equal(got.found, want.squared > 0);
        if (!got.found) continue;
        assert_int_equal(got.positive, fn.squared > fp.squared);
        assert_int_equal(got.x, want.x);
        assert_int_equal(got.y, want.y);
        n_positive += got.positive;
        n_negative += !got.positive;
    }
    assert_true(n_positive > 5 && n_negative > 5);
    distance_destroy(&d);
}

/* A tie is negative, and of equally deep pixels the first in row-major order is taken. */
static void test_ties(void **state)
{
    static const uint8_t truth[9 * 2] = { 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0 };
    static const uint8_t guess[9 * 2] = { 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1 };
    struct distance d = { 0 };

    (void)state;
    assert_int_equal(distance_reserve(&d, 2, 9), OK);
    const struct distance_peak p = distance_peak(&d, truth, 2, 9);
    assert_int_equal(p.squared, 1);
    assert_int_equal(p.x, 0);
    assert_int_equal(p.y, 0);
    const struct distance_click c = distance_click(&d, truth, guess, 2, 9);
    assert_true(c.found && !c.positive);
    assert_int_equal(c.x, 6);
    assert_int_equal(c.y, 0);
    distance_destroy(&d);
}

/* A mask as large as images get: squares are far beyond 16 bits. */
static void test_large(void **state)
{
    enum { H = 2048, W = 4096 };
    struct distance d = { 0 };
    uint8_t *mask = malloc((size_t)H * W);

    (void)state;
    assert_non_null(mask);
    memset(mask, 1, (size_t)H * W);
    assert_int_equal(distance_reserve(&d, H, W), OK);
    const struct distance_peak p = distance_peak(&d, mask, H, W);
    assert_int_equal(p.squared, 1024 * 1024);
    assert_int_equal(p.x, 1023);
    assert_int_equal(p.y, 1023);
    assert_int_equal(distance_reserve(&d, 1, DISTANCE_SIDE_MAX + 1), E_SHAPE);
    free(mask);
    distance_destroy(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),
        cmocka_unit_test(test_click),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
