#include "data_pipeline/rle.h"

#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

enum { RUNS = 4096 };

/* From an exactly sized block, so that a sanitizer sees every byte read too many. */
static enum status decode(const char *text, int64_t n, int32_t h, int32_t w, int32_t *runs,
                          int64_t max_runs, int64_t *n_runs, const char **why)
{
    char *const exact = malloc((size_t)n + (n == 0));
    enum status s;

    if (n > 0) memcpy(exact, text, (size_t)n);
    *why = NULL;
    s = rle_decode(exact, n, h, w, runs, max_runs, n_runs, why);
    free(exact);
    return s;
}

static void test_vectors(void)
{
    static const struct {
        const char *text;
        int32_t h, w;
        int64_t n;
        int32_t runs[9];
    } v[] = {
        { "441M1", 3, 4, 5, { 4, 4, 1, 1, 2 } },
        { "<", 3, 4, 1, { 12 } },
        { "0<", 3, 4, 2, { 0, 12 } },
        { "61X13mN000`0", 9, 10, 9, { 6, 1, 40, 4, 5, 4, 5, 4, 21 } },
        { "Pkh]1T3h[100jMjj[;", 1000, 1877, 7, { 1500000, 100, 1400, 100, 1400, 30, 373970 } },
    };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        const int64_t length = (int64_t)strlen(v[i].text);
        int32_t runs[RUNS];
        int64_t n = 0, n_text = 0;
        char text[64];
        const char *why;

        CHECK(decode(v[i].text, length, v[i].h, v[i].w, runs, RUNS, &n, &why) == OK);
        CHECK(n == v[i].n && memcmp(runs, v[i].runs, (size_t)n * sizeof *runs) == 0);
        CHECK(rle_encode(v[i].runs, v[i].n, text, sizeof text, &n_text) == OK);
        CHECK(n_text == length && memcmp(text, v[i].text, (size_t)length) == 0);
        CHECK(rle_encode(v[i].runs, v[i].n, text, length - 1, &n_text) == E_MEMORY);
    }
}

static void test_refused(void)
{
    static const struct {
        const char *text;
        int64_t n;
        int32_t h, w;
        const char *why; /* a part of it */
    } v[] = {
        { "", 0, 3, 4, "do not fill" },
        { "441M", 4, 3, 4, "do not fill" },
        { "441M1P", 6, 3, 4, "ends inside" },             /* continuation bit on the last byte */
        { "PPPPPPPP", 8, 3, 4, "overlong" },              /* more than seven groups */
        { "PPPPPPPPPPPPPPPPPPP0", 20, 3, 4, "overlong" }, /* would shift beyond 64 bits */
        { "oooooo?", 7, 3, 4, "exceed" },                 /* 2^34 */
        { "@", 1, 3, 4, "negative" },
        { "441I1", 5, 3, 4, "negative" }, /* 4 + (−7) */
        { "=", 1, 3, 4, "exceed" },       /* 13 of 12 */
        { "4\n1M1", 5, 3, 4, "outside" },
        { "44\xff"
          "M1",
          5, 3, 4, "outside" },
        { "4p1M1", 5, 3, 4, "outside" },
        { "44\0M1", 5, 3, 4, "outside" },
        { "<", 1, 0, 12, "size" },
        { "<", 1, -3, -4, "size" },
        { "<", 1, RLE_SIDE_MAX + 1, 1, "size" },
        { "<", 1, RLE_SIDE_MAX, RLE_SIDE_MAX, "size" },
    };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        int32_t runs[RUNS];
        int64_t n = -1;
        const char *why;

        CHECK(decode(v[i].text, v[i].n, v[i].h, v[i].w, runs, RUNS, &n, &why) == E_CORRUPT);
        CHECK(why && strstr(why, v[i].why));
        CHECK(n == -1);
    }
}

/* Runs beyond the room are refused before they are written. */
static void test_room(void)
{
    int32_t *const runs = check_alloc(4 * (int64_t)sizeof *runs);
    const char *why;
    int64_t n = 0;

    CHECK(decode("441M1", 5, 3, 4, runs, 4, &n, &why) == E_CORRUPT && strstr(why, "more runs"));
    CHECK(decode("441M1", 5, 3, 4, runs, 0, &n, &why) == E_CORRUPT);
    check_guards();
}

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

static void test_round_trip(void)
{
    const struct rng_key key = rng_stream(1, RNG_TEST, 0, 0);

    for (uint64_t k = 0; k < 400; k++) {
        const struct rng_key sub = rng_sub(key, k);
        const int32_t h = 1 + (int32_t)rng_below(sub, 0, 40),
                      w = 1 + (int32_t)rng_below(sub, 1, 40);
        const uint32_t density = rng_below(sub, 2, 11);
        uint8_t pixels[1600] = { 0 }, back[1600];
        int32_t runs[1601], again[1601];
        int64_t n, n_again = 0, n_text = 0;
        char text[7 * 1601];
        struct rle_extent e, naive;
        const char *why;

        for (int32_t i = 0; i < h * w; i++)
            if (rng_below(sub, 3 + (uint64_t)i, 10) < density) pixels[i] = (uint8_t)(1 + i % 255);
        CHECK(rle_from_pixels(pixels, h, w, runs, h * w + 1, &n) == OK);
        CHECK(rle_encode(runs, n, text, sizeof text, &n_text) == OK && n_text <= 7 * n);
        CHECK(decode(text, n_text, h, w, again, rle_max_runs(n_text), &n_again, &why) == OK);
        CHECK(n_again == n && memcmp(runs, again, (size_t)n * sizeof *runs) == 0);
        rle_to_pixels(again, n_again, h, w, back);
        for (int32_t i = 0; i < h * w; i++) CHECK((pixels[i] != 0) == back[i]);
        e = rle_extent(again, n_again, h);
        naive = naive_extent(pixels, h, w);
        CHECK(memcmp(&e, &naive, sizeof e) == 0);
    }
}

/* The greatest runs there are, and the greatest jumps between them. */
static void test_great_runs(void)
{
    const int32_t side = 1 << 14;
    const int32_t runs[] = { 0, 1, side * side - 3, 1, 1 };
    const int32_t spread[] = { 1, side * side - 4, 1, 1, 1 };
    int32_t again[8];
    char text[64];
    int64_t n_text = 0, n = 0;
    const char *why;

    CHECK(rle_encode(runs, 5, text, sizeof text, &n_text) == OK);
    CHECK(decode(text, n_text, side, side, again, 8, &n, &why) == OK);
    CHECK(n == 5 && memcmp(again, runs, sizeof runs) == 0);
    CHECK(rle_encode(spread, 5, text, sizeof text, &n_text) == OK);
    CHECK(decode(text, n_text, side, side, again, 8, &n, &why) == OK);
    CHECK(n == 5 && memcmp(again, spread, sizeof spread) == 0);
}

/* Any one byte changed: refused, or runs that still fill the mask exactly. */
static void test_mutations(void)
{
    static const char good[] = "61X13mN000`0";
    const int64_t length = (int64_t)sizeof good - 1;
    int n_good = 0, n_bad = 0;

    for (int64_t at = 0; at < length; at++)
        for (int byte = 0; byte < 256; byte++) {
            char text[sizeof good];
            int32_t runs[16];
            int64_t n = 0, sum = 0;
            const char *why;

            memcpy(text, good, sizeof good);
            text[at] = (char)byte;
            if (decode(text, length, 9, 10, runs, 16, &n, &why) != OK) {
                n_bad++;
                continue;
            }
            n_good++;
            for (int64_t i = 0; i < n; i++) {
                CHECK(runs[i] >= 0);
                sum += runs[i];
            }
            CHECK(sum == 90);
        }
    CHECK(n_good >= length && n_bad > 100 * n_good);
}

int main(void)
{
    test_vectors();
    test_refused();
    test_room();
    test_round_trip();
    test_great_runs();
    test_mutations();
    return check_done("rle");
}
