/* When finite losses are a divergence: not at the beginning of a run, not for a step, not for half of them. */
#include "trainer/divergence.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct config config;

static int begin(void **state)
{
    (void)state;
    config_defaults(&config);
    return 0;
}

static void the_bound_is_that_of_no_answer(void **state)
{
    const double focal = 0.75 * 0.25 * 0.69314718056; /* of background: more than of foreground */

    (void)state;
    config.train_rounds = 11;
    /* relative, of ln 2 to twelve digits */
    assert_true(fabs(divergence_of(&config).bound / (10 * 11 * (20 * focal + 1 + 1)) - 1) < 1e-11);
    config.loss_focal_alpha = 0.9;
    config.loss_focal_gamma = 0;
    config.loss_w_dice = 3;
    config.loss_w_iou = 0;
    assert_true(fabs(divergence_of(&config).bound / (10 * 11 * (20 * 0.9 * 0.69314718056 + 3)) -
                     1) < 1e-11);
}

static void eleven_of_twenty(void **state)
{
    struct divergence d = divergence_of(&config);
    const double good = d.bound, bad = nextafter(d.bound, INFINITY);

    (void)state;
    for (int i = 0; i < 10; i++) assert_int_equal(divergence_judge(&d, i + 1, bad, -1), OK);
    for (int i = 0; i < 10; i++) assert_int_equal(divergence_judge(&d, i + 11, good, -1), OK);
    assert_int_equal(divergence_count(&d), 10);
    for (int i = 0; i < 10; i++) { /* a bad one comes for a bad one that goes */
        assert_int_equal(divergence_judge(&d, i + 21, bad, -1), OK);
        assert_int_equal(divergence_count(&d), 10);
    }
    assert_int_equal(divergence_judge(&d, 31, bad, -1), E_DIVERGED);
    d = divergence_of(&config);
    for (int i = 0; i < 10; i++) assert_int_equal(divergence_judge(&d, i + 1, bad, -1), OK);
    assert_int_equal(divergence_judge(&d, 11, bad, -1), E_DIVERGED);
}

static void a_spike_is_forgotten(void **state)
{
    struct divergence d = divergence_of(&config);

    (void)state;
    assert_int_equal(divergence_judge(&d, 1, 1e300, -1), OK);
    for (int i = 0; i < DIVERGENCE_STEPS - 1; i++) {
        assert_int_equal(divergence_count(&d), 1);
        divergence_add(&d, 1);
    }
    assert_int_equal(divergence_count(&d), 1);
    divergence_add(&d, 1);
    assert_int_equal(divergence_count(&d), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_bound_is_that_of_no_answer, begin),
        cmocka_unit_test_setup(eleven_of_twenty, begin),
        cmocka_unit_test_setup(a_spike_is_forgotten, begin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
