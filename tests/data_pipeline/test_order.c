/* The sample order: each image once an epoch, the same on any split, another for another seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data_pipeline/order.h"

enum { SEED = 1234 };

static void each_image_once_an_epoch(void **state)
{
    static const int64_t sizes[] = { 1, 2, 3, 7, 8, 63, 64, 65, 257, 1000, 4096, 11186 };

    (void)state;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int64_t n = sizes[k];
        char *seen = calloc((size_t)n, 1);

        assert_non_null(seen);
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            memset(seen, 0, (size_t)n);
            for (int64_t i = 0; i < n; i++) {
                const struct order_place p = order_at(SEED, n, epoch * n + i);

                assert_int_equal(p.epoch, epoch);
                assert_in_range(p.image, 0, n - 1);
                assert_int_equal(seen[p.image]++, 0);
            }
        }
        free(seen);
    }
}

/* Positions that two orders share; by chance about one. */
static int64_t n_same(uint64_t seed_a, int64_t epoch_a, uint64_t seed_b, int64_t epoch_b, int64_t n)
{
    int64_t same = 0;

    for (int64_t i = 0; i < n; i++)
        same += order_at(seed_a, n, epoch_a * n + i).image ==
                order_at(seed_b, n, epoch_b * n + i).image;
    return same;
}

static void epochs_and_seeds_differ(void **state)
{
    const int64_t n = 1000;
    int64_t fixed = 0;

    (void)state;
    assert_int_equal(n_same(SEED, 0, SEED, 0, n), n);
    assert_true(n_same(SEED, 0, SEED, 1, n) < 12);
    assert_true(n_same(SEED, 0, SEED + 1, 0, n) < 12);
    for (int64_t i = 0; i < n; i++) fixed += order_at(SEED, n, i).image == i;
    assert_true(fixed < 12);
}

/* Each position is equally likely to get each image: χ² over seeds, for a size that is no power. */
static void images_are_spread_evenly(void **state)
{
    enum { N = 11, SEEDS = 4400 };
    double chi = 0;

    (void)state;
    for (int64_t position = 0; position < N; position++) {
        int64_t count[N] = { 0 };

        for (uint64_t seed = 0; seed < SEEDS; seed++) count[order_at(seed, N, position).image]++;
        for (int i = 0; i < N; i++) {
            const double d = (double)count[i] - (double)SEEDS / N;

            chi += d * d * N / SEEDS;
        }
    }
    /* about 100 degrees of freedom, σ ≈ 14 */
    assert_true(chi > 100 - 6 * 14 && chi < 100 + 6 * 14);
}

/* Slots of a step split over ranks: together they are the same slots with the same images. */
static void same_on_any_number_of_ranks(void **state)
{
    static const int64_t ranks[] = { 1, 2, 3, 4, 7 };
    enum { BATCH = 10, STEPS = 40, N = 173 };
    int64_t want[STEPS * BATCH], got[STEPS * BATCH];

    (void)state;
    for (int64_t g = 0; g < STEPS * BATCH; g++) want[g] = order_at(SEED, N, g).image;
    for (size_t k = 0; k < sizeof ranks / sizeof *ranks; k++) {
        memset(got, -1, sizeof got);
        for (int64_t rank = 0; rank < ranks[k]; rank++)
            for (int64_t step = 0; step < STEPS; step++)
                for (int64_t slot = BATCH * rank / ranks[k]; slot < BATCH * (rank + 1) / ranks[k];
                     slot++) {
                    const int64_t g = step * BATCH + slot;

                    assert_int_equal(got[g], -1);
                    got[g] = order_at(SEED, N, g).image;
                }
        assert_memory_equal(got, want, sizeof got);
    }
}

/* The order is part of every recorded run: it must not change unnoticed. */
static void known_answers(void **state)
{
    static const int64_t want[8] = { 55915, 584884, 834863, 724601, 85864, 366770, 252456, 684388 };

    (void)state;
    for (int64_t g = 0; g < 8; g++)
        assert_int_equal(order_at(42, 1000003, g * 300000).image, want[g]);
}

static void masks_are_different_and_ascend(void **state)
{
    int32_t chosen[80], again[80];

    (void)state;
    for (int64_t n = 0; n < 300; n++) {
        const struct order_place p = { n % 3, n };
        const int64_t k = order_masks(SEED, p, n, 64, chosen);

        assert_int_equal(k, n < 64 ? n : 64);
        for (int64_t i = 0; i < k; i++) {
            assert_in_range(chosen[i], 0, n - 1);
            assert_true(i == 0 || chosen[i] > chosen[i - 1]);
        }
        assert_int_equal(order_masks(SEED, p, n, 64, again), k);
        assert_memory_equal(again, chosen, (size_t)k * sizeof *chosen);
    }
    assert_int_equal(order_masks(SEED, (struct order_place){ 0, 0 }, 5, 0, chosen), 0);
}

static void masks_are_spread_evenly(void **state)
{
    enum { N = 13, K = 5, DRAWS = 6500 };
    int64_t count[N] = { 0 };
    int32_t chosen[K];
    double chi = 0;

    (void)state;
    for (int64_t i = 0; i < DRAWS; i++) {
        const struct order_place p = { i / 100, i % 100 };

        order_masks(SEED, p, N, K, chosen);
        for (int j = 0; j < K; j++) count[chosen[j]]++;
    }
    for (int i = 0; i < N; i++) {
        const double mean = (double)DRAWS * K / N, d = (double)count[i] - mean;

        chi += d * d / (mean * (1 - (double)K / N));
    }
    /* 12 degrees of freedom: above 40 once in 10,000 seeds */
    assert_true(chi < 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_image_once_an_epoch),
        cmocka_unit_test(epochs_and_seeds_differ),
        cmocka_unit_test(images_are_spread_evenly),
        cmocka_unit_test(same_on_any_number_of_ranks),
        cmocka_unit_test(known_answers),
        cmocka_unit_test(masks_are_different_and_ascend),
        cmocka_unit_test(masks_are_spread_evenly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
