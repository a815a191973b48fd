/* The projections are absorbed into the tokens, in both widths. What tensor cores take is in
 * token_to_image_tiles.h: bf16, up to 8 heads, C a multiple of 8 up to 256, at least one mask. All else (f32, odd shapes) is the same sums as plain products, with weights and
 * slopes in scratch. */
#include "kernels/token_to_image_check.h"

#include "kernels/cuda/products.h"
#include "kernels/cuda/token_to_image_rows.h"
#include "kernels/cuda/token_to_image_tiles.h"

static const int64_t WANTED_BLOCKS = 128, MIN_SPLIT = 256; /* a GPU's; positions */

typedef struct token_to_image_shape shape;

static int64_t rounded(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* What stands where in scratch, bytes; rows as head_rows has them. */
struct layout {
    bool tiles;
    int64_t cp, n_own, n_rows; /* of a head: pitch, rows; rows of all */
    int64_t n_splits, per_split;
    int64_t rows, dz, terms, sums, stats, scores, slopes, bytes;
};

static layout layout_of(const shape &g, bool tiles, bool backward)
{
    layout l = {};
    const int64_t wide = sizeof(float), narrow = tiles ? (int64_t)sizeof(bf16) : wide;
    const int64_t tokens = g.m * g.heads * g.t;

    l.tiles = tiles;
    l.cp = !tiles ? g.c : g.c <= 64 ? 64 : g.c <= 128 ? 128 : 256;
    l.n_own = tiles ? (int64_t)HEAD_ROWS : g.t;
    l.n_rows = g.m * g.heads * l.n_own;
    l.n_splits = g.m > 0 ? (WANTED_BLOCKS + g.m - 1) / g.m : 1;
    if (l.n_splits > g.n_x / MIN_SPLIT) l.n_splits = g.n_x / MIN_SPLIT;
    if (l.n_splits < 1 || !tiles) l.n_splits = 1;
    l.per_split = (g.n_x + l.n_splits - 1) / l.n_splits;
    l.per_split = (l.per_split + FWD_TILE - 1) / FWD_TILE * FWD_TILE;
    l.n_splits = (g.n_x + l.per_split - 1) / l.per_split;

    l.dz = l.rows + rounded(l.n_rows * l.cp * narrow);
    l.terms = l.dz + (backward ? rounded(l.n_rows * l.cp * narrow) : 0);
    l.sums = l.terms + (backward ? rounded(l.n_rows * 2 * wide) : 0);
    l.stats = l.sums + (tiles || backward ? rounded(l.n_splits * l.n_rows * l.cp * wide) : 0);
    l.scores = l.stats + (tiles && !backward ? rounded(l.n_splits * l.n_rows * 2 * wide) : 0);
    l.slopes = l.scores + (tiles ? 0 : rounded(tokens * g.n_x * wide));
    l.bytes = l.slopes + (tiles || !backward ? 0 : rounded(tokens * g.n_x * wide));
    return l;
}

static enum status size_check(const char *op, const shape &g)
{
    if (g.n_x > INT32_MAX / 2 || g.c > INT32_MAX / 2 || g.m > 65535 || g.inner > INT32_MAX / 2 ||
        2 * g.m * g.heads * g.t > INT32_MAX)
        FAIL(E_SHAPE, "%s: %lld masks of %lld positions of %lld channels: too large for the kernel",
             op, (long long)g.m, (long long)g.n_x, (long long)g.c);
    return OK;
}

static enum status alignment_check(const char *operand, struct tensor t)
{
    if ((uintptr_t)t.data % 16 != 0)
        FAIL(E_SHAPE, "token_to_image: %s is at %p; the kernel reads whole 16 bytes", operand,
             t.data);
    return OK;
}

static float score_scale(const shape &g)
{
    return 1 / sqrtf((float)g.d);
}

static head_rows rows_of(const shape &g, const layout &l)
{
    return head_rows{ (int)g.heads, (int)g.t,  (int)g.d,      (int)g.c,
                      (int)l.n_own, (int)l.cp, score_scale(g) };
}

/* rows[m,a,t] = scale · weightᵀ tokens[m,t] of head a: (M,A,n_own,cp), zero where there is none */
template <class T, class TR>
static enum status absorb(TR *rows, const T *tokens, const T *weight, float scale, const shape &g,
                          const layout &l, struct stream *s)
{
    const products_output<TR> out =
        put_by(rows, g.heads * l.n_own * l.cp, l.n_own * l.cp, l.cp, 1, scale);
    products_extent e = extent_of(g.m, g.heads, g.t, g.c, g.d);

    e.put_i = l.n_own;
    e.put_j = l.cp;
    return multiply(out, stride_by(tokens, g.t * g.inner, g.d, g.inner, 1),
                    stride_by(weight, 0, g.d * g.c, 1, g.c), e, s);
}

static tiles_problem tiles_of(const shape &g, const layout &l, char *scratch, struct tensor x,
                              struct tensor pe)
{
    tiles_problem p = {};

    p.rows = (const bf16 *)(scratch + l.rows);
    p.dz = (const bf16 *)(scratch + l.dz);
    p.terms = (const float *)(scratch + l.terms);
    p.sums = (float *)(scratch + l.sums);
    p.stats = (float *)(scratch + l.stats);
    p.x = (const bf16 *)x.data;
    p.pe = (const bf16 *)pe.data;
    p.x_mask = g.mx == 1 ? 0 : g.n_x * g.c;
    p.n_masks = (int)g.m;
    p.n_x = (int)g.n_x;
    p.c = (int)g.c;
    p.heads = (int)g.heads;
    p.per_split = (int)l.per_split;
    return p;
}

/* kernel<CP> for the layout's CP, in a function that returns a status */
#define TILES_LAUNCH(kernel, shared_bytes, cp, heads, grid, p, s)                                  \
    do {                                                                                           \
        if ((cp) == 64) {                                                                          \
            TRY(allow_shared(kernel<64>, shared_bytes<64>(heads)));                                \
            LAUNCH(kernel<64>, grid, TILES_THREADS, shared_bytes<64>(heads), s, p);                \
        } else if ((cp) == 128) {                                                                  \
            TRY(allow_shared(kernel<128>, shared_bytes<128>(heads)));                              \
            LAUNCH(kernel<128>, grid, TILES_THREADS, shared_bytes<128>(heads), s, p);              \
        } else {                                                                                   \
            TRY(allow_shared(kernel<256>, shared_bytes<256>(heads)));                              \
            LAUNCH(kernel<256>, grid, TILES_THREADS, shared_bytes<256>(heads), s, p);              \
        }                                                                                          \
    } while (0)

static enum status features_by_tiles(const shape &g, const layout &l, char *scratch, bf16 *z,
                                     float *lse, const bf16 *q, struct tensor x, struct tensor pe,
                                     const float *bk, struct stream *s)
{
    const tiles_problem p = tiles_of(g, l, scratch, x, pe);

    TRY(alignment_check("x", x));
    TRY(alignment_check("pe", pe));
    TILES_LAUNCH(fwd_tiles, fwd_shared_bytes, l.cp, g.heads,
                 dim3((unsigned)l.n_splits, (unsigned)g.m), p, s);
    LAUNCH(merge<bf16>, (unsigned)(g.m * g.heads * g.t), ROW_THREADS, 0, s, z, lse,
           (const float *)p.sums, (const float *)p.stats, (int)l.n_splits, q, bk, rows_of(g, l));
    return OK;
}

/* scores (M,A·t,n_x) of rows with x, or with x + pe */
template <class T>
static enum status all_scores(const shape &g, float *scores, const float *rows, const T *x,
                              const T *pe, struct stream *s)
{
    const int64_t n_rows = g.heads * g.t;
    const products_output<float> out = put_by(scores, n_rows * g.n_x, 0, g.n_x, 1, 1);
    strided<T> keys = stride_by(x, g.mx == 1 ? 0 : g.n_x * g.c, 0, g.c, 1);

    keys.plus = pe;
    return multiply(out, stride_by(rows, n_rows * g.c, 0, g.c, 1), keys,
                    extent_of(g.m, 1, n_rows, g.n_x, g.c), s);
}

template <class T>
static enum status features_by_products(const shape &g, const layout &l, char *scratch, T *z,
                                        float *lse, const T *q, struct tensor x, struct tensor pe,
                                        const float *bk, struct stream *s)
{
    const int64_t n_rows = g.heads * g.t;
    float *const scores = (float *)(scratch + l.scores);
    const products_output<T> out = put_by(z, n_rows * g.c, 0, g.c, 1, 1);

    if (g.m == 0) return OK;
    TRY(all_scores(g, scores, (const float *)(scratch + l.rows), (const T *)x.data,
                   (const T *)pe.data, s));
    LAUNCH(soften_rows<T>, (unsigned)(g.m * n_rows), ROW_THREADS, 0, s, scores, lse, (int)g.n_x, q,
           bk, rows_of(g, l));
    return multiply(out, stride_by(scores, n_rows * g.n_x, 0, g.n_x, 1),
                    stride_by((const T *)x.data, g.mx == 1 ? 0 : g.n_x * g.c, 0, 1, g.c),
                    extent_of(g.m, 1, n_rows, g.c, g.n_x), s);
}

static bool takes_tiles(const shape &g, enum dtype dtype)
{
    return dtype == BF16 && g.m > 0 && g.heads <= TILES_HEADS && g.c % 8 == 0 && g.c <= TILES_C;
}

template <class T>
static enum status forward(const shape &g, const layout &l, char *scratch, struct tensor y,
                           struct tensor lse, struct tensor z, struct tensor q, struct tensor x,
                           struct tensor pe, const struct token_to_image_weights *w,
                           struct stream *s)
{
    const float scale = score_scale(g) * LOG2_E;
    const float *const bk = (const float *)w->bk.data;
    const T *const wk = (const T *)w->wk.data;
    const products_output<T> out =
        put_by((T *)y.data, g.t * g.inner, g.d, g.inner, 1, 1, false, (const float *)w->bv.data);

    if (l.tiles) {
        TRY(absorb((bf16 *)(scratch + l.rows), (const bf16 *)q.data, (const bf16 *)w->wk.data,
                   scale, g, l, s));
        TRY(features_by_tiles(g, l, scratch, (bf16 *)z.data, (float *)lse.data,
                              (const bf16 *)q.data, x, pe, bk, s));
    } else {
        TRY(absorb((float *)(scratch + l.rows), (const T *)q.data, wk, scale, g, l, s));
        TRY(features_by_products(g, l, scratch, (T *)z.data, (float *)lse.data, (const T *)q.data,
                                 x, pe, bk, s));
    }
    return multiply(out, stride_by((const T *)z.data, g.heads * g.t * g.c, g.t * g.c, g.c, 1),
                    stride_by((const T *)w->wv.data, 0, g.d * g.c, g.c, 1),
                    extent_of(g.m, g.heads, g.t, g.d, g.c), s);
}

extern "C" enum status token_to_image_fwd_cuda(struct tensor y, struct tensor lse, struct tensor z,
                                               struct tensor q, struct tensor x, struct tensor pe,
                                               const struct token_to_image_weights *w, int n_heads,
                                               struct stream *s)
{
    shape g;
    void *scratch;

    TRY(token_to_image_fwd_check(&g, y, lse, z, q, x, pe, w, n_heads));
    TRY(size_check("token_to_image_fwd", g));
    const layout l = layout_of(g, takes_tiles(g, y.dtype), false);

    STREAM_SCRATCH(s, scratch, l.bytes);
    BY_DTYPE(y, return forward<T>(g, l, (char *)scratch, y, lse, z, q, x, pe, w, s));
}

struct gradients {
    struct tensor dq, dx;
    const struct token_to_image_weights *dw;
    struct tensor dy, lse, z, q, x, pe;
    const struct token_to_image_weights *w;
};

template <class T, class TD>
static enum status prepare(const gradients &t, const shape &g, const layout &l, char *scratch,
                           struct stream *s)
{
    TD *const rows = (TD *)(scratch + l.rows), *const dz = (TD *)(scratch + l.dz);
    const int64_t n_blocks = (l.n_rows + ROW_THREADS / 32 - 1) / (ROW_THREADS / 32);

    TRY(absorb(rows, (const T *)t.q.data, (const T *)t.w->wk.data, score_scale(g) * LOG2_E, g, l,
               s));
    TRY(absorb(dz, (const T *)t.dy.data, (const T *)t.w->wv.data, 1, g, l, s));
    if (n_blocks == 0) return OK;
    LAUNCH((row_terms<T, TD>), (unsigned)n_blocks, ROW_THREADS, 0, s, (float *)(scratch + l.terms),
           (const float *)t.lse.data, (const T *)t.z.data, (const TD *)dz, (const T *)t.q.data,
           (const float *)t.w->bk.data, rows_of(g, l), l.n_rows);
    return OK;
}

static enum status backward_by_tiles(const gradients &t, const shape &g, const layout &l,
                                     char *scratch, bool rows_wanted, struct stream *s)
{
    const bool apart = g.mx == g.m; /* one pass for both */
    const int64_t n_own = g.heads * HEAD_ROWS * l.cp;
    tiles_problem p = tiles_of(g, l, scratch, t.x, t.pe);

    TRY(alignment_check("x", t.x));
    TRY(alignment_check("pe", t.pe));
    TRY(alignment_check("dx", t.dx));
    p.add = t.dx.add;
    p.dx = apart ? (bf16 *)t.dx.data : NULL;
    if (!rows_wanted) p.sums = NULL;
    if (p.dx || p.sums)
        TILES_LAUNCH(bwd_tiles, bwd_shared_bytes, l.cp, g.heads,
                     dim3((unsigned)l.n_splits, (unsigned)g.m), p, s);
    if (p.sums && l.n_splits > 1)
        LAUNCH(merge_sums, dim3((unsigned)((n_own + ROW_THREADS - 1) / ROW_THREADS), (unsigned)g.m),
               ROW_THREADS, 0, s, p.sums, (int)l.n_splits, n_own);
    if (apart || !t.dx.data) return OK;
    p.dx = (bf16 *)t.dx.data;
    TILES_LAUNCH(shared_dx_tiles, bwd_shared_bytes, l.cp, g.heads,
                 (unsigned)((g.n_x + BWD_TILE - 1) / BWD_TILE), p, s);
    return OK;
}

template <class T>
static enum status backward_by_products(const gradients &t, const shape &g, const layout &l,
                                        char *scratch, bool rows_wanted, struct stream *s)
{
    const float *const rows = (const float *)(scratch + l.rows);
    const float *const dz = (const float *)(scratch + l.dz);
    const T *const x = (const T *)t.x.data, *const pe = (const T *)t.pe.data;
    float *const scores = (float *)(scratch + l.scores);
    float *const slopes_at = (float *)(scratch + l.slopes);
    const int64_t n_rows = g.heads * g.t, n = g.m * n_rows * g.n_x;
    const int64_t n_masks = g.mx == 1 ? g.m : 1; /* that share an x */
    const int64_t x_mask = g.mx == 1 ? 0 : g.n_x * g.c;

    TRY(all_scores(g, scores, rows, x, pe, s));
    TRY(all_scores(g, slopes_at, dz, x, (const T *)NULL, s));
    if (n > 0)
        LAUNCH(slopes_of_rows, (unsigned)((n + ROW_THREADS - 1) / ROW_THREADS), ROW_THREADS, 0, s,
               scores, slopes_at, (const float *)(scratch + l.terms), g.n_x, n);
    if (t.dx.data) { /* weights with dz, then slopes with rows, as one sum */
        const products_output<T> out = put_by((T *)t.dx.data, g.n_x * g.c, 0, g.c, 1, 1, t.dx.add);

        TRY(multiply(
            out,
            stride_by(scores, n_rows * g.n_x, 0, 1, g.n_x, n_masks * n_rows, slopes_at - scores),
            stride_by(dz, n_rows * g.c, 0, 1, g.c, n_masks * n_rows, rows - dz),
            extent_of(g.mx, 1, g.n_x, g.c, 2 * n_masks * n_rows), s));
    }
    if (!rows_wanted) return OK;
    const products_output<float> out =
        put_by((float *)(scratch + l.sums), n_rows * g.c, 0, g.c, 1, 1);
    strided<T> keys = stride_by(x, x_mask, 0, 1, g.c);

    keys.plus = pe;
    return multiply(out, stride_by((const float *)slopes_at, n_rows * g.n_x, 0, g.n_x, 1), keys,
                    extent_of(g.m, 1, n_rows, g.c, g.n_x), s);
}

/* What is left once the rows' gradient is there: products of tokens. */
template <class T>
static enum status parameter_gradients(const gradients &t, const shape &g, const layout &l,
                                       char *scratch, struct stream *s)
{
    const float scale = score_scale(g) * LOG2_E; /* the slopes hold ln 2 */
    const float *const drows = (const float *)(scratch + l.sums);
    const int64_t mask = g.heads * l.n_own * l.cp, head = l.n_own * l.cp; /* of drows */
    const int64_t drows_mask = l.n_splits * mask, z_mask = g.heads * g.t * g.c;
    const struct tensor dwk = t.dw->wk, dwv = t.dw->wv, dbv = t.dw->bv, dbk = t.dw->bk;
    const products_extent of_weight = extent_of(1, g.heads, g.d, g.c, g.m * g.t);

    if (t.dq.data) {
        const products_output<T> out =
            put_by((T *)t.dq.data, g.t * g.inner, g.d, g.inner, 1, scale, t.dq.add);

        TRY(multiply(out, stride_by(drows, drows_mask, head, l.cp, 1),
                     stride_by((const T *)t.w->wk.data, 0, g.d * g.c, g.c, 1),
                     extent_of(g.m, g.heads, g.t, g.d, g.c), s));
    }
    if (dwk.data) {
        const products_output<float> out =
            put_by((float *)dwk.data, 0, g.d * g.c, g.c, 1, scale, dwk.add);

        TRY(multiply(out, stride_by((const T *)t.q.data, 0, g.d, 1, g.inner),
                     stride_by(drows, 0, head, 1, l.cp, g.t, drows_mask), of_weight, s));
    }
    if (dwv.data) {
        const products_output<float> out =
            put_by((float *)dwv.data, 0, g.d * g.c, g.c, 1, 1, dwv.add);

        TRY(multiply(out, stride_by((const T *)t.dy.data, 0, g.d, 1, g.inner),
                     stride_by((const T *)t.z.data, 0, g.t * g.c, 1, g.c, g.t, z_mask), of_weight,
                     s));
    }
    if (!dbv.data && (!dbk.data || dbk.add)) return OK;
    LAUNCH(bias_gradients<T>, (unsigned)((g.inner + BIAS_COLUMNS - 1) / BIAS_COLUMNS),
           BIAS_COLUMNS * BIAS_STRIPES, 0, s, (float *)dbv.data, dbv.add,
           dbk.add ? NULL : (float *)dbk.data, (const T *)t.dy.data, g.m * g.t, (int)g.inner);
    return OK;
}

template <class T>
static enum status backward(const gradients &t, const shape &g, const layout &l, char *scratch,
                            struct stream *s)
{
    const bool rows_wanted = t.dq.data || t.dw->wk.data;

    if (t.dx.data || rows_wanted) {
        if (l.tiles) {
            TRY((prepare<bf16, bf16>(t, g, l, scratch, s)));
            TRY(backward_by_tiles(t, g, l, scratch, rows_wanted, s));
        } else {
            TRY((prepare<T, float>(t, g, l, scratch, s)));
            TRY(backward_by_products<T>(t, g, l, scratch, rows_wanted, s));
        }
    }
    return parameter_gradients<T>(t, g, l, scratch, s);
}

extern "C" enum status token_to_image_bwd_cuda(
    struct tensor dq, struct tensor dx, const struct token_to_image_weights *dw, struct tensor dy,
    struct tensor y, struct tensor lse, struct tensor z, struct tensor q, struct tensor x,
    struct tensor pe, const struct token_to_image_weights *w, int n_heads, struct stream *s)
{
    shape g;
    void *scratch;

    TRY(token_to_image_bwd_check(&g, dq, dx, dw, dy, y, lse, z, q, x, pe, w, n_heads));
    TRY(size_check("token_to_image_bwd", g));
    const layout l = layout_of(g, takes_tiles(g, y.dtype), true);
    const gradients t = { dq, dx, dw, dy, lse, z, q, x, pe, w };

    STREAM_SCRATCH(s, scratch, l.bytes);
    BY_DTYPE(y, return backward<T>(t, g, l, (char *)scratch, s));
}
