/* Each block of queries meets the tiles of its keys in order, with a running maximum and sum per
 * query: one pass over a tile between its two products. */
#include "kernels/attention.h"

#include <math.h>
#include <omp.h>

#include "kernels/attention_check.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/tile.h"

/* Takes one row of a tile into the query's running maximum and sum; the row becomes the weights
 * exp(s − maximum). Returns the factor for what was summed before. n is padded with −∞. */
static float softmax_row(float *restrict s, const float *restrict bias, int64_t n, float *max,
                         float *sum)
{
    const int64_t padded = tile_round(n);
    const float before = *max;
    float top = before, total = 0;

    if (bias)
        for (int64_t i = 0; i < padded; i++) s[i] += bias[i];
    for (int64_t i = n; i < padded; i++) s[i] = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < padded; i++) top = s[i] > top ? s[i] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < padded; i++) {
        s[i] = exp_f32(s[i] - top);
        total += s[i];
    }
    const float factor = exp_f32(before - top);

    *max = top;
    *sum = *sum * factor + total;
    return factor;
}

struct forward {
    struct tile_layout l;
    const float *qkv, *qkv_bias, *tables;
    float *y, *lse;
};

/* The outputs of queries [q0, q0 + n) of one window and head. */
static void forward_block(const struct forward *f, const struct tile_window *w,
                          const struct tile_work *k, int64_t q0, int64_t n)
{
    const struct tile_layout *l = &f->l;
    const struct attention_shape *g = &l->g;
    const int64_t d = g->d, channels = g->heads * d;
    const struct tile_matrix q = tile_query_rows(l, w, q0, n, f->qkv, 3 * channels, k->q);
    const struct tile_matrix key = tile_window_part(l, w, 1, f->qkv, f->qkv_bias, k->k);
    const struct tile_matrix value = tile_window_part(l, w, 2, f->qkv, f->qkv_bias, k->v);

    for (int64_t i = 0; i < n; i++) {
        k->max[i] = -INFINITY;
        k->sum[i] = 0;
    }
    gemm_serial(false, true, n, l->rel_rows, d, 1, q.at, q.ld, f->tables, d, 0, k->rel, l->ld_g);
    for (int64_t y0 = 0; y0 < g->kh; y0 += l->tile_rows) {
        const int64_t rows = tile_smaller(l->tile_rows, g->kh - y0), n_keys = rows * g->kw;
        const int64_t k0 = y0 * g->kw;

        gemm_serial(false, true, n, n_keys, d, l->scale, q.at, q.ld, key.at + k0 * key.ld, key.ld,
                    0, k->s, l->ld_s);
        for (int64_t i = 0; i < n; i++) {
            if (g->has_rel) tile_bias_row(l, w, k, q0, i, y0, rows);
            const float factor = softmax_row(k->s + i * l->ld_s, g->has_rel ? k->bias : NULL,
                                             n_keys, &k->max[i], &k->sum[i]);

            for (int64_t c = 0; y0 > 0 && c < d; c++) k->out[i * d + c] *= factor;
        }
        gemm_serial(false, false, n, d, n_keys, 1, k->s, l->ld_s, value.at + k0 * value.ld,
                    value.ld, y0 > 0, k->out, d);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = tile_query_token(g, w, q0 + i), area = g->h * g->w;
        const float inverse = 1 / k->sum[i];
        float *y = f->y + token * channels + w->head * d;

        for (int64_t c = 0; c < d; c++) y[c] = k->out[i * d + c] * inverse;
        f->lse[(w->n * g->heads + w->head) * area + token % area] =
            (float)(k->max[i] + log(k->sum[i]));
    }
}

enum status attention_fwd_cpu(struct tensor y, struct tensor lse, struct tensor qkv,
                              struct tensor qkv_bias, struct tensor rel_h, struct tensor rel_w,
                              int n_heads, int window, struct stream *s)
{
    struct attention_shape g;
    struct tile_work sizes;
    float *scratch;

    TRY(attention_fwd_check(&g, y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window));
    struct forward f = { .l = tile_layout_of(&g), .qkv = qkv.data, .qkv_bias = qkv_bias.data };
    const struct tile_layout *l = &f.l;
    const int64_t per_thread = tile_work_at(&sizes, l, false, NULL);
    const int64_t n_tables = tile_round(l->rel_rows * g.d);
    const int n_threads = omp_get_max_threads();

    STREAM_SCRATCH(s, scratch, (n_tables + n_threads * per_thread) * (int64_t)sizeof *scratch);
    tile_turn_tables(l, rel_h.data, rel_w.data, scratch);
    f.tables = scratch;
    f.y = y.data;
    f.lse = lse.data;

#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < l->n_windows * g.heads * l->blocks; i++) {
        const struct tile_window w =
            tile_window_at(&g, i / l->blocks / g.heads, i / l->blocks % g.heads);
        const int64_t q0 = i % l->blocks * l->block_queries, n = w.rows * w.cols - q0;
        struct tile_work k;

        tile_work_at(&k, l, false, scratch + n_tables + omp_get_thread_num() * per_thread);
        if (n > 0) forward_block(&f, &w, &k, q0, tile_smaller(n, l->block_queries));
    }
    return OK;
}
