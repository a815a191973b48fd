#include "kernels/posenc.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/posenc_check.h"

/* Fewer features or sums than this are not worth a second thread. */
enum { MIN_WORK = 1 << 14 };

/* sin and cos of `turns` whole turns, within 2^-23 of the exact values: the quarter turn nearest is
 * taken off exactly, the rest goes through the polynomials of Cephes sinf and cosf (Moshier, 1989). */
static inline void sin_cos_turns(double turns, float *sine, float *cosine)
{
    const double quarters = rint(4 * turns), wrapped = quarters - 4 * rint(0.25 * quarters);
    const float x = (float)((turns - 0.25 * quarters) * 6.28318530717958647692);
    const int quadrant = (int)wrapped; /* −2…2 */
    const float z = x * x;
    float s = -1.9515295891e-4f, c = 2.443315711809948e-5f;

    s = s * z + 8.3321608736e-3f;
    s = s * z - 1.6666654611e-1f;
    s = s * z * x + x;
    c = c * z - 1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = c * z * z - 0.5f * z + 1.0f;

    const float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;

    *sine = quadrant & 2 ? -a : a;
    *cosine = (quadrant + 1) & 2 ? -b : b;
}

/* pe = the features of position (x,y) in [0,1], c channels. */
static void features(float *restrict pe, double x, double y, const float *restrict gaussian,
                     int64_t c)
{
    const double u = 2 * x - 1, v = 2 * y - 1;
    const int64_t half = c / 2;
    const float *restrict g0 = gaussian, *restrict g1 = gaussian + half;
    float *restrict sine = pe, *restrict cosine = pe + half;

#pragma omp simd
    for (int64_t i = 0; i < half; i++) sin_cos_turns(u * g0[i] + v * g1[i], &sine[i], &cosine[i]);
}

enum status posenc_grid_cpu(struct tensor pe, struct tensor gaussian, struct stream *s)
{
    TRY(posenc_grid_check(pe, gaussian));
    STREAM_NO_SCRATCH(s);
    const int64_t h = pe.dim[0], w = pe.dim[1], c = pe.dim[2];

#pragma omp parallel for schedule(static) if (h * w * c >= MIN_WORK)
    for (int64_t i = 0; i < h * w; i++)
        features((float *)pe.data + i * c, ((double)(i % w) + 0.5) / (double)w,
                 ((double)(i / w) + 0.5) / (double)h, gaussian.data, c);
    return OK;
}

static int64_t point_count(const struct prompt_tokens_shape *g, struct tensor n_points, int64_t m)
{
    const int32_t n = ((const int32_t *)n_points.data)[m];

    ASSERT(n >= 0 && n <= g->p);
    return n;
}

/* The row of the table of a point. */
static int table_row(const struct prompt_tokens_shape *g, struct tensor labels, int64_t m,
                     int64_t p)
{
    const int32_t label = ((const int32_t *)labels.data)[m * g->p + p];

    ASSERT(label >= -1 && label + 1 < POSENC_TABLE);
    return label + 1;
}

static void add_row(float *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

enum status prompt_tokens_fwd_cpu(struct tensor tokens, struct tensor coords, struct tensor labels,
                                  struct tensor n_points, struct tensor gaussian,
                                  struct tensor iou_token, struct tensor mask_tokens,
                                  const struct tensor table[POSENC_TABLE], int frame,
                                  struct stream *s)
{
    struct prompt_tokens_shape g;

    TRY(prompt_tokens_fwd_check(&g, tokens, coords, labels, n_points, gaussian, iou_token,
                                mask_tokens, table, frame));
    STREAM_NO_SCRATCH(s);
    const size_t row_bytes = (size_t)g.c * sizeof(float);

#pragma omp parallel for schedule(static) if (g.m * g.p * g.c >= MIN_WORK)
    for (int64_t m = 0; m < g.m; m++) {
        const int64_t n = point_count(&g, n_points, m);
        float *row = (float *)tokens.data + m * g.t * g.c;

        memcpy(row, iou_token.data, row_bytes);
        row += g.c;
        if (g.k > 0) memcpy(row, mask_tokens.data, (size_t)g.k * row_bytes);
        row += g.k * g.c;
        for (int64_t p = 0; p < g.p; p++, row += g.c) {
            const float *xy = (const float *)coords.data + (m * g.p + p) * 2;
            const int r = p < n ? table_row(&g, labels, m, p) : 0;

            if (p < n && r > 0)
                features(row, ((double)xy[0] + 0.5) / frame, ((double)xy[1] + 0.5) / frame,
                         gaussian.data, g.c);
            else
                memset(row, 0, row_bytes);
            if (p < n) add_row(row, table[r].data, g.c);
        }
    }
    return OK;
}

/* The sums over all masks for channels [c0, c0 + n), in their order. */
static void sum_channels(const struct prompt_tokens_shape *g, float *iou, float *mask_tokens,
                         float *const table[POSENC_TABLE], const float *dtokens,
                         struct tensor labels, struct tensor n_points, int64_t c0, int64_t n)
{
    for (int64_t m = 0; m < g->m; m++) {
        const float *row = dtokens + m * g->t * g->c + c0;
        const int64_t n_active = point_count(g, n_points, m);

        if (iou) add_row(iou + c0, row, n);
        row += g->c;
        for (int64_t k = 0; k < g->k; k++, row += g->c)
            if (mask_tokens) add_row(mask_tokens + k * g->c + c0, row, n);
        for (int64_t p = 0; p < n_active; p++, row += g->c) {
            float *to = table[table_row(g, labels, m, p)];

            if (to) add_row(to + c0, row, n);
        }
    }
}

static float *cleared(struct tensor t)
{
    if (t.data && !t.add && tensor_bytes(t) > 0) memset(t.data, 0, (size_t)tensor_bytes(t));
    return t.data;
}

enum status prompt_tokens_bwd_cpu(struct tensor diou_token, struct tensor dmask_tokens,
                                  const struct tensor dtable[POSENC_TABLE], struct tensor dtokens,
                                  struct tensor labels, struct tensor n_points, struct stream *s)
{
    enum { CHANNELS = 64 }; /* of one piece of work */
    struct prompt_tokens_shape g;
    float *table[POSENC_TABLE];

    TRY(prompt_tokens_bwd_check(&g, diou_token, dmask_tokens, dtable, dtokens, labels, n_points));
    STREAM_NO_SCRATCH(s);
    float *const iou = cleared(diou_token), *const mask_tokens = cleared(dmask_tokens);

    for (int i = 0; i < POSENC_TABLE; i++) table[i] = cleared(dtable[i]);
#pragma omp parallel for schedule(static) if (g.m * g.t * g.c >= 4 * MIN_WORK)
    for (int64_t c0 = 0; c0 < g.c; c0 += CHANNELS)
        sum_channels(&g, iou, mask_tokens, table, dtokens.data, labels, n_points, c0,
                     g.c - c0 < CHANNELS ? g.c - c0 : CHANNELS);
    return OK;
}
