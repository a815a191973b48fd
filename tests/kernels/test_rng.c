/* The random numbers everything else is drawn from: known answers, distribution, separate streams. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/rng.h"
#include "tests/check.h"

enum { DRAWS = 200000 };

/* Random123 1.14, kat_vectors, philox4x32 10. */
static void test_known_answers(void)
{
    static const struct {
        uint64_t index, stream, seed;
        uint32_t v[4];
    } known[] = {
        { 0, 0, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { ~0ull, ~0ull, ~0ull, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { 0x85a308d3243f6a88ull,
          0x0370734413198a2eull,
          0x299f31d0a4093822ull,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct rng_key key = { known[i].seed, known[i].stream };
        const struct rng_block b = rng_philox(key, known[i].index);

        CHECK_SAME_BITS(b.v, known[i].v, sizeof b.v);
    }
    for (uint64_t i = 0; i < 8; i++) {
        const struct rng_key key = { 1, 2 };

        CHECK(rng_u32(key, i) == rng_philox(key, i / 4).v[i % 4]);
    }
}

/* Chi-square over 64 cells: 63 degrees of freedom, below 63 + 6·√126 but for one in 10^7. */
static void test_uniform(void)
{
    const struct rng_key key = rng_stream(7, RNG_TEST, 0, 0);
    double cells[64] = { 0 }, below[10] = { 0 }, chi = 0, chi_below = 0;

    for (uint64_t i = 0; i < DRAWS; i++) {
        const float u = rng_uniform(key, i);
        const uint32_t n = rng_below(key, i, 10);

        CHECK(u >= 0 && u < 1);
        CHECK(n < 10);
        if (!(u >= 0 && u < 1) || n >= 10) return;
        cells[(int)(u * 64)]++;
        below[n]++;
    }
    for (int c = 0; c < 64; c++) chi += pow(cells[c] - DRAWS / 64.0, 2) / (DRAWS / 64.0);
    for (int c = 0; c < 10; c++) chi_below += pow(below[c] - DRAWS / 10.0, 2) / (DRAWS / 10.0);
    CHECK(chi <= 63 + 6 * sqrt(126));
    CHECK(chi >= 63 - 6 * sqrt(126));
    CHECK(chi_below <= 9 + 6 * sqrt(18));
    CHECK(rng_below(key, 0, 1) == 0);
}

/* Twelve uniforms: variance 1, fourth moment 3 − 6/(5·12). Bounds are six standard errors. */
static void test_normals(void)
{
    const struct rng_key key = rng_stream(8, RNG_TEST, 0, 0);
    double near[5] = { 0 }, exact[5] = { 0 };

    for (uint64_t i = 0; i < DRAWS; i++) {
        const double x = rng_near_normal(key, i), y = rng_normal(key, i);

        CHECK(fabs(x) < 6);
        CHECK(isfinite(y));
        for (int k = 1; k <= 4; k++) {
            near[k] += pow(x, k) / DRAWS;
            exact[k] += pow(y, k) / DRAWS;
        }
    }
    CHECK(fabs(near[1]) <= 6 / sqrt(DRAWS));
    CHECK(fabs(near[2] - 1) <= 6 * sqrt(1.9 / DRAWS));
    CHECK(fabs(near[3]) <= 6 * sqrt(15.0 / DRAWS));
    CHECK(fabs(near[4] - 2.9) <= 6 * sqrt(96.0 / DRAWS));
    CHECK(fabs(exact[1]) <= 6 / sqrt(DRAWS));
    CHECK(fabs(exact[2] - 1) <= 6 * sqrt(2.0 / DRAWS));
    CHECK(fabs(exact[4] - 3) <= 6 * sqrt(96.0 / DRAWS));
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Every use, place and part has a stream of its own. */
static void test_streams(void)
{
    enum { A = 20, B = 20, SUB = 4 };
    const int64_t n = (int64_t)RNG_TEST * A * B * SUB;
    uint64_t *stream = check_alloc(n * (int64_t)sizeof *stream);
    int64_t at = 0;
    double dot = 0;

    for (int use = RNG_INIT; use <= RNG_TEST; use++)
        for (uint64_t a = 0; a < A; a++)
            for (uint64_t b = 0; b < B; b++) {
                const struct rng_key key = rng_stream(3, (enum rng_use)use, a, b);

                for (uint64_t sub = 0; sub < SUB; sub++)
                    stream[at++] = sub ? rng_sub(key, sub - 1).stream : key.stream;
            }
    CHECK(at == n);
    qsort(stream, (size_t)n, sizeof *stream, by_value);
    for (int64_t i = 1; i < n; i++) CHECK(stream[i] != stream[i - 1]);

    for (uint64_t i = 0; i < DRAWS; i++)
        dot += (rng_uniform(rng_stream(3, RNG_TEST, 0, 0), i) - 0.5) *
               (rng_uniform(rng_stream(3, RNG_TEST, 0, 1), i) - 0.5) * 12 / DRAWS;
    CHECK(fabs(dot) <= 6 / sqrt(DRAWS));
}

int main(int argc, char **argv)
{
    (void)argc; /* the numbers are the same on every backend */
    (void)argv;
    test_known_answers();
    test_uniform();
    test_normals();
    test_streams();
    return check_done("rng");
}
