#include "kernels/attention_check.h"

#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_launch.h"

/* F32, and BF16 where D is not a multiple of 8, on CUDA cores; other BF16 is in flash_bf16.h.
 *
 * Relative positions: q·Rh and q·Rw, for each query its Kh + Kw terms of a score, are formed once and
 * read by all tiles; backward, a query's gradients of its terms are kept in the same shape, and
 * the tables' gradients are sums over them. Both are as large as a layer's activations. */

template <class T> struct self_problem {
    const T *qkv, *qkv_bias, *dy;
    const float *rel_h, *rel_w, *lse, *delta;
    const float *terms; /* (N,A,H,W,Kh+Kw), or NULL */
    float *dterms;      /* the same, or NULL: not wanted */
    T *y, *dqkv;
    float *lse_out;
    float *padding_sums; /* (windows, tiles, 2, A, D): dk and dv of padding; NULL: there is none */
    int h, w, heads, d, kh, kw, n_down, n_wide;
    float scale;
    bool add_q, add_k, add_v;

    struct place {
        int64_t image;
        int y0, x0; /* of the window */
    };

    DEVICE place window(int64_t i) const
    {
        const int n = (int)i; /* a 64-bit division is a call, and costs registers */

        return place{ n / n_wide / n_down, n / n_wide % n_down * kh, n % n_wide * kw };
    }

    /* A token of a window within the image's H·W; -1 for padding. */
    DEVICE int token(const place &win, int t) const
    {
        const int y_at = win.y0 + t / kw, x_at = win.x0 + t % kw;

        return t < kh * kw && y_at < h && x_at < w ? y_at * w + x_at : -1;
    }

    /* Where a part (0 q, 1 k, 2 v) of a token stands in qkv. */
    DEVICE int64_t part_at(const place &win, int tok, int which, int head) const
    {
        return ((win.image * h * w + tok) * 3 + which) * heads * d + (int64_t)head * d;
    }

    struct window_slice;
    DEVICE window_slice slice(int64_t i, int head) const;

    DEVICE slice_range slices_of_query(int64_t owner) const
    {
        return slice_range{ owner, owner + 1 };
    }

    DEVICE slice_range slices_of_key(int64_t owner) const
    {
        return slice_range{ owner, owner + 1 };
    }

    /* Every slot of a query's terms belongs to one lane. */
    DEVICE void begin_terms(int64_t at, int lane) const
    {
        if (!dterms || at < 0) return;
        float *const own = dterms + at * (kh + kw);

        for (int i = lane; i < kh; i += LANES) own[i] = 0;
        for (int i = lane; i < kw; i += LANES) own[kh + i] = 0;
    }

    /* of q[c], by way of the terms of window token t */
    DEVICE float terms_gradient(int64_t at, int t, int c) const
    {
        if (!dterms || at < 0) return 0;
        const float *const own = dterms + at * (kh + kw);
        const float *const h_row = rel_h + (int64_t)(t / kw + kh - 1) * d + c;
        const float *const w_row = rel_w + (int64_t)(t % kw + kw - 1) * d + c;
        float sum = 0;

        for (int i = 0; i < kh; i++) sum += own[i] * h_row[-(int64_t)i * d];
        for (int i = 0; i < kw; i++) sum += own[kh + i] * w_row[-(int64_t)i * d];
        return sum;
    }

    DEVICE T *part_row(int64_t owner, int which, int head, int t) const
    {
        const place win = window(owner);
        const int tok = token(win, t);

        return dqkv && tok >= 0 ? dqkv + part_at(win, tok, which, head) : NULL;
    }

    DEVICE T *dq_row(int64_t owner, int head, int t) const { return part_row(owner, 0, head, t); }

    DEVICE T *dk_row(int64_t owner, int head, int t) const { return part_row(owner, 1, head, t); }

    DEVICE T *dv_row(int64_t owner, int head, int t) const { return part_row(owner, 2, head, t); }

    DEVICE bool is_padding(int64_t owner, int t) const
    {
        return t < kh * kw && token(window(owner), t) < 0;
    }
};

/* A window and a head. */
template <class T> struct self_problem<T>::window_slice {
    const self_problem &p;
    place win;
    int head, n_q, n_k;

    DEVICE const T *row(part which, int t) const
    {
        const int tok = p.token(win, t);
        const int part = which == KEY ? 1 : which == VALUE ? 2 : 0;

        if (which == GRADIENT)
            return tok < 0 ? NULL : p.dy + ((win.image * p.h * p.w + tok) * p.heads + head) * p.d;
        if (tok >= 0) return p.qkv + p.part_at(win, tok, part, head);
        if (which == QUERY || t >= n_k) return NULL;
        return p.qkv_bias + (int64_t)(part * p.heads + head) * p.d;
    }

    DEVICE int64_t query(int t) const
    {
        const int tok = p.token(win, t);

        return tok < 0 ? -1 : (win.image * p.heads + head) * p.h * p.w + tok;
    }

    DEVICE float bias(int64_t at, int key) const
    {
        if (!p.terms || at < 0) return 0;
        const float *const own = p.terms + at * (p.kh + p.kw);

        return own[key / p.kw] + own[p.kh + key % p.kw];
    }

    /* ds: of the keys from k0 on */
    DEVICE void add_terms(int64_t at, const float (&ds)[ROWS + 1], int k0, int lane) const
    {
        if (!p.dterms || at < 0) return;
        float *const own = p.dterms + at * (p.kh + p.kw);
        int ky = k0 / p.kw, kx = k0 % p.kw;

        for (int t = 0; t < ROWS && k0 + t < n_k; t++) {
            if (ky % LANES == lane) own[ky] += ds[t];
            if (kx % LANES == lane) own[p.kh + kx] += ds[t];
            if (++kx == p.kw) {
                kx = 0;
                ky++;
            }
        }
    }

    DEVICE T *y_row(int t) const
    {
        return p.y + ((win.image * p.h * p.w + p.token(win, t)) * p.heads + head) * p.d;
    }
};

template <class T>
DEVICE typename self_problem<T>::window_slice self_problem<T>::slice(int64_t i, int head) const
{
    return window_slice{ *this, window(i), head, kh * kw, kh * kw };
}

/* terms. A warp owns a query and head, a lane every 32nd term: q is read by all lanes at once, the
 * tables stay in L1. Terms are written once. Bound by L1: 8 bytes an FMA. */
template <class T>
__global__ static void __launch_bounds__(FLASH_THREADS)
    rel_terms(float *terms, self_problem<T> p, int64_t n_rows)
{
    const int64_t at = (int64_t)blockIdx.x * FLASH_WARPS + (int)threadIdx.x / 32;
    const int64_t image = at / (p.h * p.w) / p.heads;
    const int head = (int)(at / (p.h * p.w) % p.heads), tok = (int)(at % (p.h * p.w));
    const int y = tok / p.w % p.kh, x = tok % p.w % p.kw;

    if (at >= n_rows) return;
    const T *const q =
        p.qkv + p.part_at(typename self_problem<T>::place{ image, 0, 0 }, tok, 0, head);

    for (int i = (int)threadIdx.x % 32; i < p.kh + p.kw; i += 32) {
        const float *const row = i < p.kh ? p.rel_h + (int64_t)(y - i + p.kh - 1) * p.d
                                          : p.rel_w + (int64_t)(x - (i - p.kh) + p.kw - 1) * p.d;
        float sum = 0;

        for (int c = 0; c < p.d; c++) sum += element_load(q + c) * row[c];
        terms[at * (p.kh + p.kw) + i] = sum;
    }
}

enum { OWN_TABLE_C = FLASH_MAX_D / 32 };

/* Row `blockIdx.y` of a table's gradient over a chunk of queries: (chunk, row, D). Along says which
 * table. A warp takes every fourth query: those that see this row at one of their terms; a lane
 * owns every 32nd channel. The warps' sums meet in shared memory, in order.
 * q is read once for every row that it meets, from L2. */
template <class T>
__global__ static void __launch_bounds__(FLASH_THREADS)
    rel_chunks(float *sums, self_problem<T> p, bool along_w, int64_t n_rows, int64_t chunk)
{
    __shared__ float part[FLASH_WARPS][FLASH_MAX_D];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int size = along_w ? p.kw : p.kh, row = (int)blockIdx.y;
    const int64_t first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_rows ? first + chunk : n_rows;
    float own[OWN_TABLE_C] = {};

    for (int64_t at = first + warp; at < end; at += FLASH_WARPS) {
        const int tok = (int)(at % (p.h * p.w)), head = (int)(at / (p.h * p.w) % p.heads);
        const int64_t image = at / (p.h * p.w) / p.heads;
        const int of_query = along_w ? tok % p.w % p.kw : tok / p.w % p.kh;
        const int of_key = of_query - row + size - 1;

        if (of_key < 0 || of_key >= size) continue;
        const T *const q =
            p.qkv + p.part_at(typename self_problem<T>::place{ image, 0, 0 }, tok, 0, head);
        const float g = p.dterms[at * (p.kh + p.kw) + (along_w ? p.kh : 0) + of_key];

#pragma unroll
        for (int i = 0; i < OWN_TABLE_C; i++)
            if (lane + 32 * i < p.d) own[i] += g * element_load(q + lane + 32 * i);
    }
#pragma unroll
    for (int i = 0; i < OWN_TABLE_C; i++) part[warp][lane + 32 * i] = own[i];
    __syncthreads();
    if ((int)threadIdx.x >= p.d) return;
    float sum = 0;

    for (int k = 0; k < FLASH_WARPS; k++) sum += part[k][threadIdx.x];
    sums[((int64_t)blockIdx.x * gridDim.y + blockIdx.y) * p.d + (int)threadIdx.x] = sum;
}

/* bias: padding's, in T */
template <class T>
static self_problem<T> problem_of(const struct attention_shape &g, struct tensor qkv, const T *bias,
                                  struct tensor rel_h, struct tensor rel_w)
{
    self_problem<T> p = {};

    p.qkv = (const T *)qkv.data;
    p.qkv_bias = bias;
    p.rel_h = (const float *)rel_h.data;
    p.rel_w = (const float *)rel_w.data;
    p.h = (int)g.h;
    p.w = (int)g.w;
    p.heads = (int)g.heads;
    p.d = (int)g.d;
    p.kh = (int)g.kh;
    p.kw = (int)g.kw;
    p.n_down = (int)g.n_down;
    p.n_wide = (int)g.n_wide;
    p.scale = 1 / sqrtf((float)g.d);
    return p;
}

static int64_t window_count(const struct attention_shape &g)
{
    return g.n * g.n_down * g.n_wide;
}

static int64_t query_count(const struct attention_shape &g)
{
    return g.n * g.heads * g.h * g.w;
}

static int64_t term_count(const struct attention_shape &g)
{
    return g.has_rel ? query_count(g) * (g.kh + g.kw) : 0;
}

/* Also what the kernels' ints and grids hold. */
static enum status check_size(const char *op, const struct attention_shape &g)
{
    TRY(flash_check(op, window_count(g), g.heads, g.t, g.d));
    return flash_check(op, g.n, g.heads, g.h * g.w, g.d);
}

/* qkv_bias as qkv is: itself, or rounded in room. */
static enum status padding_of(const float **bias, void *, struct tensor qkv_bias,
                              const struct attention_shape &, struct stream *)
{
    *bias = (const float *)qkv_bias.data;
    return OK;
}

static enum status padding_of(const bf16 **bias, void *room, struct tensor qkv_bias,
                              const struct attention_shape &g, struct stream *s)
{
    *bias = (const bf16 *)room;
    return g.padded
               ? flash_round((bf16 *)room, (const float *)qkv_bias.data, tensor_count(qkv_bias), s)
               : OK;
}

static int64_t padding_count(const struct attention_shape &g)
{
    return g.padded ? (3 * g.heads * g.d + 3) / 4 * 4 : 0;
}

template <class T>
static enum status make_terms(self_problem<T> *p, float *terms, const struct attention_shape &g,
                              struct stream *s)
{
    const int64_t n_rows = query_count(g);

    if (!g.has_rel || n_rows == 0) return OK;
    LAUNCH((rel_terms<T>), (unsigned)((n_rows + FLASH_WARPS - 1) / FLASH_WARPS), FLASH_THREADS, 0,
           s, terms, *p, n_rows);
    p->terms = terms;
    return OK;
}

template <class T>
static enum status forward(const struct attention_shape &g, struct tensor y, struct tensor lse,
                           struct tensor qkv, struct tensor qkv_bias, struct tensor rel_h,
                           struct tensor rel_w, struct stream *s)
{
    const T *bias;
    void *scratch; /* terms, padding */

    TRY(check_size("attention_fwd", g));
    STREAM_SCRATCH(s, scratch, (term_count(g) + padding_count(g)) * (int64_t)sizeof(float));
    TRY(padding_of(&bias, (float *)scratch + term_count(g), qkv_bias, g, s));

    self_problem<T> p = problem_of<T>(g, qkv, bias, rel_h, rel_w);

    p.y = (T *)y.data;
    p.lse_out = (float *)lse.data;
    TRY(make_terms(&p, (float *)scratch, g, s));
    FLASH_LAUNCH(flash_fwd, p, window_count(g), g.t, s);
    return OK;
}

extern "C" enum status attention_fwd_cuda(struct tensor y, struct tensor lse, struct tensor qkv,
                                          struct tensor qkv_bias, struct tensor rel_h,
                                          struct tensor rel_w, int n_heads, int window,
                                          struct stream *s)
{
    struct attention_shape g;

    TRY(attention_fwd_check(&g, y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window));
    if (qkv.dtype == BF16 && flash_bf16_takes(g))
        return flash_bf16_forward(g, y, lse, qkv, qkv_bias, rel_h, rel_w, s);
    BY_DTYPE(qkv, return forward<T>(g, y, lse, qkv, qkv_bias, rel_h, rel_w, s));
}

/* Queries of one chunk of a table's gradient: fixed by the shape, hence the order of all sums. */
static int64_t rel_chunk(int64_t n_rows)
{
    static const int64_t min_chunk = 64, max_chunks = 64;
    const int64_t even = (n_rows + max_chunks - 1) / max_chunks;

    return even < min_chunk ? min_chunk : even;
}

static int64_t rel_chunk_count(const struct attention_shape &g)
{
    const int64_t chunk = rel_chunk(query_count(g));

    return (query_count(g) + chunk - 1) / chunk;
}

template <class T>
static enum status table_bwd(struct tensor dtable, const self_problem<T> &p, bool along_w,
                             float *sums, const struct attention_shape &g, struct stream *s)
{
    const int64_t n_rows = query_count(g), n = tensor_count(dtable);
    const int64_t n_chunks = rel_chunk_count(g);

    if (!dtable.data) return OK;
    if (n_rows > 0)
        LAUNCH((rel_chunks<T>), dim3((unsigned)n_chunks, (unsigned)dtable.dim[0]), FLASH_THREADS, 0,
               s, sums, p, along_w, n_rows, rel_chunk(n_rows));
    LAUNCH(sum_chunks, (unsigned)((n + SLOPE_THREADS - 1) / SLOPE_THREADS), SLOPE_THREADS, 0, s,
           (float *)dtable.data, dtable.add, sums, n_chunks, n);
    return OK;
}

template <class T>
static enum status backward(const struct attention_shape &g, struct tensor dqkv,
                            struct tensor dqkv_bias, struct tensor drel_h, struct tensor drel_w,
                            struct tensor dy, struct tensor y, struct tensor lse, struct tensor qkv,
                            struct tensor qkv_bias, struct tensor rel_h, struct tensor rel_w,
                            struct stream *s)
{
    const T *bias;
    void *scratch; /* delta, terms, dterms, padding, its sums, a table's */

    TRY(check_size("attention_bwd", g));
    const int64_t n_sums = g.padded ? window_count(g) * flash_tiles(g.t) * 2 * g.heads * g.d : 0;
    const int64_t longer = 2 * (g.kh > g.kw ? g.kh : g.kw) - 1;
    const int64_t n_tables = g.has_rel ? rel_chunk_count(g) * longer * g.d : 0;

    STREAM_SCRATCH(s, scratch,
                   (query_count(g) + 2 * term_count(g) + padding_count(g) + n_sums + n_tables) *
                       (int64_t)sizeof(float));
    float *const delta = (float *)scratch, *const terms = delta + query_count(g);
    float *const dterms = terms + term_count(g), *const padding = dterms + term_count(g);
    float *const sums = padding + padding_count(g), *const tables = sums + n_sums;

    TRY(padding_of(&bias, padding, qkv_bias, g, s));
    self_problem<T> p = problem_of<T>(g, qkv, bias, rel_h, rel_w);

    p.dy = (const T *)dy.data;
    p.lse = (const float *)lse.data;
    p.delta = delta;
    p.dterms = g.has_rel ? dterms : NULL;
    p.dqkv = (T *)dqkv.data;
    p.padding_sums = g.padded && dqkv_bias.data ? sums : NULL;
    p.add_q = p.add_k = p.add_v = dqkv.add;
    TRY(make_terms(&p, terms, g, s));
    TRY(flash_deltas(delta, dy, y, g.n, g.h * g.w, g.heads, g.d, s));
    if (dqkv.data || drel_h.data || drel_w.data) FLASH_LAUNCH(flash_dq, p, window_count(g), g.t, s);
    if (dqkv.data || p.padding_sums) FLASH_LAUNCH(flash_dkv, p, window_count(g), g.t, s);
    TRY(table_bwd(drel_h, p, false, tables, g, s));
    TRY(table_bwd(drel_w, p, true, tables, g, s));
    return flash_bias_bwd(dqkv_bias, p.padding_sums, window_count(g) * flash_tiles(g.t),
                          g.heads * g.d, s);
}

extern "C" enum status attention_bwd_cuda(struct tensor dqkv, struct tensor dqkv_bias,
                                          struct tensor drel_h, struct tensor drel_w,
                                          struct tensor dy, struct tensor y, struct tensor lse,
                                          struct tensor qkv, struct tensor qkv_bias,
                                          struct tensor rel_h, struct tensor rel_w, int n_heads,
                                          int window, struct stream *s)
{
    struct attention_shape g;

    TRY(attention_bwd_check(&g, dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias, rel_h,
                            rel_w, n_heads, window));
    if (qkv.dtype == BF16 && flash_bf16_takes(g))
        return flash_bf16_backward(g, dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias,
                                   rel_h, rel_w, s);
    BY_DTYPE(qkv, return backward<T>(g, dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias,
                                     rel_h, rel_w, s));
}
