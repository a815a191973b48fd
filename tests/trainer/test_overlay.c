/* Drawing stays inside the picture wherever it is asked to go, and colours what it should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/overlay.h"

enum { H = 30, W = 40, GUARD = 4096 };

/* A grey picture in the middle of guard bytes. */
struct canvas {
    uint8_t bytes[GUARD + H * W * 3 + GUARD];
    struct picture p;
};

static void fresh(struct canvas *c)
{
    memset(c->bytes, 0xA5, sizeof c->bytes);
    c->p = (struct picture){ c->bytes + GUARD, H, W, H * W * 3 };
    memset(c->p.rgb, 100, H * W * 3);
}

static int n_changed(const struct canvas *c)
{
    int n = 0;

    for (int i = 0; i < GUARD; i++)
        assert_true(c->bytes[i] == 0xA5 && c->bytes[GUARD + H * W * 3 + i] == 0xA5);
    for (int i = 0; i < H * W; i++) {
        const uint8_t *rgb = c->p.rgb + 3 * i;

        n += rgb[0] != 100 || rgb[1] != 100 || rgb[2] != 100;
    }
    return n;
}

static void test_clipping(void **state)
{
    static const double at[] = { -1e9, -50, -3, 0, 15, 29.5, 39.5, 45, 1e9, NAN, INFINITY };
    enum { N = sizeof at / sizeof *at };
    static struct canvas c;

    (void)state;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            fresh(&c);
            overlay_point(&c.p, at[i], at[k], i % 2);
            n_changed(&c);
        }
    }
}

static void test_mask(void **state)
{
    static struct canvas c;
    static uint8_t mask[H * W];

    (void)state;
    for (int y = 5; y < 15; y++)
        for (int x = 10; x < 30; x++) mask[y * W + x] = 1;
    fresh(&c);
    overlay_contour(&c.p, mask, 2);
    assert_int_equal(n_changed(&c), 2 * (20 + 10) - 4);
    fresh(&c);
    overlay_mask(&c.p, mask, 2, 0.5f);
    assert_int_equal(n_changed(&c), 20 * 10);
    assert_int_equal(c.p.rgb[(10 * W + 20) * 3 + 2], 178); /* half way from 100 to 255 */
}

static void test_point(void **state)
{
    static struct canvas c;

    (void)state;
    fresh(&c);
    overlay_point(&c.p, 20.5, 15.5, true);
    const uint8_t *off = c.p.rgb + ((15 + 4) * W + 20 + 3) * 3; /* off the plus */
    assert_true(off[1] > off[0] && off[1] > off[2]);
    fresh(&c);
    overlay_point(&c.p, 20.5, 15.5, false);
    assert_true(off[0] > off[1] && off[0] > off[2]);
    assert_true(n_changed(&c) > 50);
}

static void test_beside(void **state)
{
    static struct canvas c;
    uint8_t small[2 * 3 * 3];
    const struct picture s = { small, 2, 3, sizeof small };
    const struct picture *pictures[] = { &c.p, &s };
    struct picture out = { 0 };

    (void)state;
    fresh(&c);
    memset(small, 7, sizeof small);
    assert_int_equal(overlay_beside(&out, pictures, 2, 4), OK);
    assert_int_equal(out.height, H + 8);
    assert_int_equal(out.width, W + 3 + 12);
    assert_int_equal(out.rgb[0], 255);
    assert_int_equal(out.rgb[(4 * out.width + 4) * 3], 100);
    assert_int_equal(out.rgb[((4 + H - 1) * out.width + 4 + W - 1) * 3], 100);
    assert_int_equal(out.rgb[(4 * out.width + 8 + W) * 3], 7);
    assert_int_equal(out.rgb[(6 * out.width + 8 + W) * 3], 255);
    picture_destroy(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_point),
        cmocka_unit_test(test_beside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
