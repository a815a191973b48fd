/* A head is 8 to 32 wide and one side has few tokens: too small for BLAS. Here the lanes of a vector
 * are sixteen queries. Scores, softmax, outputs and dq then run down the keys with no sum across
 * lanes; a key's value is a broadcast. Only dk and dv turn around: there the lanes are channels.
 *
 * A head's width is taken in pieces of 16, 8, 4 and 1 channels, which stay in registers. */
#include "kernels/cross_attention.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cross_attention_check.h"

/* Sums over keys are made per SUM_KEYS and then over those, or 4096 keys would cost digits. */
enum { LANES = 16, SUM_KEYS = 128 };

/* One value of each of sixteen queries; loaded from anywhere. */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

struct cross {
    struct cross_attention_shape g;
    int64_t row; /* A·D: floats from token to token */
    float scale;
    const float *q, *k, *v, *dy;
    const int32_t *n_keys; /* or NULL */
    float *y, *lse;
    float *dq, *dk, *dv; /* NULL: not wanted */
};

/* What a thread works in; not owned. */
struct work {
    float *s, *dp;                  /* (Tk,LANES): scores, then weights; their gradient */
    float *q, *dy, *out;            /* (D,LANES): turned operands, sums */
    float *max, *sum, *delta, *lse; /* (LANES) */
};

static int64_t work_floats(const struct cross *x)
{
    return (2 * x->g.tk + 3 * x->g.d + 4) * LANES;
}

static struct work work_at(const struct cross *x, float *base)
{
    const int64_t keys = x->g.tk * LANES, width = x->g.d * LANES;
    struct work w = { .s = base, .dp = base + keys };

    w.q = w.dp + keys;
    w.dy = w.q + width;
    w.out = w.dy + width;
    w.max = w.out + width;
    w.sum = w.max + LANES;
    w.delta = w.sum + LANES;
    w.lse = w.delta + LANES;
    return w;
}

/* Where (mask, token 0, head) begins in a (·,T,A·D) array of n_masks masks, M or 1. */
static int64_t place(const struct cross *x, int64_t n_masks, int64_t n_tokens, int64_t m,
                     int64_t head)
{
    return (n_masks == 1 ? 0 : m) * n_tokens * x->row + head * x->g.d;
}

static int64_t key_count(const struct cross *x, int64_t m)
{
    const int64_t n = x->n_keys ? x->n_keys[m] : x->g.tk;

    ASSERT(n >= 1 && n <= x->g.tk);
    return n;
}

/* to[c][lane] = from[lane][c] · scale for n ≤ LANES rows; the other lanes are 0. */
static void turn(float *restrict to, const float *restrict from, int64_t row, int64_t n, int64_t d,
                 float scale)
{
    for (int64_t c = 0; c < d; c++) {
        for (int64_t lane = 0; lane < n; lane++)
            to[c * LANES + lane] = from[lane * row + c] * scale;
        for (int64_t lane = n; lane < LANES; lane++) to[c * LANES + lane] = 0;
    }
}

/* s[key] (+)= Σc a[c] · k[key][c] over `width` channels. */
INLINE void scores_piece(const int width, float *restrict s, const float *restrict a,
                         const float *restrict k, int64_t row, int64_t n, bool first)
{
    for (int64_t key = 0; key < n; key++) {
        lanes sum = { 0 };

        if (!first) sum = *(const lanes *)(s + key * LANES);
        for (int c = 0; c < width; c++) sum += *(const lanes *)(a + c * LANES) * k[key * row + c];
        *(lanes *)(s + key * LANES) = sum;
    }
}

/* out[c] += Σkey s[key] · v[key][c] over `width` channels. */
INLINE void weigh_piece(const int width, float *restrict out, const float *restrict s,
                        const float *restrict v, int64_t row, int64_t n)
{
    for (int64_t from = 0; from < n; from += SUM_KEYS) {
        const int64_t to = from + SUM_KEYS < n ? from + SUM_KEYS : n;
        lanes sum[16] = { 0 };

        for (int64_t key = from; key < to; key++) {
            const lanes weight = *(const lanes *)(s + key * LANES);

            for (int c = 0; c < width; c++) sum[c] += weight * v[key * row + c];
        }
        for (int c = 0; c < width; c++) *(lanes *)(out + c * LANES) += sum[c];
    }
}

/* dv[key][c] += Σlane s[key][lane] · dy[lane][c] over `width` channels and n_lanes lanes; four
 * keys at once, so that a row of dy is loaded once for them. */
#define DEFINE_OUTER(width)                                                                        \
    static void outer_##width(float *restrict dv, const float *restrict s,                         \
                              const float *restrict dy, int64_t row, int64_t n, int64_t n_lanes)   \
    {                                                                                              \
        typedef float piece __attribute__((vector_size(4 * width), aligned(4), may_alias));        \
        int64_t key = 0;                                                                           \
                                                                                                   \
        for (; key + 4 <= n; key += 4) {                                                           \
            const float *a = s + key * LANES;                                                      \
            piece sum0 = { 0 }, sum1 = { 0 }, sum2 = { 0 }, sum3 = { 0 };                          \
                                                                                                   \
            for (int64_t lane = 0; lane < n_lanes; lane++) {                                       \
                const piece from = *(const piece *)(dy + lane * row);                              \
                                                                                                   \
                sum0 += from * a[lane];                                                            \
                sum1 += from * a[LANES + lane];                                                    \
                sum2 += from * a[2 * LANES + lane];                                                \
                sum3 += from * a[3 * LANES + lane];                                                \
            }                                                                                      \
            *(piece *)(dv + key * row) += sum0;                                                    \
            *(piece *)(dv + (key + 1) * row) += sum1;                                              \
            *(piece *)(dv + (key + 2) * row) += sum2;                                              \
            *(piece *)(dv + (key + 3) * row) += sum3;                                              \
        }                                                                                          \
        for (; key < n; key++) {                                                                   \
            piece sum = { 0 };                                                                     \
                                                                                                   \
            for (int64_t lane = 0; lane < n_lanes; lane++)                                         \
                sum += *(const piece *)(dy + lane * row) * s[key * LANES + lane];                  \
            *(piece *)(dv + key * row) += sum;                                                     \
        }                                                                                          \
    }
DEFINE_OUTER(16)
DEFINE_OUTER(8)
DEFINE_OUTER(4)
DEFINE_OUTER(1)
#define outer_piece(width, ...) outer_##width(__VA_ARGS__)

/* Calls `piece(width, …)` with the widest constant width that is left of a head's d channels. */
#define IN_PIECES(d, c, piece, ...)                                                                \
    for (int64_t c = 0, width_; c < (d); c += width_) {                                            \
        width_ = (d)-c >= 16 ? 16 : (d)-c >= 8 ? 8 : (d)-c >= 4 ? 4 : 1;                           \
        if (width_ == 16)                                                                          \
            piece(16, __VA_ARGS__);                                                                \
        else if (width_ == 8)                                                                      \
            piece(8, __VA_ARGS__);                                                                 \
        else if (width_ == 4)                                                                      \
            piece(4, __VA_ARGS__);                                                                 \
        else                                                                                       \
            piece(1, __VA_ARGS__);                                                                 \
    }

static void scores(float *s, const float *a, const float *k, int64_t row, int64_t n, int64_t d)
{
    IN_PIECES(d, c, scores_piece, s, a + c * LANES, k + c, row, n, c == 0);
}

static void weigh(float *out, const float *s, const float *v, int64_t row, int64_t n, int64_t d)
{
    memset(out, 0, (size_t)(d * LANES) * sizeof *out);
    IN_PIECES(d, c, weigh_piece, out + c * LANES, s, v + c, row, n);
}

static void outer(float *dv, const float *s, const float *dy, int64_t row, int64_t n, int64_t d,
                  int64_t n_lanes)
{
    IN_PIECES(d, c, outer_piece, dv + c, s, dy + c, row, n, n_lanes);
}

/* s[key] becomes exp(s[key] − max), and sum their sum. */
static void softmax(const struct work *w, int64_t n)
{
    float *restrict s = w->s, *restrict max = w->max, *restrict sum = w->sum;

    for (int lane = 0; lane < LANES; lane++) {
        max[lane] = -INFINITY;
        sum[lane] = 0;
    }
    for (int64_t key = 0; key < n; key++)
        for (int lane = 0; lane < LANES; lane++)
            max[lane] = s[key * LANES + lane] > max[lane] ? s[key * LANES + lane] : max[lane];
    for (int64_t from = 0; from < n; from += SUM_KEYS) {
        const int64_t to = from + SUM_KEYS < n ? from + SUM_KEYS : n;
        float part[LANES] = { 0 };

        for (int64_t key = from; key < to; key++)
            for (int lane = 0; lane < LANES; lane++) {
                const float weight = exp_f32(s[key * LANES + lane] - max[lane]);

                s[key * LANES + lane] = weight;
                part[lane] += weight;
            }
        for (int lane = 0; lane < LANES; lane++) sum[lane] += part[lane];
    }
}

static void forward(const struct cross *x, const struct work *w, int64_t m, int64_t head)
{
    const struct cross_attention_shape *g = &x->g;
    const int64_t n_keys = key_count(x, m), keys = place(x, g->mk, g->tk, m, head), d = g->d;
    const float *q = x->q + place(x, g->mq, g->tq, m, head);
    float *y = x->y + place(x, g->m, g->tq, m, head);
    float *lse = x->lse + (m * g->heads + head) * g->tq;

    for (int64_t q0 = 0; q0 < g->tq; q0 += LANES) {
        const int64_t n = g->tq - q0 < LANES ? g->tq - q0 : LANES;

        turn(w->q, q + q0 * x->row, x->row, n, d, x->scale);
        scores(w->s, w->q, x->k + keys, x->row, n_keys, d);
        softmax(w, n_keys);
        weigh(w->out, w->s, x->v + keys, x->row, n_keys, d);
        for (int64_t lane = 0; lane < n; lane++) {
            const float inverse = 1 / w->sum[lane];

            for (int64_t c = 0; c < d; c++)
                y[(q0 + lane) * x->row + c] = w->out[c * LANES + lane] * inverse;
            lse[q0 + lane] = w->max[lane] + logf(w->sum[lane]);
        }
    }
}

enum status cross_attention_fwd_cpu(struct tensor y, struct tensor lse, struct tensor q,
                                    struct tensor k, struct tensor v, struct tensor n_keys,
                                    int n_heads, struct stream *s)
{
    struct cross x = { 0 };
    float *scratch;

    TRY(cross_attention_fwd_check(&x.g, y, lse, q, k, v, n_keys, n_heads));
    const int n_threads = omp_get_max_threads();

    STREAM_SCRATCH(s, scratch, n_threads * work_floats(&x) * (int64_t)sizeof *scratch);
    x.row = x.g.heads * x.g.d;
    x.scale = (float)(1 / sqrt((double)x.g.d));
    x.q = q.data;
    x.k = k.data;
    x.v = v.data;
    x.n_keys = n_keys.data;
    x.y = y.data;
    x.lse = lse.data;

#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < x.g.m * x.g.heads; i++) {
        const struct work w = work_at(&x, scratch + omp_get_thread_num() * work_floats(&x));

        forward(&x, &w, i / x.g.heads, i % x.g.heads);
    }
    return OK;
}

/* The operands of sixteen queries for the backward pass. */
static void load_bwd(const struct cross *x, const struct work *w, const float *q, const float *dy,
                     const float *y, const float *lse, int64_t n)
{
    turn(w->q, q, x->row, n, x->g.d, x->scale);
    turn(w->dy, dy, x->row, n, x->g.d, 1);
    for (int64_t lane = 0; lane < LANES; lane++) {
        float sum = 0;

        for (int64_t c = 0; lane < n && c < x->g.d; c++)
            sum += dy[lane * x->row + c] * y[lane * x->row + c];
        w->delta[lane] = sum;
        w->lse[lane] = lane < n ? lse[lane] : 0;
    }
}

/* s becomes the weights, dp the gradient of q·k before the scale. */
static void weights_bwd(const struct work *w, int64_t n_keys, float scale)
{
    float *restrict s = w->s, *restrict dp = w->dp;
    const float *restrict lse = w->lse, *restrict delta = w->delta;

    for (int64_t key = 0; key < n_keys; key++)
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t i = key * LANES + lane;

            s[i] = exp_f32(s[i] - lse[lane]);
            dp[i] = s[i] * (dp[i] - delta[lane]) * scale;
        }
}

/* Adds the gradients of one mask and head. */
static void backward(const struct cross *x, const struct work *w, int64_t m, int64_t head)
{
    const struct cross_attention_shape *g = &x->g;
    const int64_t n_keys = key_count(x, m), keys = place(x, g->mk, g->tk, m, head), d = g->d;
    const int64_t queries = place(x, g->mq, g->tq, m, head);
    const int64_t outputs = place(x, g->m, g->tq, m, head);
    const float *lse = x->lse + (m * g->heads + head) * g->tq;

    for (int64_t q0 = 0; q0 < g->tq; q0 += LANES) {
        const int64_t n = g->tq - q0 < LANES ? g->tq - q0 : LANES, at = q0 * x->row;
        const float *q = x->q + queries + at, *dy = x->dy + outputs + at;

        load_bwd(x, w, q, dy, x->y + outputs + at, lse + q0, n);
        scores(w->s, w->q, x->k + keys, x->row, n_keys, d);
        scores(w->dp, w->dy, x->v + keys, x->row, n_keys, d);
        weights_bwd(w, n_keys, x->scale);
        if (x->dv) outer(x->dv + keys, w->s, dy, x->row, n_keys, d, n);
        if (x->dk) outer(x->dk + keys, w->dp, q, x->row, n_keys, d, n);
        if (!x->dq) continue;
        weigh(w->out, w->dp, x->k + keys, x->row, n_keys, d);
        for (int64_t lane = 0; lane < n; lane++)
            for (int64_t c = 0; c < d; c++)
                x->dq[queries + at + lane * x->row + c] += w->out[c * LANES + lane];
    }
}

/* Zeroes a head's share of masks [m, m + n_masks) of a gradient that is to be overwritten. */
static void clear(const struct cross *x, struct tensor t, int64_t m, int64_t n_masks, int64_t head)
{
    const int64_t n_tokens = t.dim[1];
    float *at = (float *)t.data + m * n_tokens * x->row + head * x->g.d;

    for (int64_t i = 0; i < n_masks * n_tokens; i++)
        memset(at + i * x->row, 0, (size_t)x->g.d * sizeof *at);
}

enum status cross_attention_bwd_cpu(struct tensor dq, struct tensor dk, struct tensor dv,
                                    struct tensor dy, struct tensor y, struct tensor lse,
                                    struct tensor q, struct tensor k, struct tensor v,
                                    struct tensor n_keys, int n_heads, struct stream *s)
{
    const struct tensor grads[] = { dq, dk, dv };
    struct cross x = { 0 };
    float *scratch;

    TRY(cross_attention_bwd_check(&x.g, dq, dk, dv, dy, y, lse, q, k, v, n_keys, n_heads));
    const struct cross_attention_shape *g = &x.g;
    const int n_threads = omp_get_max_threads();

    STREAM_SCRATCH(s, scratch, n_threads * work_floats(&x) * (int64_t)sizeof *scratch);
    x = (struct cross){ .g = x.g, .row = g->heads * g->d, .n_keys = n_keys.data };
    x.scale = (float)(1 / sqrt((double)g->d));
    x.q = q.data;
    x.k = k.data;
    x.v = v.data;
    x.dy = dy.data;
    x.y = y.data;
    x.lse = lse.data;
    x.dq = dq.data;
    x.dk = dk.data;
    x.dv = dv.data;

    /* masks that share a gradient are taken in order by one thread */
    const bool apart = g->mq == g->m && g->mk == g->m;
    const int64_t n_own = apart ? g->m : 1, n_masks = apart ? 1 : g->m;

#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n_own * g->heads; i++) {
        const struct work w = work_at(&x, scratch + omp_get_thread_num() * work_floats(&x));
        const int64_t first = i / g->heads, head = i % g->heads;

        for (size_t j = 0; j < sizeof grads / sizeof *grads; j++)
            if (grads[j].data && !grads[j].add)
                clear(&x, grads[j], first, apart ? 1 : grads[j].dim[0], head);
        for (int64_t m = first; m < first + n_masks; m++) backward(&x, &w, m, head);
    }
    return OK;
}
