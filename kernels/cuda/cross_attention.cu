#include "kernels/cross_attention_check.h"

#include <cmath>

#include "kernels/cuda/flash.h"

/* A mask and a head: its tokens' rows lie `stride` apart. */
template <class T> struct cross_slice {
    const T *q, *k, *v, *dy;
    T *y;
    int64_t stride, first_lse;
    int n_q, n_k;

    DEVICE const T *row(part which, int t) const
    {
        const bool of_query = which == QUERY || which == GRADIENT;
        const T *const rows = which == QUERY ? q : which == KEY ? k : which == VALUE ? v : dy;

        return t < (of_query ? n_q : n_k) ? rows + t * stride : NULL;
    }

    DEVICE int64_t query(int t) const { return t < n_q ? first_lse + t : -1; }

    DEVICE float bias(int64_t, int) const { return 0; }

    DEVICE void add_terms(int64_t, const float (&)[ROWS + 1], int, int) const {}

    DEVICE T *y_row(int t) const { return y + t * stride; }
};

template <class T> struct cross_problem {
    const T *q, *k, *v, *dy;
    const float *lse, *delta;
    const int32_t *n_keys; /* or NULL */
    T *y, *dq, *dk, *dv;
    float *lse_out;
    float *padding_sums; /* NULL: there is no padding */
    int64_t m, mq, mk;
    int tq, tk, heads, d;
    float scale;
    bool add_q, add_k, add_v;

    /* n_masks masks own the tensor, m or 1 */
    DEVICE int64_t place(int64_t n_masks, int64_t mask, int n_t, int head) const
    {
        return ((n_masks == 1 ? 0 : mask) * n_t * heads + head) * d;
    }

    DEVICE cross_slice<T> slice(int64_t mask, int head) const
    {
        const int64_t own_q = place(mq, mask, tq, head), own_k = place(mk, mask, tk, head);
        const int64_t own_y = place(m, mask, tq, head);

        return cross_slice<T>{ q + own_q,
                               k + own_k,
                               v + own_k,
                               dy + own_y,
                               y + own_y,
                               (int64_t)heads * d,
                               (mask * heads + head) * tq,
                               tq,
                               n_keys ? n_keys[mask] : tk };
    }

    DEVICE slice_range slices_of_query(int64_t owner) const
    {
        return mq == m ? slice_range{ owner, owner + 1 } : slice_range{ 0, m };
    }

    DEVICE slice_range slices_of_key(int64_t owner) const
    {
        return mk == m ? slice_range{ owner, owner + 1 } : slice_range{ 0, m };
    }

    DEVICE void begin_terms(int64_t, int) const {}

    DEVICE float terms_gradient(int64_t, int, int) const { return 0; }

    DEVICE T *dq_row(int64_t owner, int head, int t) const
    {
        return t < tq ? dq + place(mq, owner, tq, head) + (int64_t)t * heads * d : NULL;
    }

    DEVICE T *key_row(T *rows, int64_t owner, int head, int t) const
    {
        return rows && t < tk ? rows + place(mk, owner, tk, head) + (int64_t)t * heads * d : NULL;
    }

    DEVICE T *dk_row(int64_t owner, int head, int t) const { return key_row(dk, owner, head, t); }

    DEVICE T *dv_row(int64_t owner, int head, int t) const { return key_row(dv, owner, head, t); }

    DEVICE bool is_padding(int64_t, int) const { return false; }
};

template <class T>
static cross_problem<T> problem_of(const struct cross_attention_shape &g, struct tensor q,
                                   struct tensor k, struct tensor v, struct tensor n_keys)
{
    cross_problem<T> p = {};

    p.q = (const T *)q.data;
    p.k = (const T *)k.data;
    p.v = (const T *)v.data;
    p.n_keys = (const int32_t *)n_keys.data;
    p.m = g.m;
    p.mq = g.mq;
    p.mk = g.mk;
    p.tq = (int)g.tq;
    p.tk = (int)g.tk;
    p.heads = (int)g.heads;
    p.d = (int)g.d;
    p.scale = 1 / sqrtf((float)g.d);
    return p;
}

template <class T>
static enum status launch_fwd(cross_problem<T> p, struct tensor y, struct tensor lse,
                              struct stream *s)
{
    p.y = (T *)y.data;
    p.lse_out = (float *)lse.data;
    FLASH_LAUNCH(flash_fwd, p, p.m, p.tq, s);
    return OK;
}

extern "C" enum status cross_attention_fwd_cuda(struct tensor y, struct tensor lse, struct tensor q,
                                                struct tensor k, struct tensor v,
                                                struct tensor n_keys, int n_heads, struct stream *s)
{
    struct cross_attention_shape g;

    TRY(cross_attention_fwd_check(&g, y, lse, q, k, v, n_keys, n_heads));
    TRY(flash_check("cross_attention_fwd", g.m, g.heads, g.tq > g.tk ? g.tq : g.tk, g.d));
    STREAM_NO_SCRATCH(s);

    BY_DTYPE(y, return launch_fwd(problem_of<T>(g, q, k, v, n_keys), y, lse, s));
}

template <class T>
static enum status launch_bwd(cross_problem<T> p, struct tensor dq, struct tensor dk,
                              struct tensor dv, struct tensor dy, struct tensor lse,
                              const float *delta, struct stream *s)
{
    p.dy = (const T *)dy.data;
    p.lse = (const float *)lse.data;
    p.delta = delta;
    p.dq = (T *)dq.data;
    p.dk = (T *)dk.data;
    p.dv = (T *)dv.data;
    p.add_q = dq.add;
    p.add_k = dk.add;
    p.add_v = dv.add;
    if (dq.data) FLASH_LAUNCH(flash_dq, p, p.mq, p.tq, s);
    if (dk.data || dv.data) FLASH_LAUNCH(flash_dkv, p, p.mk, p.tk, s);
    return OK;
}

extern "C" enum status cross_attention_bwd_cuda(struct tensor dq, struct tensor dk,
                                                struct tensor dv, struct tensor dy, struct tensor y,
                                                struct tensor lse, struct tensor q, struct tensor k,
                                                struct tensor v, struct tensor n_keys, int n_heads,
                                                struct stream *s)
{
    struct cross_attention_shape g;
    void *scratch; /* delta (M,A,Tq) f32 */

    TRY(cross_attention_bwd_check(&g, dq, dk, dv, dy, y, lse, q, k, v, n_keys, n_heads));
    TRY(flash_check("cross_attention_bwd", g.m, g.heads, g.tq > g.tk ? g.tq : g.tk, g.d));
    STREAM_SCRATCH(s, scratch, g.m * g.heads * g.tq * (int64_t)sizeof(float));

    TRY(flash_deltas((float *)scratch, dy, y, g.m, g.tq, g.heads, g.d, s));
    BY_DTYPE(y, return launch_bwd(problem_of<T>(g, q, k, v, n_keys), dq, dk, dv, dy, lse,
                                  (const float *)scratch, s));
}
