#include "kernels/attention.h"

#include <math.h>

#include "kernels/attention_check.h"
#include "kernels/ref/activation.h"

/* One window of one image and one head, its tokens numbered row by row. */
struct window {
    const struct attention_shape *g;
    const float *qkv, *bias, *rel_h, *rel_w;
    int64_t n, y0, x0, head;
};

/* The index of window token t among the n·h·w tokens, or −1 for padding. */
static int64_t token(const struct window *win, int64_t t)
{
    const struct attention_shape *g = win->g;
    const int64_t y = win->y0 + t / g->kw, x = win->x0 + t % g->kw;

    return y < g->h && x < g->w ? (win->n * g->h + y) * g->w + x : -1;
}

/* Where the q (part 0), k (1) or v (2) of a token stands in qkv; of padding, in the bias. */
static int64_t part_index(const struct window *win, int64_t tok, int part)
{
    const struct attention_shape *g = win->g;

    return (tok < 0 ? 0 : tok * 3 * g->heads * g->d) + (part * g->heads + win->head) * g->d;
}

static const float *part(const struct window *win, int64_t tok, int p)
{
    return (tok < 0 ? win->bias : win->qkv) + part_index(win, tok, p);
}

static int64_t rel_row(int64_t q, int64_t k, int64_t size)
{
    return q - k + size - 1;
}

/* p[k] = softmax of the scores of query tq; returns the log of the sum of their exponentials. */
static double softmax(const struct window *win, int64_t tq, double *p)
{
    const struct attention_shape *g = win->g;
    const float *q = part(win, token(win, tq), 0);
    const double scale = 1.0 / sqrt((double)g->d);
    double max = -INFINITY, sum = 0;

    for (int64_t tk = 0; tk < g->t; tk++) {
        const float *k = part(win, token(win, tk), 1);
        double s = 0;

        for (int64_t c = 0; c < g->d; c++) s += (double)q[c] * k[c] * scale;
        if (g->has_rel) {
            const float *rh = win->rel_h + rel_row(tq / g->kw, tk / g->kw, g->kh) * g->d;
            const float *rw = win->rel_w + rel_row(tq % g->kw, tk % g->kw, g->kw) * g->d;

            for (int64_t c = 0; c < g->d; c++) s += (double)q[c] * rh[c] + (double)q[c] * rw[c];
        }
        p[tk] = s;
        max = fmax(max, s);
    }
    for (int64_t tk = 0; tk < g->t; tk++) sum += exp(p[tk] - max);
    for (int64_t tk = 0; tk < g->t; tk++) p[tk] = exp(p[tk] - max) / sum;
    return max + log(sum);
}

static int64_t n_windows(const struct attention_shape *g)
{
    return g->n * g->n_down * g->n_wide * g->heads;
}

static struct window window_at(const struct attention_shape *g, int64_t i, struct tensor qkv,
                               struct tensor bias, struct tensor rel_h, struct tensor rel_w)
{
    struct window win = { .g = g, .qkv = qkv.data, .bias = bias.data };

    win.rel_h = rel_h.data;
    win.rel_w = rel_w.data;
    win.head = i % g->heads;
    i /= g->heads;
    win.x0 = i % g->n_wide * g->kw;
    i /= g->n_wide;
    win.y0 = i % g->n_down * g->kh;
    win.n = i / g->n_down;
    return win;
}

enum status attention_fwd_ref(struct tensor y, struct tensor lse, struct tensor qkv,
                              struct tensor qkv_bias, struct tensor rel_h, struct tensor rel_w,
                              int n_heads, int window, struct stream *s)
{
    struct attention_shape g;
    double *p;

    TRY(attention_fwd_check(&g, y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window));
    STREAM_SCRATCH(s, p, g.t * (int64_t)sizeof *p);

    for (int64_t i = 0; i < n_windows(&g); i++) {
        const struct window win = window_at(&g, i, qkv, qkv_bias, rel_h, rel_w);

        for (int64_t tq = 0; tq < g.t; tq++) {
            const int64_t tok = token(&win, tq), in_image = tok % (g.h * g.w);

            if (tok < 0) continue;
            ((float *)lse.data)[(win.n * g.heads + win.head) * g.h * g.w + in_image] =
                (float)softmax(&win, tq, p);
            for (int64_t c = 0; c < g.d; c++) {
                double sum = 0;

                for (int64_t tk = 0; tk < g.t; tk++)
                    sum += p[tk] * part(&win, token(&win, tk), 2)[c];
                ((float *)y.data)[(tok * g.heads + win.head) * g.d + c] = (float)sum;
            }
        }
    }
    return OK;
}

/* The sums of all gradients, in double, before they are rounded once. */
struct sums {
    double *qkv, *bias, *rel_h, *rel_w, *p, *dp;
};

/* Adds the gradients that flow from one query. */
static void query_bwd(const struct window *win, int64_t tq, const float *dy, const struct sums *sum)
{
    const struct attention_shape *g = win->g;
    const int64_t tok = token(win, tq), d = g->d;
    const float *q = part(win, tok, 0);
    double *dq = sum->qkv + part_index(win, tok, 0);
    const double scale = 1.0 / sqrt((double)d);
    double delta = 0;

    softmax(win, tq, sum->p);
    for (int64_t tk = 0; tk < g->t; tk++) {
        const float *v = part(win, token(win, tk), 2);

        sum->dp[tk] = 0;
        for (int64_t c = 0; c < d; c++) sum->dp[tk] += (double)dy[c] * v[c];
        delta += sum->p[tk] * sum->dp[tk];
    }
    for (int64_t tk = 0; tk < g->t; tk++) {
        const int64_t key = token(win, tk);
        const double p = sum->p[tk], ds = p * (sum->dp[tk] - delta);
        const float *k = part(win, key, 1);
        double *dk = (key < 0 ? sum->bias : sum->qkv) + part_index(win, key, 1);
        double *dv = (key < 0 ? sum->bias : sum->qkv) + part_index(win, key, 2);
        const int64_t row_h = rel_row(tq / g->kw, tk / g->kw, g->kh) * d;
        const int64_t row_w = rel_row(tq % g->kw, tk % g->kw, g->kw) * d;

        for (int64_t c = 0; c < d; c++) {
            dq[c] += ds * scale * k[c];
            dk[c] += ds * scale * q[c];
            dv[c] += p * dy[c];
            if (!g->has_rel) continue;
            dq[c] += ds * ((double)win->rel_h[row_h + c] + win->rel_w[row_w + c]);
            sum->rel_h[row_h + c] += ds * q[c];
            sum->rel_w[row_w + c] += ds * q[c];
        }
    }
}

/* y and lse are for the fast backends; here the softmax is formed anew, in double. */
enum status attention_bwd_ref(struct tensor dqkv, struct tensor dqkv_bias, struct tensor drel_h,
                              struct tensor drel_w, struct tensor dy, struct tensor y,
                              struct tensor lse, struct tensor qkv, struct tensor qkv_bias,
                              struct tensor rel_h, struct tensor rel_w, int n_heads, int window,
                              struct stream *s)
{
    struct attention_shape g;
    struct sums sum;
    double *scratch;

    TRY(attention_bwd_check(&g, dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias, rel_h,
                            rel_w, n_heads, window));
    const int64_t channels = 3 * g.heads * g.d;
    const int64_t n_qkv = g.n * g.h * g.w * channels,
                  n_sums = n_qkv + channels + (2 * g.kh - 1 + 2 * g.kw - 1) * g.d;

    STREAM_SCRATCH(s, scratch, (n_sums + 2 * g.t) * (int64_t)sizeof *scratch);
    for (int64_t i = 0; i < n_sums; i++) scratch[i] = 0;
    sum.qkv = scratch;
    sum.bias = sum.qkv + n_qkv;
    sum.rel_h = sum.bias + channels;
    sum.rel_w = sum.rel_h + (2 * g.kh - 1) * g.d;
    sum.p = scratch + n_sums;
    sum.dp = sum.p + g.t;

    for (int64_t i = 0; i < n_windows(&g); i++) {
        const struct window win = window_at(&g, i, qkv, qkv_bias, rel_h, rel_w);

        for (int64_t tq = 0; tq < g.t; tq++) {
            const int64_t tok = token(&win, tq);

            if (tok >= 0)
                query_bwd(&win, tq, (const float *)dy.data + (tok * g.heads + win.head) * g.d,
                          &sum);
        }
    }
    gradient_put_all(dqkv, sum.qkv);
    gradient_put_all(dqkv_bias, sum.bias);
    gradient_put_all(drel_h, sum.rel_h);
    gradient_put_all(drel_w, sum.rel_w);
    return OK;
}
