/* The weights are formed anew from lse, tile by tile, so a tile owes nothing to its neighbours.
 * What several pieces of work add to is summed per chunk of the work and then over the chunks in
 * order; the chunks follow from the shape, never from the number of threads. */
#include "kernels/attention.h"

#include <omp.h>
#include <string.h>

#include "kernels/attention_check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/tile.h"

/* What several pieces of work add to is summed in at most this many places. */
enum { MAX_CHUNKS = 64 };

struct backward {
    struct tile_layout l;
    const float *qkv, *qkv_bias, *tables, *dy, *y, *lse;
    float *dqkv;      /* NULL: not wanted */
    bool add;         /* to dqkv */
    float *dq_splits; /* (splits,tokens,A·D), or NULL: dq goes straight to its place */
};

/* Where a chunk of the work sums what all of it adds to. */
struct partial {
    float *tables; /* as turned; (rel_rows,D) */
    float *bias;   /* (3·A·D) */
};

/* s becomes the weights, dp their scores' gradient; G's gradient is added to. */
static void weights_bwd(const struct backward *b, const struct tile_window *w,
                        const struct tile_work *k, int64_t q0, int64_t n, int64_t y0, int64_t rows)
{
    const struct tile_layout *l = &b->l;
    const struct attention_shape *g = &l->g;
    const int64_t padded = tile_round(rows * g->kw), area = g->h * g->w;

    for (int64_t i = 0; i < n; i++) {
        const int64_t in_image = tile_query_token(g, w, q0 + i) % area;
        const float lse = b->lse[(w->n * g->heads + w->head) * area + in_image];
        const float delta = k->delta[i];
        float *restrict s = k->s + i * l->ld_s, *restrict dp = k->dp + i * l->ld_s;
        const float *restrict bias = k->bias;

        if (!g->has_rel) {
            for (int64_t j = 0; j < padded; j++) {
                s[j] = exp_f32(s[j] - lse);
                dp[j] = s[j] * (dp[j] - delta);
            }
            continue;
        }
        tile_bias_row(l, w, k, q0, i, y0, rows);
        for (int64_t j = 0; j < padded; j++) {
            s[j] = exp_f32(s[j] + bias[j] - lse);
            dp[j] = s[j] * (dp[j] - delta);
        }
        float *dh = k->drel + i * l->ld_g + tile_rel_h_at(l, w, q0 + i) + y0;
        float *across = k->drel + i * l->ld_g + tile_rel_w_at(l, w, q0 + i);

        for (int64_t x = 0; x < g->kw; x += TILE_LANES) {
            float sums[TILE_LANES] = { 0 };

            for (int64_t y = 0; y < rows; y++)
                for (int lane = 0; lane < TILE_LANES; lane++)
                    sums[lane] += dp[y * g->kw + x + lane];
            for (int lane = 0; lane < tile_smaller(TILE_LANES, g->kw - x); lane++)
                across[x + lane] += sums[lane];
        }
        for (int64_t y = 0; y < rows; y++) {
            float sum = 0;

#pragma omp simd reduction(+ : sum)
            for (int64_t x = 0; x < g->kw; x++) sum += dp[y * g->kw + x];
            dh[y] += sum;
        }
    }
}

/* A matrix to add to, or to overwrite when beta is 0. */
struct target {
    float *at;
    int64_t ld;
    float beta;
};

/* All that flows from queries [q0, q0 + n) through the keys of rows [y0, y1) of one window. */
static void backward_block(const struct backward *b, const struct tile_window *w,
                           const struct tile_work *k, const struct tile_matrix part[2], int64_t q0,
                           int64_t n, int64_t y0, int64_t y1, struct target dq, struct target dk,
                           struct target dv, const struct partial *partial)
{
    const struct tile_layout *l = &b->l;
    const struct attention_shape *g = &l->g;
    const int64_t d = g->d, channels = g->heads * d;
    const struct tile_matrix q = tile_query_rows(l, w, q0, n, b->qkv, 3 * channels, k->q);
    const struct tile_matrix dy = tile_query_rows(l, w, q0, n, b->dy, channels, k->dy);

    for (int64_t i = 0; i < n; i++) {
        const float *y = b->y + tile_query_token(g, w, q0 + i) * channels + w->head * d;
        float sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < d; c++) sum += dy.at[i * dy.ld + c] * y[c];
        k->delta[i] = sum;
    }
    gemm_serial(false, true, n, l->rel_rows, d, 1, q.at, q.ld, b->tables, d, 0, k->rel, l->ld_g);
    memset(k->drel, 0, (size_t)(n * l->ld_g) * sizeof *k->drel);
    for (int64_t y = y0; y < y1; y += l->tile_rows) {
        const int64_t rows = tile_smaller(l->tile_rows, y1 - y), keys = rows * g->kw,
                      k0 = y * g->kw;
        const float *key = part[0].at + k0 * part[0].ld, *value = part[1].at + k0 * part[1].ld;

        gemm_serial(false, true, n, keys, d, l->scale, q.at, q.ld, key, part[0].ld, 0, k->s,
                    l->ld_s);
        gemm_serial(false, true, n, keys, d, 1, dy.at, dy.ld, value, part[1].ld, 0, k->dp, l->ld_s);
        weights_bwd(b, w, k, q0, n, y, rows);
        if (!b->dqkv && !partial->bias) continue;
        gemm_serial(true, false, keys, d, n, 1, k->s, l->ld_s, dy.at, dy.ld, dv.beta,
                    dv.at + k0 * dv.ld, dv.ld);
        gemm_serial(true, false, keys, d, n, l->scale, k->dp, l->ld_s, q.at, q.ld, dk.beta,
                    dk.at + k0 * dk.ld, dk.ld);
        if (!b->dqkv) continue;
        gemm_serial(false, false, n, d, keys, l->scale, k->dp, l->ld_s, key, part[0].ld,
                    y > y0 ? 1 : dq.beta, dq.at, dq.ld);
    }
    if (!g->has_rel) return;
    if (b->dqkv)
        gemm_serial(false, false, n, d, l->rel_rows, 1, k->drel, l->ld_g, b->tables, d, 1, dq.at,
                    dq.ld);
    gemm_serial(true, false, l->rel_rows, d, n, 1, k->drel, l->ld_g, q.at, q.ld, 1, partial->tables,
                d);
}

/* A head's rows of window tokens, into their place in dqkv; of padding, added to the partial. */
static void scatter_keys(const struct backward *b, const struct tile_window *w, int part,
                         const float *from, const struct partial *partial)
{
    const struct attention_shape *g = &b->l.g;
    const int64_t at = (part * g->heads + w->head) * g->d;

    for (int64_t y = 0; y < g->kh; y++)
        for (int64_t x = 0; x < g->kw; x++, from += g->d) {
            const bool inside = y < w->rows && x < w->cols;
            const int64_t token = (w->n * g->h + w->y0 + y) * g->w + w->x0 + x;
            float *to = inside ? b->dqkv : partial->bias;

            if (!to) continue;
            to += (inside ? token * 3 * g->heads * g->d : 0) + at;
            if (inside && !b->add) {
                memcpy(to, from, (size_t)g->d * sizeof *to);
            } else {
                for (int64_t c = 0; c < g->d; c++) to[c] += from[c];
            }
        }
}

static void scatter_queries(const struct backward *b, const struct tile_window *w, int64_t q0,
                            int64_t n, const float *from)
{
    const struct attention_shape *g = &b->l.g;

    for (int64_t i = 0; i < n; i++, from += g->d) {
        float *to = b->dqkv + tile_query_token(g, w, q0 + i) * 3 * g->heads * g->d + w->head * g->d;

        for (int64_t c = 0; c < g->d; c++) to[c] = b->add ? to[c] + from[c] : from[c];
    }
}

/* One window and head, gathered. */
static void backward_gathered(const struct backward *b, const struct tile_window *w,
                              const struct tile_work *k, const struct partial *partial)
{
    const struct tile_layout *l = &b->l;
    const int64_t n_queries = w->rows * w->cols, d = l->g.d;
    const struct tile_matrix part[2] = { tile_window_part(l, w, 1, b->qkv, b->qkv_bias, k->k),
                                         tile_window_part(l, w, 2, b->qkv, b->qkv_bias, k->v) };

    for (int64_t q0 = 0; q0 < n_queries; q0 += l->block_queries) {
        const int64_t n = tile_smaller(n_queries - q0, l->block_queries);

        backward_block(b, w, k, part, q0, n, 0, l->g.kh, (struct target){ k->dq, d, 0 },
                       (struct target){ k->dk, d, q0 > 0 }, (struct target){ k->dv, d, q0 > 0 },
                       partial);
        if (b->dqkv) scatter_queries(b, w, q0, n, k->dq);
    }
    scatter_keys(b, w, 1, k->dk, partial);
    scatter_keys(b, w, 2, k->dv, partial);
}

/* One window and head in its place, and a share of its keys: all queries, in order. */
static void backward_direct(const struct backward *b, const struct tile_window *w,
                            const struct tile_work *k, int64_t split, const struct partial *partial)
{
    const struct tile_layout *l = &b->l;
    const struct attention_shape *g = &l->g;
    const int64_t y0 = g->kh * split / l->splits, y1 = g->kh * (split + 1) / l->splits;
    const int64_t channels = g->heads * g->d, head = w->head * g->d;
    const struct tile_matrix part[2] = { tile_window_part(l, w, 1, b->qkv, b->qkv_bias, NULL),
                                         tile_window_part(l, w, 2, b->qkv, b->qkv_bias, NULL) };
    const int64_t first = tile_query_token(g, w, 0);
    float *dqkv = b->dqkv ? b->dqkv + first * 3 * channels + head : NULL;
    float *splits =
        b->dq_splits ? b->dq_splits + (split * g->n * g->h * g->w + first) * channels + head : NULL;

    for (int64_t q0 = 0; q0 < g->t; q0 += l->block_queries) {
        const float keep = q0 > 0 || b->add;
        struct target dq = { NULL, 0, 0 }, dk = dq, dv = dq;

        if (dqkv) {
            dq = (struct target){ dqkv + q0 * 3 * channels, 3 * channels, b->add };
            dk = (struct target){ dqkv + channels, 3 * channels, keep };
            dv = (struct target){ dqkv + 2 * channels, 3 * channels, keep };
            if (splits) dq = (struct target){ splits + q0 * channels, channels, 0 };
        }
        backward_block(b, w, k, part, q0, tile_smaller(g->t - q0, l->block_queries), y0, y1, dq, dk,
                       dv, partial);
    }
}

/* dq = Σ of the splits', in order. */
static void sum_splits(const struct backward *b)
{
    const struct attention_shape *g = &b->l.g;
    const int64_t tokens = g->n * g->h * g->w, channels = g->heads * g->d;

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < tokens; i++) {
        float *to = b->dqkv + i * 3 * channels;

        for (int64_t split = 0; split < b->l.splits; split++) {
            const float *from = b->dq_splits + (split * tokens + i) * channels;
            const bool keep = split > 0 || b->add;

            for (int64_t c = 0; c < channels; c++) to[c] = keep ? to[c] + from[c] : from[c];
        }
    }
}

/* out = Σ over the chunks, in order, of the n floats each keeps at its `from`. */
static void sum_chunks(float *out, bool add, int64_t n, const float *from, int64_t n_chunks,
                       int64_t stride)
{
    for (int64_t i = 0; !add && i < n; i++) out[i] = 0;
    for (int64_t chunk = 0; chunk < n_chunks; chunk++)
        for (int64_t i = 0; i < n; i++) out[i] += from[chunk * stride + i];
}

/* The gradients of the tables: a table's rows come in reverse. */
static void sum_tables(const struct tile_layout *l, struct tensor drel_h, struct tensor drel_w,
                       const float *from, int64_t n_chunks, int64_t stride)
{
    const int64_t d = l->g.d;

    for (int64_t i = 0; i < l->rel_rows; i++) {
        const bool is_h = i < l->rel_h_rows;
        const struct tensor out = is_h ? drel_h : drel_w;
        const int64_t row = (is_h ? l->rel_h_rows : l->rel_rows) - 1 - i;

        if (out.data)
            sum_chunks((float *)out.data + row * d, out.add, d, from + i * d, n_chunks, stride);
    }
}

enum status attention_bwd_cpu(struct tensor dqkv, struct tensor dqkv_bias, struct tensor drel_h,
                              struct tensor drel_w, struct tensor dy, struct tensor y,
                              struct tensor lse, struct tensor qkv, struct tensor qkv_bias,
                              struct tensor rel_h, struct tensor rel_w, int n_heads, int window,
                              struct stream *s)
{
    struct attention_shape g;
    struct tile_work sizes;
    float *scratch;

    TRY(attention_bwd_check(&g, dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias, rel_h,
                            rel_w, n_heads, window));
    struct backward b = { .l = tile_layout_of(&g), .qkv = qkv.data, .qkv_bias = qkv_bias.data };
    const struct tile_layout *l = &b.l;
    const int64_t n_items = l->n_windows * g.heads * l->splits;
    const int64_t n_chunks = tile_smaller(n_items, MAX_CHUNKS), channels = g.heads * g.d;
    const int64_t n_tables = tile_round(l->rel_rows * g.d), n_partial = n_tables + 3 * channels;
    const int64_t n_splits = l->splits > 1 ? l->splits * g.n * g.h * g.w * channels : 0;
    const int64_t per_thread = tile_work_at(&sizes, l, true, NULL);
    const int n_threads = omp_get_max_threads();
    const int64_t n_shared = tile_round(n_tables + n_chunks * n_partial) + tile_round(n_splits);

    STREAM_SCRATCH(s, scratch, (n_shared + n_threads * per_thread) * (int64_t)sizeof *scratch);
    float *partials = scratch + n_tables;

    tile_turn_tables(l, rel_h.data, rel_w.data, scratch);
    b.tables = scratch;
    b.dq_splits = n_splits > 0 ? scratch + tile_round(n_tables + n_chunks * n_partial) : NULL;
    b.dy = dy.data;
    b.y = y.data;
    b.lse = lse.data;
    b.dqkv = dqkv.data;
    b.add = dqkv.add;

#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
        float *sums = partials + chunk * n_partial;
        const bool bias_wanted = g.padded && dqkv_bias.data;
        const struct partial partial = { sums, bias_wanted ? sums + n_tables : NULL };
        struct tile_work k;

        memset(sums, 0, (size_t)n_partial * sizeof *sums);
        tile_work_at(&k, l, true, scratch + n_shared + omp_get_thread_num() * per_thread);
        for (int64_t i = n_items * chunk / n_chunks; i < n_items * (chunk + 1) / n_chunks; i++) {
            const int64_t item = i / l->splits;
            const struct tile_window w = tile_window_at(&g, item / g.heads, item % g.heads);

            if (l->direct)
                backward_direct(&b, &w, &k, i % l->splits, &partial);
            else
                backward_gathered(&b, &w, &k, &partial);
        }
    }
    if (b.dqkv && b.dq_splits) sum_splits(&b);
    sum_tables(l, drel_h, drel_w, partials, n_chunks, n_partial);
    if (dqkv_bias.data)
        sum_chunks(dqkv_bias.data, dqkv_bias.add, 3 * channels, partials + n_tables, n_chunks,
                   n_partial);
    return OK;
}
