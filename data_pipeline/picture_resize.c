/* Pillow's arithmetic, to the bit: triangle filter widened by the scale, weights computed in double
 * and rounded to 22 bits, rows first, rounded to 8 bits, then columns; a pass that changes no size
 * is left out.
 *
 * Rows are resampled when the column pass first needs them, into a ring of as many rows as one
 * output row looks at, so that the intermediate picture stays in the cache. */
#include "data_pipeline/picture_codec.h"

#include "kernels/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum {
    WEIGHT_BITS = 22, /* 32 − 8 bits of a pixel − 2 of head room */
    LOW_BITS = 11,    /* a weight w = high·2^11 + low, so that both halves fit 16 bits */
    TAPS = 4,         /* of a row, at a time */
    LANES = 16        /* 16-bit lanes of a vector */
};

/* The weights of one axis. Output i is Σ weight[i·n_taps + k] · input[first[i] + k]. */
struct axis {
    int32_t n_out, n_taps;
    int32_t *first, *count; /* (n_out) */
    int32_t *weight;        /* (n_out,n_taps), 0 beyond count */
    int16_t *high, *low;    /* (n_out, n_groups, LANES): for pairs of taps, see row_vectors */
    int32_t n_groups;       /* ⌈greatest count / TAPS⌉ */
    void *memory;           /* owned */
};

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* The inputs [*lo, *hi) that output i looks at. */
static void axis_reach(int32_t n_in, int32_t n_out, int32_t i, int32_t *lo, int32_t *hi)
{
    const double scale = (double)n_in / n_out, widened = scale < 1 ? 1 : scale;
    const double centre = (i + 0.5) * scale;

    *lo = (int32_t)(centre - widened + 0.5);
    *hi = (int32_t)(centre + widened + 0.5);
    if (*lo < 0) *lo = 0;
    if (*hi > n_in) *hi = n_in;
}

/* Often fewer than the bound n_taps: 3 of 5 where 1125 pixels become 1024. */
static int32_t most_taps(int32_t n_in, int32_t n_out)
{
    int32_t most = 1;

    for (int32_t i = 0; i < n_out; i++) {
        int32_t lo, hi;

        axis_reach(n_in, n_out, i, &lo, &hi);
        if (hi - lo > most) most = hi - lo;
    }
    return most;
}

static void axis_weights(struct axis *a, int32_t n_in, int32_t i)
{
    const double scale = (double)n_in / a->n_out, widened = scale < 1 ? 1 : scale;
    const double centre = (i + 0.5) * scale, inverse = 1 / widened;
    double sum = 0;
    int32_t lo, hi;

    axis_reach(n_in, a->n_out, i, &lo, &hi);
    ASSERT(hi - lo <= a->n_taps && hi > lo);
    a->first[i] = lo;
    a->count[i] = hi - lo;
    for (int32_t k = 0; k < hi - lo; k++) sum += triangle((k + lo - centre + 0.5) * inverse);
    for (int32_t k = 0; k < hi - lo; k++) {
        const double w = triangle((k + lo - centre + 0.5) * inverse);

        a->weight[(int64_t)i * a->n_taps + k] =
            (int32_t)(0.5 + (sum != 0 ? w / sum : w) * (1 << WEIGHT_BITS));
    }
}

/* A group's vector holds, for taps 0 1 | 2 3, the pair of weights four times over: red, green,
 * blue and an unused lane. */
static void axis_split(struct axis *a)
{
    for (int32_t i = 0; i < a->n_out; i++) {
        for (int32_t j = 0; j < a->n_groups * LANES; j++) {
            const int32_t group = j / LANES, lane = j % LANES;
            const int32_t k = group * TAPS + lane / (LANES / 2) * 2 + lane % 2;
            const int32_t w = k < a->n_taps ? a->weight[(int64_t)i * a->n_taps + k] : 0;
            const int64_t at = (int64_t)i * a->n_groups * LANES + j;

            a->high[at] = (int16_t)(w >> LOW_BITS);
            a->low[at] = (int16_t)(w & ((1 << LOW_BITS) - 1));
        }
    }
}

static enum status axis_create(struct axis *a, int32_t n_in, int32_t n_out)
{
    const double scale = (double)n_in / n_out;
    const int32_t n_taps = (int32_t)ceil(scale < 1 ? 1 : scale) * 2 + 1;
    const int32_t n_groups = (most_taps(n_in, n_out) + TAPS - 1) / TAPS;
    const size_t n_weights = (size_t)n_out * (size_t)n_taps;
    const size_t n_halves = (size_t)n_out * (size_t)n_groups * LANES;
    int32_t *at = calloc(2 * (size_t)n_out + n_weights + n_halves, sizeof *at);

    if (!at) FAIL(E_MEMORY, "weights to resize %d pixels to %d", n_in, n_out);
    *a = (struct axis){ .n_out = n_out, .n_taps = n_taps, .n_groups = n_groups, .memory = at };
    a->first = at;
    a->count = at + n_out;
    a->weight = a->count + n_out;
    a->high = (int16_t *)(a->weight + n_weights);
    a->low = a->high + n_halves;
    for (int32_t i = 0; i < n_out; i++) axis_weights(a, n_in, i);
    axis_split(a);
    return OK;
}

static uint8_t round_sum(int32_t sum)
{
    return (uint8_t)((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS);
}

/* Resamples pixels [begin, n_out) of a row. */
static void row_plain(uint8_t *restrict to, const uint8_t *restrict from, const struct axis *a,
                      int32_t begin)
{
    for (int32_t i = begin; i < a->n_out; i++) {
        const int32_t *w = a->weight + (int64_t)i * a->n_taps;
        const uint8_t *p = from + (int64_t)a->first[i] * 3;
        int32_t red = 0, green = 0, blue = 0;

        for (int32_t k = 0; k < a->count[i]; k++) {
            red += p[3 * k] * w[k];
            green += p[3 * k + 1] * w[k];
            blue += p[3 * k + 2] * w[k];
        }
        to[3 * i] = round_sum(red);
        to[3 * i + 1] = round_sum(green);
        to[3 * i + 2] = round_sum(blue);
    }
}

/* Bytes [begin, n) of an output row from the rows it looks at. */
static void column_plain(uint8_t *restrict to, const uint8_t *const *rows, const int32_t *weight,
                         int32_t n_rows, int64_t begin, int64_t n)
{
    enum { BLOCK = 64 };

    for (int64_t x0 = begin; x0 < n; x0 += BLOCK) {
        const int64_t m = n - x0 < BLOCK ? n - x0 : BLOCK;
        int32_t sum[BLOCK] = { 0 };

        for (int32_t k = 0; k < n_rows; k++) {
            const uint8_t *row = rows[k] + x0;

            for (int64_t x = 0; x < m; x++) sum[x] += row[x] * weight[k];
        }
        for (int64_t x = 0; x < m; x++) to[x0 + x] = round_sum(sum[x]);
    }
}

#ifdef __x86_64__
bool picture_has_vectors(void)
{
    return __builtin_cpu_supports("avx2");
}

/* Σ high·2^11 + Σ low is the very sum of row_plain; both fit 32 bits. */
__attribute__((target("avx2"))) static inline __m256i join_halves(__m256i high, __m256i low)
{
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));

    low = _mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS));
    return _mm256_srai_epi32(_mm256_add_epi32(low, half), WEIGHT_BITS);
}

/* Four RGB pixels from p, as 16-bit pairs r0 r1 g0 g1 b0 b1 – – | r2 r3 …, whose
 * multiply-and-add-pairs with a group's weights is two taps of three channels at once; the two
 * halves of the vector remain to be added. */
__attribute__((target("avx2"))) static inline __m256i four_taps(const uint8_t *p,
                                                                const int16_t *high,
                                                                const int16_t *low)
{
    enum { ZERO = -128 };
    const __m256i pick = _mm256_setr_epi8(0, ZERO, 3, ZERO, 1, ZERO, 4, ZERO, 2, ZERO, 5, ZERO,
                                          ZERO, ZERO, ZERO, ZERO, 6, ZERO, 9, ZERO, 7, ZERO, 10,
                                          ZERO, 8, ZERO, 11, ZERO, ZERO, ZERO, ZERO, ZERO);
    const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    const __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pick);
    const __m256i h = _mm256_madd_epi16(pairs, _mm256_loadu_si256((const __m256i *)high));
    const __m256i l = _mm256_madd_epi16(pairs, _mm256_loadu_si256((const __m256i *)low));

    return _mm256_add_epi32(l, _mm256_slli_epi32(h, LOW_BITS));
}

/* Two output pixels from their sums a and b: four bytes each, of which the last is the next
 * pixel's. They need no clamping: weights are positive and add up to one. */
__attribute__((target("avx2"))) static inline void put_two(uint8_t *to, __m256i a, __m256i b)
{
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    const __m256i bytes =
        _mm256_setr_epi8(0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, -1,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                                         _mm256_permute2x128_si256(a, b, 0x31));
    const __m256i two =
        _mm256_shuffle_epi8(_mm256_srai_epi32(_mm256_add_epi32(sum, half), WEIGHT_BITS), bytes);
    const int32_t first = _mm_cvtsi128_si32(_mm256_castsi256_si128(two));
    const int32_t second = _mm_cvtsi128_si32(_mm256_extracti128_si256(two, 1));

    memcpy(to, &first, sizeof first);
    memcpy(to + 3, &second, sizeof second);
}

/* The leading pixels of a row of n_in, as far as whole vectors may be read and written; returns how
 * many. */
__attribute__((target("avx2"))) static int32_t row_vectors(uint8_t *restrict to,
                                                           const uint8_t *restrict from,
                                                           const struct axis *a, int32_t n_in)
{
    const int32_t n_groups = a->n_groups, *first = a->first;
    const int64_t reach = (int64_t)(n_groups - 1) * TAPS * 3 + 16; /* bytes read from first */
    const int16_t *high = a->high, *low = a->low;
    int32_t n = a->n_out - 1; /* the last pixel has no next one */

    while (n > 0 && (int64_t)first[n - 1] * 3 + reach > (int64_t)n_in * 3) n--;
    n -= n % 2;
    for (int32_t i = 0; i < n; i += 2) {
        const uint8_t *p = from + (int64_t)first[i] * 3, *q = from + (int64_t)first[i + 1] * 3;
        const int64_t next = (int64_t)n_groups * LANES; /* weights of the second pixel */
        __m256i x = four_taps(p, high, low), y = four_taps(q, high + next, low + next);

        for (int64_t g = 1; g < n_groups; g++) {
            const int64_t w = g * LANES;

            x = _mm256_add_epi32(x, four_taps(p + g * TAPS * 3, high + w, low + w));
            y = _mm256_add_epi32(y, four_taps(q + g * TAPS * 3, high + next + w, low + next + w));
        }
        put_two(to + (int64_t)i * 3, x, y);
        high += 2 * next;
        low += 2 * next;
    }
    return n;
}

/* Leading bytes of an output row, a whole number of vectors of 16; returns how many. */
__attribute__((target("avx2"))) static int64_t column_vectors(uint8_t *restrict to,
                                                              const uint8_t *const *rows,
                                                              const int32_t *weight, int32_t n_rows,
                                                              int64_t n)
{
    const int32_t low_mask = (1 << LOW_BITS) - 1;
    int64_t x = 0;

    for (; x + 16 <= n; x += 16) {
        __m256i h0 = _mm256_setzero_si256(), l0 = h0, h1 = h0, l1 = h0;

        for (int32_t k = 0; k < n_rows; k += 2) {
            const bool pair = k + 1 < n_rows;
            const int32_t w1 = pair ? weight[k + 1] : 0;
            const __m128i a = _mm_loadu_si128((const __m128i *)(rows[k] + x));
            const __m128i b = _mm_loadu_si128((const __m128i *)(rows[pair ? k + 1 : k] + x));
            const __m256i p0 = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
            const __m256i p1 = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
            const __m256i wh = _mm256_set1_epi32(weight[k] >> LOW_BITS | w1 >> LOW_BITS << 16);
            const __m256i wl = _mm256_set1_epi32((weight[k] & low_mask) | (w1 & low_mask) << 16);

            h0 = _mm256_add_epi32(h0, _mm256_madd_epi16(p0, wh));
            l0 = _mm256_add_epi32(l0, _mm256_madd_epi16(p0, wl));
            h1 = _mm256_add_epi32(h1, _mm256_madd_epi16(p1, wh));
            l1 = _mm256_add_epi32(l1, _mm256_madd_epi16(p1, wl));
        }
        /* packing works within 128-bit halves: put the quarters back in order */
        const __m256i words = _mm256_permute4x64_epi64(
            _mm256_packus_epi32(join_halves(h0, l0), join_halves(h1, l1)), 0xD8);
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));

        _mm_storeu_si128((__m128i *)(to + x), bytes);
    }
    return x;
}
#else
bool picture_has_vectors(void)
{
    return false;
}

static int32_t row_vectors(uint8_t *restrict to, const uint8_t *restrict from, const struct axis *a,
                           int32_t n_in)
{
    (void)to, (void)from, (void)a, (void)n_in;
    return 0;
}

static int64_t column_vectors(uint8_t *restrict to, const uint8_t *const *rows,
                              const int32_t *weight, int32_t n_rows, int64_t n)
{
    (void)to, (void)rows, (void)weight, (void)n_rows, (void)n;
    return 0;
}
#endif

static void resize_row(uint8_t *to, const uint8_t *from, const struct axis *a, int32_t n_in,
                       bool vectors)
{
    row_plain(to, from, a, vectors ? row_vectors(to, from, a, n_in) : 0);
}

static void resize_column(uint8_t *to, const uint8_t *const *rows, const int32_t *weight,
                          int32_t n_rows, int64_t n, bool vectors)
{
    const int64_t done = vectors ? column_vectors(to, rows, weight, n_rows, n) : 0;

    column_plain(to, rows, weight, n_rows, done, n);
}

/* Both passes, or the column pass alone when the widths agree (x is NULL then). */
static enum status resize_columns(struct picture *dst, const struct picture *src,
                                  const struct axis *y, const struct axis *x, bool vectors)
{
    const int64_t from_bytes = (int64_t)src->width * 3, to_bytes = (int64_t)dst->width * 3;
    const int64_t ring_bytes = x ? y->n_taps * to_bytes : 0;
    const uint8_t **rows = malloc((size_t)y->n_taps * sizeof *rows + (size_t)ring_bytes);
    int32_t n_done = y->first[0]; /* input rows resampled so far */

    if (!rows) FAIL(E_MEMORY, "%d rows to resize a picture", y->n_taps);
    uint8_t *const ring = (uint8_t *)(rows + y->n_taps);
    for (int32_t i = 0; i < y->n_out; i++) {
        const int32_t end = y->first[i] + y->count[i];

        for (; x && n_done < end; n_done++)
            resize_row(ring + n_done % y->n_taps * to_bytes, src->rgb + n_done * from_bytes, x,
                       src->width, vectors);
        for (int32_t k = 0; k < y->count[i]; k++) {
            const int32_t row = y->first[i] + k;

            rows[k] = x ? ring + row % y->n_taps * to_bytes : src->rgb + row * from_bytes;
        }
        resize_column(dst->rgb + i * to_bytes, rows, y->weight + (int64_t)i * y->n_taps,
                      y->count[i], to_bytes, vectors);
    }
    free(rows);
    return OK;
}

enum status picture_resize_with(struct picture *dst, const struct picture *src, int32_t new_h,
                                int32_t new_w, bool vectors)
{
    struct axis x = { 0 }, y = { 0 };
    const bool across = new_w != src->width, down = new_h != src->height;
    enum status s = OK;

    ASSERT(dst != src);
    TRY(picture_reserve(dst, new_h, new_w));
    if (across) s = axis_create(&x, src->width, new_w);
    if (down) KEEP_FIRST(s, axis_create(&y, src->height, new_h));
    if (s == OK && down) s = resize_columns(dst, src, &y, across ? &x : NULL, vectors);
    if (s == OK && !down && across)
        for (int32_t i = 0; i < new_h; i++)
            resize_row(dst->rgb + (int64_t)i * new_w * 3, src->rgb + (int64_t)i * src->width * 3,
                       &x, src->width, vectors);
    if (!down && !across) memcpy(dst->rgb, src->rgb, (size_t)new_h * (size_t)new_w * 3);
    free(x.memory);
    free(y.memory);
    return s;
}

enum status picture_resize(struct picture *dst, const struct picture *src, int32_t new_h,
                           int32_t new_w)
{
    return picture_resize_with(dst, src, new_h, new_w, picture_has_vectors());
}
