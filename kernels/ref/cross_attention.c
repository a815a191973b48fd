#include "kernels/cross_attention.h"

#include <math.h>

#include "kernels/base/check.h"
#include "kernels/cross_attention_check.h"
#include "kernels/ref/activation.h"

static int64_t key_count(const struct cross_attention_shape *g, struct tensor n_keys, int64_t m)
{
    const int64_t n = n_keys.data ? ((const int32_t *)n_keys.data)[m] : g->tk;

    ASSERT(n >= 1 && n <= g->tk);
    return n;
}

/* Where (mask, token, head) begins in a (·,T,A·D) tensor that n_masks masks own, m or 1. */
static int64_t place(const struct cross_attention_shape *g, int64_t n_masks, int64_t t_count,
                     int64_t m, int64_t t, int64_t head)
{
    return (((n_masks == 1 ? 0 : m) * t_count + t) * g->heads + head) * g->d;
}

/* p[k] = softmax of one query's scores; returns the log of the sum of their exponentials. */
static double softmax(const struct cross_attention_shape *g, const float *q, const float *k,
                      int64_t n_keys, double *p)
{
    const double scale = 1.0 / sqrt((double)g->d);
    double max = -INFINITY, sum = 0;

    for (int64_t t = 0; t < n_keys; t++) {
        p[t] = 0;
        for (int64_t c = 0; c < g->d; c++)
            p[t] += (double)q[c] * k[t * g->heads * g->d + c] * scale;
        max = fmax(max, p[t]);
    }
    for (int64_t t = 0; t < n_keys; t++) sum += exp(p[t] - max);
    for (int64_t t = 0; t < n_keys; t++) p[t] = exp(p[t] - max) / sum;
    return max + log(sum);
}

enum status cross_attention_fwd_ref(struct tensor y, struct tensor lse, struct tensor q,
                                    struct tensor k, struct tensor v, struct tensor n_keys,
                                    int n_heads, struct stream *s)
{
    struct cross_attention_shape g;
    double *p;

    TRY(cross_attention_fwd_check(&g, y, lse, q, k, v, n_keys, n_heads));
    STREAM_SCRATCH(s, p, g.tk * (int64_t)sizeof *p);

    for (int64_t i = 0; i < g.m * g.heads * g.tq; i++) {
        const int64_t m = i / (g.heads * g.tq), head = i / g.tq % g.heads, tq = i % g.tq;
        const int64_t n = key_count(&g, n_keys, m), keys = place(&g, g.mk, g.tk, m, 0, head);
        const float *values = (const float *)v.data + keys;
        float *out = (float *)y.data + place(&g, g.m, g.tq, m, tq, head);

        ((float *)lse.data)[i] =
            (float)softmax(&g, (const float *)q.data + place(&g, g.mq, g.tq, m, tq, head),
                           (const float *)k.data + keys, n, p);
        for (int64_t c = 0; c < g.d; c++) {
            double sum = 0;

            for (int64_t t = 0; t < n; t++) sum += p[t] * values[t * g.heads * g.d + c];
            out[c] = (float)sum;
        }
    }
    return OK;
}

/* y and lse are for the fast backends; here the softmax is formed anew, in double. */
enum status cross_attention_bwd_ref(struct tensor dq, struct tensor dk, struct tensor dv,
                                    struct tensor dy, struct tensor y, struct tensor lse,
                                    struct tensor q, struct tensor k, struct tensor v,
                                    struct tensor n_keys, int n_heads, struct stream *s)
{
    struct cross_attention_shape g;
    double *sum_q;

    TRY(cross_attention_bwd_check(&g, dq, dk, dv, dy, y, lse, q, k, v, n_keys, n_heads));
    const double scale = 1.0 / sqrt((double)g.d);
    const int64_t row = g.heads * g.d, n_q = g.mq * g.tq * row, n_k = g.mk * g.tk * row;

    STREAM_SCRATCH(s, sum_q, (n_q + 2 * n_k + 2 * g.tk) * (int64_t)sizeof *sum_q);
    double *sum_k = sum_q + n_q, *sum_v = sum_k + n_k, *p = sum_v + n_k, *dp = p + g.tk;

    for (int64_t i = 0; i < n_q + 2 * n_k; i++) sum_q[i] = 0;
    for (int64_t i = 0; i < g.m * g.heads * g.tq; i++) {
        const int64_t m = i / (g.heads * g.tq), head = i / g.tq % g.heads, tq = i % g.tq;
        const int64_t n = key_count(&g, n_keys, m);
        const int64_t query = place(&g, g.mq, g.tq, m, tq, head);
        const int64_t keys = place(&g, g.mk, g.tk, m, 0, head);
        const float *qc = (const float *)q.data + query, *kc = (const float *)k.data + keys;
        const float *vc = (const float *)v.data + keys;
        const float *dyc = (const float *)dy.data + place(&g, g.m, g.tq, m, tq, head);
        double delta = 0;

        softmax(&g, qc, kc, n, p);
        for (int64_t t = 0; t < n; t++) {
            dp[t] = 0;
            for (int64_t c = 0; c < g.d; c++) dp[t] += (double)dyc[c] * vc[t * row + c];
            delta += p[t] * dp[t];
        }
        for (int64_t t = 0; t < n; t++) {
            const double ds = p[t] * (dp[t] - delta) * scale;

            for (int64_t c = 0; c < g.d; c++) {
                sum_q[query + c] += ds * kc[t * row + c];
                sum_k[keys + t * row + c] += ds * qc[c];
                sum_v[keys + t * row + c] += p[t] * dyc[c];
            }
        }
    }
    gradient_put_all(dq, sum_q);
    gradient_put_all(dk, sum_k);
    gradient_put_all(dv, sum_v);
    return OK;
}
