#include "kernels/image_to_token_check.h"

#include <cmath>

#include "kernels/cuda/image_to_token_rows.h"
#include "kernels/cuda/image_to_token_tiles.h"
#include "kernels/cuda/image_to_token_tokens.h"

static const int64_t MAX_GRID_YZ = 65535, MAX_SHARED = 163 << 10, PLAIN_SHARED = 48 << 10;
static const int64_t MAX_GROUPS = 8, WANTED_BLOCKS = 512, MIN_CHUNK = 128;

/* Tensor cores take bf16 of up to 256 channels, a multiple of 8, and up to 8 heads; the rest is done
 * by rows. By shape alone: scratch is asked for by it. */
static bool takes_tiles(const struct image_to_token_shape &g, enum dtype dtype)
{
    return dtype == BF16 && g.c % 8 == 0 && g.c <= TILES_MAX_C && g.heads <= TILES_MAX_HEADS;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static bool is_shared(const struct image_to_token_shape &g)
{
    return g.mx != g.m;
}

static enum status limits_check(const char *op, const struct image_to_token_shape &g, bool tiles)
{
    if (g.m > MAX_GRID_YZ || g.m * g.heads > INT32_MAX || g.n_x > INT32_MAX ||
        divide_up(g.d, D_CHUNK) * g.heads > MAX_GRID_YZ)
        FAIL(E_SHAPE, "%s: %lld masks, %lld heads, %lld positions: too many for a grid", op,
             (long long)g.m, (long long)g.heads, (long long)g.n_x);
    if (!tiles && rows_bwd_shared(g.c, g.heads * TOKENS) > MAX_SHARED)
        FAIL(E_SHAPE, "%s: rows of %lld channels and %lld heads do not fit into shared memory", op,
             (long long)g.c, (long long)g.heads);
    return OK;
}

static enum status alignment_check(const char *op, struct tensor t)
{
    if ((uintptr_t)t.data % 16 != 0)
        FAIL(E_SHAPE, "%s: a tensor at %p: bf16 must begin at a multiple of 16 bytes", op, t.data);
    return OK;
}

struct carver {
    char *base; /* NULL while planning */
    int64_t bytes;

    template <class E> E *take(int64_t n)
    {
        E *const p = base ? (E *)(base + bytes) : NULL;

        bytes += divide_up(n * (int64_t)sizeof(E), 256) * 256;
        return p;
    }
};

/* Where everything stands, and how work is cut: by shape alone, hence the order of all sums. */
template <class S>
static workspace<S> workspace_at(void *base, const struct image_to_token_shape &g, bool backward)
{
    const int64_t n_rows = g.heads * TOKENS, all_rows = g.m * n_rows;
    workspace<S> w = {};
    carver c = { (char *)base, 0 };

    w.n_tiles = divide_up(g.n_x, TILE_ROWS);
    w.a = c.take<S>(all_rows * g.c);
    w.b = c.take<S>(all_rows * g.c);
    w.c = c.take<float>(all_rows);
    w.bytes = c.bytes;
    if (!backward) return w;

    const int64_t blocks = g.m * 2 * divide_up(g.c, SUM_C);
    const int64_t wanted = blocks > 0 ? divide_up(WANTED_BLOCKS, blocks) : 1;
    const int64_t most = divide_up(g.n_x, MIN_CHUNK);

    w.chunk = divide_up(divide_up(g.n_x, wanted < most ? wanted : most), SUM_DEPTH) * SUM_DEPTH;
    w.n_chunks = divide_up(g.n_x, w.chunk);
    w.group = is_shared(g) && g.m > 0 ? divide_up(g.m, MAX_GROUPS) : 1;
    w.n_groups = divide_up(g.m, w.group);
    w.p = c.take<S>(g.n_x * all_rows);
    w.ds = c.take<S>(g.n_x * all_rows);
    w.dz = c.take<S>(g.m * g.n_x * g.c);
    w.dx_groups = is_shared(g) ? c.take<float>(w.n_groups * g.n_x * g.c) : NULL;
    w.norm_parts = c.take<float>(g.m * w.n_tiles * 2 * g.c);
    w.dc_parts = c.take<float>(w.n_tiles * all_rows);
    w.sum_parts = c.take<float>(w.n_chunks * 2 * all_rows * g.c);
    w.sums = w.n_chunks > 1 ? c.take<float>(2 * all_rows * g.c) : w.sum_parts;
    w.dc = c.take<float>(all_rows);
    w.bytes = c.bytes;
    return w;
}

template <class T>
static problem<T> problem_of(const struct image_to_token_shape &g, struct tensor x,
                             struct tensor pe, struct tensor k, struct tensor v,
                             struct tensor n_tokens, const struct image_to_token_weights *w,
                             struct tensor mean, struct tensor rstd, float eps, const dropout &drop)
{
    problem<T> f = {};

    f.x = (const T *)x.data;
    f.pe = (const T *)pe.data;
    f.k = (const T *)k.data;
    f.v = (const T *)v.data;
    f.wq = (const T *)w->wq.data;
    f.wo = (const T *)w->wo.data;
    f.bq = (const float *)w->bq.data;
    f.bo = (const float *)w->bo.data;
    f.gamma = (const float *)w->gamma.data;
    f.beta = (const float *)w->beta.data;
    f.n_tokens = (const int32_t *)n_tokens.data;
    f.mean = (float *)mean.data;
    f.rstd = (float *)rstd.data;
    f.shared = is_shared(g);
    f.n_masks = g.m;
    f.n_x = g.n_x;
    f.n_c = (int)g.c;
    f.inner = (int)g.inner;
    f.heads = (int)g.heads;
    f.d = (int)g.d;
    f.n_tok = (int)g.n_tok;
    f.n_rows = (int)g.heads * TOKENS;
    f.scale = (float)(1 / std::sqrt((double)g.d));
    f.eps = eps;
    f.drop = drop;
    return f;
}

static dropout dropout_of(struct tensor key, float p, int64_t salt)
{
    return { (const int64_t *)key.data, p, (float)(1 / (1 - (double)p)), salt };
}

template <class T, class S>
static enum status absorb_tokens(const problem<T> &f, const workspace<S> &w, struct stream *s)
{
    LAUNCH((absorb<T, S>), (unsigned)(f.n_masks * f.heads), ABSORB_THREADS, 0, s, f, w);
    return OK;
}

/* By channels: kernel<64>, <128> or <256> of tiles. */
#define LAUNCH_TILES(kernel, BYTES, n_high, s, f, w)                                               \
    do {                                                                                           \
        const dim3 grid_((unsigned)(w).n_tiles, (unsigned)(n_high));                               \
        if ((f).n_c <= 64) {                                                                       \
            TRY(allow_shared(kernel<64>, tile_memory<64>::BYTES));                                 \
            LAUNCH(kernel<64>, grid_, TILE_THREADS, tile_memory<64>::BYTES, s, f, w);              \
        } else if ((f).n_c <= 128) {                                                               \
            TRY(allow_shared(kernel<128>, tile_memory<128>::BYTES));                               \
            LAUNCH(kernel<128>, grid_, TILE_THREADS, tile_memory<128>::BYTES, s, f, w);            \
        } else {                                                                                   \
            TRY(allow_shared(kernel<256>, tile_memory<256>::BYTES));                               \
            LAUNCH(kernel<256>, grid_, TILE_THREADS, tile_memory<256>::BYTES, s, f, w);            \
        }                                                                                          \
    } while (0)

static enum status forward_rows(const problem<bf16> &f, const workspace<bf16> &w, struct stream *s)
{
    TRY(alignment_check("image_to_token_fwd", tensor_1d((void *)f.x, BF16, 0)));
    TRY(alignment_check("image_to_token_fwd", tensor_1d((void *)f.pe, BF16, 0)));
    TRY(alignment_check("image_to_token_fwd", tensor_1d(f.y, BF16, 0)));
    LAUNCH_TILES(fwd_tiles, FWD_BYTES, f.n_masks, s, f, w);
    return OK;
}

template <class T>
static enum status forward_rows(const problem<T> &f, const workspace<float> &w, struct stream *s)
{
    const int64_t bytes = rows_fwd_shared(f.n_c);

    if (bytes > PLAIN_SHARED) TRY(allow_shared(fwd_rows<T>, (size_t)bytes));
    LAUNCH(fwd_rows<T>, dim3((unsigned)w.n_tiles, (unsigned)f.n_masks), ROW_THREADS, (size_t)bytes,
           s, f, w);
    return OK;
}

static enum status backward_rows(const problem<bf16> &f, const workspace<bf16> &w, struct stream *s)
{
    TRY(alignment_check("image_to_token_bwd", tensor_1d((void *)f.x, BF16, 0)));
    TRY(alignment_check("image_to_token_bwd", tensor_1d((void *)f.pe, BF16, 0)));
    TRY(alignment_check("image_to_token_bwd", tensor_1d((void *)f.dy, BF16, 0)));
    TRY(alignment_check("image_to_token_bwd", tensor_1d(f.dx, BF16, 0)));
    LAUNCH_TILES(bwd_tiles, BWD_BYTES, w.n_groups, s, f, w);
    return OK;
}

template <class T>
static enum status backward_rows(const problem<T> &f, const workspace<float> &w, struct stream *s)
{
    const int64_t bytes = rows_bwd_shared(f.n_c, f.n_rows);

    if (bytes > PLAIN_SHARED) TRY(allow_shared(bwd_rows<T>, (size_t)bytes));
    LAUNCH(bwd_rows<T>, dim3((unsigned)w.n_tiles, (unsigned)w.n_groups), ROW_THREADS, (size_t)bytes,
           s, f, w);
    return OK;
}

static enum status position_sums(const problem<bf16> &f, const workspace<bf16> &w, struct stream *s)
{
    LAUNCH(position_sums_tiles,
           dim3((unsigned)divide_up(f.n_c, SUM_C) * 2, (unsigned)f.n_masks, (unsigned)w.n_chunks),
           SUM_TILE_THREADS, 0, s, f, w);
    return OK;
}

template <class T>
static enum status position_sums(const problem<T> &f, const workspace<float> &w, struct stream *s)
{
    LAUNCH(position_sums_rows<T>,
           dim3((unsigned)(divide_up(f.n_c, SUM_THREADS) * f.heads), (unsigned)f.n_masks,
                (unsigned)w.n_chunks),
           SUM_THREADS, 0, s, f, w);
    return OK;
}

/* out (n_batches, n_c) */
static enum status add_rows(float *out, bool add, row_list rows, int64_t n_batches, int64_t n_c,
                            struct stream *s)
{
    if (!out || n_batches == 0) return OK;
    LAUNCH(sum_columns, (unsigned)(n_batches * divide_up(n_c, COLUMNS)), COLUMNS * STRIPES, 0, s,
           out, add, rows, (int)n_c);
    return OK;
}

/* da, db and dc of all masks, from what backward_rows left. */
template <class T, class S>
static enum status sum_positions(const problem<T> &f, const workspace<S> &w, struct stream *s)
{
    const int64_t n = f.n_masks * 2 * f.n_rows * f.n_c;

    TRY(position_sums(f, w, s));
    if (w.n_chunks > 1)
        LAUNCH(merge_chunks, (unsigned)divide_up(n, GRADIENT_THREADS), GRADIENT_THREADS, 0, s,
               w.sums, w.sum_parts, w.n_chunks, n);
    return add_rows(w.dc, false,
                    row_list{ w.dc_parts, w.n_tiles, 1, f.n_rows, w.n_tiles * f.n_rows }, f.n_masks,
                    f.n_rows, s);
}

static weight_gradient weight_gradient_of(struct tensor t)
{
    return { (float *)t.data, t.add };
}

template <class T, class S>
static enum status parameter_gradients(const struct image_to_token_weights *dw, const problem<T> &f,
                                       const workspace<S> &w, struct stream *s)
{
    const int64_t n_parts = f.n_masks * w.n_tiles, n_of_mask = 2 * (int64_t)f.n_rows * f.n_c;
    const dim3 grid((unsigned)divide_up(f.n_c, 32), (unsigned)(divide_up(f.d, D_CHUNK) * f.heads),
                    2);

    TRY(add_rows((float *)dw->gamma.data, dw->gamma.add,
                 row_list{ w.norm_parts, n_parts, 1, 2 * f.n_c, 0 }, 1, f.n_c, s));
    TRY(add_rows((float *)dw->beta.data, dw->beta.add,
                 row_list{ w.norm_parts + f.n_c, n_parts, 1, 2 * f.n_c, 0 }, 1, f.n_c, s));
    /* dbo = Σ dz = Σj db of one head: its p sum up to 1 */
    TRY(add_rows((float *)dw->bo.data, dw->bo.add,
                 row_list{ w.sums + n_of_mask / 2, f.n_masks * TOKENS, TOKENS, n_of_mask, 0 }, 1,
                 f.n_c, s));
    if (dw->wq.data || dw->wo.data)
        LAUNCH(weight_gradients<T>, grid, GRADIENT_THREADS, 0, s, weight_gradient_of(dw->wq),
               weight_gradient_of(dw->wo), f, w.sums);
    if (dw->bq.data)
        LAUNCH(bias_gradient<T>, (unsigned)divide_up(f.inner, GRADIENT_WARPS), GRADIENT_THREADS, 0,
               s, weight_gradient_of(dw->bq), f, w.dc);
    return OK;
}

template <class T, class S>
static enum status backward(struct tensor dx, struct tensor dk, struct tensor dv,
                            const struct image_to_token_weights *dw, struct tensor dy, problem<T> f,
                            workspace<S> w, struct stream *s)
{
    const int64_t n_dx = tensor_count(dx);

    f.dy = (const T *)dy.data;
    f.dx = (T *)dx.data;
    f.add_x = dx.add;
    if (!dx.data) w.dx_groups = NULL;
    if (f.n_masks > 0) {
        TRY(absorb_tokens(f, w, s));
        TRY(backward_rows(f, w, s));
        TRY(sum_positions(f, w, s));
    }
    if (dx.data && f.shared)
        LAUNCH(merge_groups<T>, (unsigned)divide_up(n_dx, GRADIENT_THREADS), GRADIENT_THREADS, 0, s,
               (T *)dx.data, dx.add, w.dx_groups, w.n_groups, n_dx);
    if (f.n_masks > 0 && (dk.data || dv.data))
        LAUNCH(token_gradients<T>, (unsigned)(f.n_masks * f.heads), GRADIENT_THREADS, 0, s,
               token_gradient<T>{ (T *)dk.data, dk.add }, token_gradient<T>{ (T *)dv.data, dv.add },
               f, w.sums, w.dc);
    return parameter_gradients(dw, f, w, s);
}

template <class T, class S>
static enum status forward(struct tensor y, problem<T> f, const workspace<S> &w, struct stream *s)
{
    f.y = (T *)y.data;
    TRY(absorb_tokens(f, w, s));
    return forward_rows(f, w, s);
}

extern "C" enum status image_to_token_fwd_cuda(struct tensor y, struct tensor mean,
                                               struct tensor rstd, struct tensor x,
                                               struct tensor pe, struct tensor k, struct tensor v,
                                               struct tensor n_tokens,
                                               const struct image_to_token_weights *w, int n_heads,
                                               float eps, struct tensor key, float dropout_p,
                                               int64_t salt, struct stream *s)
{
    struct image_to_token_shape g;
    void *scratch;

    TRY(image_to_token_fwd_check(&g, y, mean, rstd, x, pe, k, v, n_tokens, w, n_heads, key,
                                 dropout_p));
    const bool tiles = takes_tiles(g, x.dtype);
    const dropout drop = dropout_of(key, dropout_p, salt);

    TRY(limits_check("image_to_token_fwd", g, tiles));
    STREAM_SCRATCH(s, scratch,
                   tiles ? workspace_at<bf16>(NULL, g, false).bytes
                         : workspace_at<float>(NULL, g, false).bytes);
    if (g.m == 0) return OK;
    if (tiles)
        return forward(y, problem_of<bf16>(g, x, pe, k, v, n_tokens, w, mean, rstd, eps, drop),
                       workspace_at<bf16>(scratch, g, false), s);
    BY_DTYPE(x, return forward(y, problem_of<T>(g, x, pe, k, v, n_tokens, w, mean, rstd, eps, drop),
                               workspace_at<float>(scratch, g, false), s));
}

extern "C" enum status image_to_token_bwd_cuda(
    struct tensor dx, struct tensor dk, struct tensor dv, const struct image_to_token_weights *dw,
    struct tensor dy, struct tensor x, struct tensor pe, struct tensor k, struct tensor v,
    struct tensor n_tokens, const struct image_to_token_weights *w, struct tensor mean,
    struct tensor rstd, int n_heads, float eps, struct tensor key, float dropout_p, int64_t salt,
    struct stream *s)
{
    struct image_to_token_shape g;
    void *scratch;

    TRY(image_to_token_bwd_check(&g, dx, dk, dv, dw, dy, x, pe, k, v, n_tokens, w, mean, rstd,
                                 n_heads, key, dropout_p));
    const bool tiles = takes_tiles(g, x.dtype);
    const dropout drop = dropout_of(key, dropout_p, salt);

    TRY(limits_check("image_to_token_bwd", g, tiles));
    STREAM_SCRATCH(s, scratch,
                   tiles ? workspace_at<bf16>(NULL, g, true).bytes
                         : workspace_at<float>(NULL, g, true).bytes);
    if (tiles)
        return backward(dx, dk, dv, dw, dy,
                        problem_of<bf16>(g, x, pe, k, v, n_tokens, w, mean, rstd, eps, drop),
                        workspace_at<bf16>(scratch, g, true), s);
    BY_DTYPE(x, return backward(dx, dk, dv, dw, dy,
                                problem_of<T>(g, x, pe, k, v, n_tokens, w, mean, rstd, eps, drop),
                                workspace_at<float>(scratch, g, true), s));
}
