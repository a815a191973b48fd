#include "kernels/cpu/dense.h"

#include <stddef.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/column_sum.h"
#include "kernels/cpu/gemm.h"

/* Rows of a backward block: its dpre is still in the cache when dx and db are made of it. */
enum { MIN_ROWS = 64, MAX_ROWS = 512, N_BLOCKS = 4, HOT_FLOATS = 192 * 1024 };

void dense_activate(float *y, float *pre, const float *x, const float *b, enum activation act,
                    int64_t n)
{
    if (act == ACT_GELU) {
        for (int64_t i = 0; i < n; i++) {
            const float v = b ? x[i] + b[i] : x[i];

            pre[i] = v;
            y[i] = activation_gelu(v);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const float v = b ? x[i] + b[i] : x[i];

        y[i] = act == ACT_RELU && v < 0 ? 0 : v;
    }
}

void dense_slope(float *dpre, const float *dy, const float *y, const float *pre,
                 enum activation act, int64_t n)
{
    if (act == ACT_GELU)
        for (int64_t i = 0; i < n; i++) dpre[i] = dy[i] * activation_gelu_slope(pre[i]);
    else if (act == ACT_RELU)
        for (int64_t i = 0; i < n; i++) dpre[i] = y[i] == 0 ? 0 : dy[i];
    else
        for (int64_t i = 0; i < n; i++) dpre[i] = dy[i];
}

/* Rows whose results are still in the second-level cache when they are activated. */
static int64_t hot_rows(int64_t cols)
{
    const int64_t rows = HOT_FLOATS / cols / 16 * 16;

    return rows < MIN_ROWS ? MIN_ROWS : rows;
}

static void fwd_block(float *y, float *pre, const float *x, const float *w, const float *b,
                      struct dense d, struct gemm_cut cut, int64_t block)
{
    const int64_t r = block / cut.n_cols, q = block % cut.n_cols;
    const int64_t i = gemm_cut_at(d.rows, cut.n_rows, r), j = gemm_cut_at(d.n_out, cut.n_cols, q);
    const int64_t end = gemm_cut_at(d.rows, cut.n_rows, r + 1);
    const int64_t cols = gemm_cut_at(d.n_out, cut.n_cols, q + 1) - j;

    const bool plain = !b && d.act == ACT_NONE;
    const int64_t step = plain ? end - i : hot_rows(cols);

    for (int64_t first = i; first < end; first += step) {
        const int64_t rows = first + step < end ? step : end - first;

        gemm_serial(false, true, rows, cols, d.n_in, 1, x + first * d.n_in, d.n_in, w + j * d.n_in,
                    d.n_in, 0, y + first * d.n_out + j, d.n_out);
        for (int64_t n = first; !plain && n < first + rows; n++) {
            const int64_t at = n * d.n_out + j;

            dense_activate(y + at, pre ? pre + at : NULL, y + at, b ? b + j : NULL, d.act, cols);
        }
    }
}

void dense_fwd(float *y, float *pre, const float *x, const float *w, const float *b, struct dense d)
{
    const struct gemm_cut cut = gemm_cut(d.rows, d.n_out, d.n_in);
    const int64_t n_blocks = cut.n_rows * cut.n_cols;

    if (n_blocks == 1) {
        fwd_block(y, pre, x, w, b, d, cut, 0);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < n_blocks; block++) fwd_block(y, pre, x, w, b, d, cut, block);
}

static int64_t bwd_block_rows(int64_t rows)
{
    const int64_t even = ((rows + N_BLOCKS - 1) / N_BLOCKS + 15) / 16 * 16;

    if (even < MIN_ROWS) return MIN_ROWS;
    return even > MAX_ROWS ? MAX_ROWS : even;
}

static int64_t bwd_blocks(int64_t rows)
{
    return (rows + bwd_block_rows(rows) - 1) / bwd_block_rows(rows);
}

int64_t dense_bwd_scratch(struct dense d)
{
    const int64_t dpre = d.act == ACT_NONE ? 0 : d.rows * d.n_out;

    return (dpre + 15) / 16 * 16 + bwd_blocks(d.rows) * d.n_out;
}

void dense_bwd(struct tensor dx, struct tensor dw, struct tensor db, const float *dy,
               const float *x, const float *w, const float *y, const float *pre, struct dense d,
               float *scratch)
{
    const int64_t n_blocks = bwd_blocks(d.rows), block_rows = bwd_block_rows(d.rows);
    const int64_t count = d.rows * d.n_out;
    const float *dpre = d.act == ACT_NONE ? dy : scratch;
    float *partial = d.act == ACT_NONE ? scratch : scratch + (count + 15) / 16 * 16;

#pragma omp parallel for schedule(static) if (n_blocks > 1)
    for (int64_t block = 0; block < n_blocks; block++) {
        const int64_t first = block * block_rows, at = first * d.n_out;
        const int64_t rows = first + block_rows < d.rows ? block_rows : d.rows - first;

        if (d.act != ACT_NONE)
            dense_slope(scratch + at, dy + at, y ? y + at : NULL, pre ? pre + at : NULL, d.act,
                        rows * d.n_out);
        if (db.data) column_sum(partial + block * d.n_out, dpre + at, d.n_out, rows, d.n_out);
        if (dx.data)
            gemm_serial(false, false, rows, d.n_in, d.n_out, 1, dpre + at, d.n_out, w, d.n_in,
                        dx.add ? 1 : 0, (float *)dx.data + first * d.n_in, d.n_in);
    }
    if (db.data) column_sum_finish(db.data, db.add, partial, d.n_out, n_blocks, d.n_out);
    if (dw.data)
        gemm_parallel(true, false, d.n_out, d.n_in, d.rows, 1, dpre, d.n_out, x, d.n_in,
                      dw.add ? 1 : 0, dw.data, d.n_in);
}
