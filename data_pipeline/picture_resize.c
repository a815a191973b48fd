/* Pillow's arithmetic, to the bit: triangle filter widened by the scale, weights computed in double
 * and rounded to 22 bits, rows first, rounded to 8 bits, then columns; a pass that changes no size
 * is left out.
 *
 * Rows are resampled when the column pass first needs them, into a ring of as many rows as one
 * output row looks at, so that the intermediate picture stays in the cache. The ring has room behind
 * each row: vectors need no leftovers. */
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
    ROWS = 2,         /* resampled at a time: they share the weights */
    PIXELS = 4,       /* of each, at a time: 12 bytes, written as 16 */
    PAIR_BYTES = 6,   /* of two pixels */
    VECTOR = 32       /* bytes */
};

/* The weights of one axis. Output i is Σ weight[i·n_taps + k] · input[first[i] + k]. */
struct axis {
    int32_t n_out, n_taps,
        n_pairs;            /* n_pairs: of taps that are not 0 everywhere, rounded to even */
    int32_t *first, *count; /* (n_out), and zeros up to a multiple of PIXELS */
    int32_t *halves;        /* (n_out,n_pairs,2), likewise: see axis_split */
    int32_t *weight;        /* (n_out,n_taps), 0 beyond count */
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

/* For two taps: their high halves, 16 bits each, then their low halves. */
static void axis_split(struct axis *a)
{
    const int32_t low = (1 << LOW_BITS) - 1;

    for (int32_t i = 0; i < a->n_out; i++) {
        const int32_t *w = a->weight + (int64_t)i * a->n_taps;
        int32_t *to = a->halves + (int64_t)i * a->n_pairs * 2;

        for (int32_t k = 0; k < a->count[i]; k += 2) {
            const int32_t next = k + 1 < a->n_taps ? w[k + 1] : 0;

            to[k] = w[k] >> LOW_BITS | next >> LOW_BITS << 16;
            to[k + 1] = (w[k] & low) | (next & low) << 16;
        }
    }
}

static enum status axis_create(struct axis *a, int32_t n_in, int32_t n_out)
{
    const double scale = (double)n_in / n_out;
    const int32_t n_taps = (int32_t)ceil(scale < 1 ? 1 : scale) * 2 + 1;
    const int32_t n_pairs = (most_taps(n_in, n_out) + 3) / 4 * 2;
    const size_t n_padded = (size_t)(n_out + PIXELS - 1) / PIXELS * PIXELS;
    const size_t n_halves = n_padded * (size_t)n_pairs * 2;
    int32_t *at = calloc(2 * n_padded + n_halves + (size_t)n_out * (size_t)n_taps, sizeof *at);

    if (!at) FAIL(E_MEMORY, "weights to resize %d pixels to %d", n_in, n_out);
    *a = (struct axis){ .n_out = n_out, .n_taps = n_taps, .n_pairs = n_pairs, .memory = at };
    a->first = at;
    a->count = a->first + n_padded;
    a->halves = a->count + n_padded;
    a->weight = a->halves + n_halves;
    for (int32_t i = 0; i < n_out; i++) axis_weights(a, n_in, i);
    axis_split(a);
    return OK;
}

static uint8_t round_sum(int32_t sum)
{
    return (uint8_t)((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS);
}

static void row_plain(uint8_t *restrict to, const uint8_t *restrict from, const struct axis *a)
{
    for (int32_t i = 0; i < a->n_out; i++) {
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

/* An output row of n bytes from the rows it looks at. */
static void column_plain(uint8_t *restrict to, const uint8_t *const *rows, const int32_t *weight,
                         int32_t n_rows, int64_t n)
{
    enum { BLOCK = 64 };

    for (int64_t x0 = 0; x0 < n; x0 += BLOCK) {
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

/* Adds two taps, 16 bits each, to every 32-bit lane: Σ high·2^11 + low is the plain way's sum. */
__attribute__((target("avx2"))) static inline __m256i add_pair(__m256i sum, __m256i pixels,
                                                               const int32_t halves[2])
{
    const __m256i high = _mm256_madd_epi16(pixels, _mm256_set1_epi32(halves[0]));
    const __m256i low = _mm256_madd_epi16(pixels, _mm256_set1_epi32(halves[1]));

    return _mm256_add_epi32(sum, _mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS)));
}

/* One pixel of two rows, a row in each half of the vector: red, green, blue and an unused lane. */
__attribute__((target("avx2"))) static inline __m256i two_pixels(const uint8_t *p, const uint8_t *q,
                                                                 const int32_t *halves,
                                                                 int32_t n_pairs)
{
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    __m256i sum = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));

    for (int64_t j = 0; j < n_pairs; j += 2) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(p + j * PAIR_BYTES));
        const __m128i b = _mm_loadu_si128((const __m128i *)(q + j * PAIR_BYTES));
        const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);

        sum = add_pair(sum, _mm256_shuffle_epi8(bytes, first), halves + 2 * j);
        sum = add_pair(sum, _mm256_shuffle_epi8(bytes, second), halves + 2 * j + 2);
    }
    return _mm256_srai_epi32(sum, WEIGHT_BITS);
}

/* Reads up to n_pairs·PAIR_BYTES + 4 bytes beyond a row and writes up to PIXELS pixels and 4 bytes. */
__attribute__((target("avx2"))) static inline void rows_with(uint8_t *const to[ROWS],
                                                             const uint8_t *const from[ROWS],
                                                             const struct axis *a, int32_t n_pairs)
{
    const __m256i rgb = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const int64_t next = (int64_t)n_pairs * 2;
    const uint8_t *const p = from[0], *const q = from[1];
    uint8_t *to_p = to[0], *to_q = to[1];
    const int32_t *first = a->first, *const end = first + a->n_out, *halves = a->halves;

    for (; first < end; first += PIXELS, to_p += PIXELS * 3, to_q += PIXELS * 3) {
        __m256i v[PIXELS];

#pragma GCC unroll 4
        for (int k = 0; k < PIXELS; k++, halves += next) {
            const int64_t at = (int64_t)first[k] * 3;

            v[k] = two_pixels(p + at, q + at, halves, n_pairs);
        }
        const __m256i bytes = _mm256_shuffle_epi8(
            _mm256_packus_epi16(_mm256_packus_epi32(v[0], v[1]), _mm256_packus_epi32(v[2], v[3])),
            rgb);

        _mm_storeu_si128((__m128i *)to_p, _mm256_castsi256_si128(bytes));
        _mm_storeu_si128((__m128i *)to_q, _mm256_extracti128_si256(bytes, 1));
    }
}

__attribute__((target("avx2"))) static void rows_vectors(uint8_t *const to[ROWS],
                                                         const uint8_t *const from[ROWS],
                                                         const struct axis *a)
{
    if (a->n_pairs == 2)
        rows_with(to, from, a, 2); /* the usual number, as a constant */
    else
        rows_with(to, from, a, a->n_pairs);
}

/* rows: an even number. */
__attribute__((target("avx2"))) static inline __m256i column_vector(const uint8_t *const *rows,
                                                                    const int32_t *halves,
                                                                    int32_t n_rows, int64_t x)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    __m256i s0 = half, s1 = half, s2 = half, s3 = half;

    for (int32_t k = 0; k < n_rows; k += 2) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(rows[k] + x));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(rows[k + 1] + x));
        const __m256i left = _mm256_unpacklo_epi8(a, b), right = _mm256_unpackhi_epi8(a, b);

        s0 = add_pair(s0, _mm256_unpacklo_epi8(left, zero), halves + k);
        s1 = add_pair(s1, _mm256_unpackhi_epi8(left, zero), halves + k);
        s2 = add_pair(s2, _mm256_unpacklo_epi8(right, zero), halves + k);
        s3 = add_pair(s3, _mm256_unpackhi_epi8(right, zero), halves + k);
    }
    return _mm256_packus_epi16(
        _mm256_packus_epi32(_mm256_srai_epi32(s0, WEIGHT_BITS), _mm256_srai_epi32(s1, WEIGHT_BITS)),
        _mm256_packus_epi32(_mm256_srai_epi32(s2, WEIGHT_BITS),
                            _mm256_srai_epi32(s3, WEIGHT_BITS)));
}

/* n ≥ VECTOR; the last vector overlaps the one before it. */
__attribute__((target("avx2"))) static void column_vectors(uint8_t *restrict to,
                                                           const uint8_t *const *rows,
                                                           const int32_t *halves, int32_t n_rows,
                                                           int64_t n)
{
    for (int64_t x = 0; x < n; x += VECTOR) {
        const int64_t at = x < n - VECTOR ? x : n - VECTOR;

        _mm256_storeu_si256((__m256i *)(to + at), column_vector(rows, halves, n_rows, at));
    }
}
#else
bool picture_has_vectors(void)
{
    return false;
}

static void rows_vectors(uint8_t *const to[ROWS], const uint8_t *const from[ROWS],
                         const struct axis *a)
{
    (void)to, (void)from, (void)a;
}

static void column_vectors(uint8_t *restrict to, const uint8_t *const *rows, const int32_t *halves,
                           int32_t n_rows, int64_t n)
{
    (void)to, (void)rows, (void)halves, (void)n_rows, (void)n;
}
#endif

/* Source rows on their way to output rows. */
struct ring {
    const struct picture *src;
    const struct axis *x; /* NULL: the widths agree and the source's rows serve as they are */
    const uint8_t **rows; /* owned, with all that follows; what an output row looks at */
    uint8_t *done;        /* (n_rows) resampled rows: source row r in r mod n_rows */
    uint8_t *last;        /* (ROWS) copies, behind which may be read */
    int64_t done_bytes, last_bytes; /* of a row, slack included */
    int32_t n_rows, n_done;         /* n_done: source rows resampled so far */
    bool vectors;
};

static enum status ring_create(struct ring *g, const struct picture *src, const struct axis *x,
                               const struct axis *y, bool vectors)
{
    const int32_t n_rows = y->n_taps + ROWS;
    const int64_t slack = x ? x->n_pairs * PAIR_BYTES + 4 : 0;

    *g = (struct ring){ .src = src, .x = x, .n_rows = n_rows, .vectors = vectors };
    if (x) {
        g->done_bytes = (int64_t)(x->n_out + PIXELS) * 3 + 4;
        g->last_bytes = (int64_t)src->width * 3 + slack;
    }
    g->rows = calloc(1, (size_t)n_rows * sizeof *g->rows +
                            (size_t)(n_rows * g->done_bytes + ROWS * g->last_bytes));
    if (!g->rows) FAIL(E_MEMORY, "%d rows to resize a picture", n_rows);
    g->done = (uint8_t *)(g->rows + n_rows);
    g->last = g->done + n_rows * g->done_bytes;
    return OK;
}

/* Resamples the next rows; of an odd height the last one twice. */
static void ring_advance(struct ring *g)
{
    const int64_t bytes = (int64_t)g->src->width * 3, all = g->src->height * bytes;
    const uint8_t *from[ROWS];
    uint8_t *to[ROWS];

    for (int r = 0; r < ROWS; r++) {
        const int32_t row = g->n_done + r < g->src->height ? g->n_done + r : g->n_done;

        to[r] = g->done + row % g->n_rows * g->done_bytes;
        from[r] = g->src->rgb + row * bytes;
        if (row * bytes + g->last_bytes <= all) continue;
        from[r] = memcpy(g->last + r * g->last_bytes, from[r], (size_t)bytes);
    }
    if (g->vectors)
        rows_vectors(to, from, g->x);
    else
        for (int r = 0; r < ROWS; r++) row_plain(to[r], from[r], g->x);
    g->n_done += ROWS;
}

/* Sets g->rows to [first, first + count), and one more, so that any number may be taken as even. */
static void ring_look(struct ring *g, int32_t first, int32_t count)
{
    while (g->x && g->n_done < first + count) ring_advance(g);
    for (int32_t k = 0; k < count; k++) {
        const int32_t row = first + k;

        g->rows[k] = g->x ? g->done + row % g->n_rows * g->done_bytes
                          : g->src->rgb + (int64_t)row * g->src->width * 3;
    }
    g->rows[count] = g->rows[count - 1];
}

static void resize(struct picture *dst, struct ring *g, const struct axis *y)
{
    const int64_t bytes = (int64_t)dst->width * 3;

    for (int32_t i = 0; i < y->n_out; i++) {
        uint8_t *to = dst->rgb + i * bytes;

        ring_look(g, y->first[i], y->count[i]);
        if (g->vectors && bytes >= VECTOR)
            column_vectors(to, g->rows, y->halves + (int64_t)i * y->n_pairs * 2, y->count[i],
                           bytes);
        else
            column_plain(to, g->rows, y->weight + (int64_t)i * y->n_taps, y->count[i], bytes);
    }
}

enum status picture_resize_with(struct picture *dst, const struct picture *src, int32_t new_h,
                                int32_t new_w, bool vectors)
{
    struct axis x = { 0 }, y = { 0 };
    struct ring g = { 0 };
    const bool across = new_w != src->width;
    enum status s = OK;

    ASSERT(dst != src);
    TRY(picture_reserve(dst, new_h, new_w));
    if (!across && new_h == src->height) {
        memcpy(dst->rgb, src->rgb, (size_t)new_h * (size_t)new_w * 3);
        return OK;
    }
    if (across) s = axis_create(&x, src->width, new_w);
    if (s == OK) s = axis_create(&y, src->height, new_h);
    if (s == OK) s = ring_create(&g, src, across ? &x : NULL, &y, vectors && picture_has_vectors());
    if (s == OK) resize(dst, &g, &y);
    free(g.rows);
    free(x.memory);
    free(y.memory);
    return s;
}

enum status picture_resize(struct picture *dst, const struct picture *src, int32_t new_h,
                           int32_t new_w)
{
    return picture_resize_with(dst, src, new_h, new_w, picture_has_vectors());
}
