#include "kernels/cpu/dense.h"

#include <stddef.h>
#include <string.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/column_sum.h"
#include "kernels/cpu/gemm.h"

/* N_LANES lanes backward, of at least MIN_ROWS; blocks of at most MAX_ROWS, or of HOT_FLOATS where
 * what was computed is read again; a dw of at most SUMMED_FLOATS is summed up by each lane. */
enum { N_LANES = 4, MIN_ROWS = 64, MAX_ROWS = 512 };
enum { HOT_FLOATS = 192 * 1024, SUMMED_FLOATS = 512 * 1024, PARALLEL_FROM = 16384 };

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
    const int64_t rows = HOT_FLOATS / (cols > 0 ? cols : 1) / 16 * 16;

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

/* How the rows are shared out backward. A lane works off its rows in blocks: dpre of a block is
 * still in the cache when dx and the lane's own sums of dw and db are made of it. */
struct lanes {
    int64_t n, rows, block_rows;
    bool sums_dw; /* else dw is so large that one product over all rows is better */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t aligned(int64_t floats)
{
    return (floats + 15) / 16 * 16;
}

static struct lanes lanes_of(struct dense d)
{
    const int64_t even = aligned((d.rows + N_LANES - 1) / N_LANES);
    const int64_t rows = even < MIN_ROWS ? MIN_ROWS : even;
    const int64_t hot = d.act == ACT_NONE ? MAX_ROWS : min64(MAX_ROWS, hot_rows(d.n_out));

    return (struct lanes){ .n = (d.rows + rows - 1) / rows,
                           .rows = rows,
                           .block_rows = min64(rows, hot),
                           .sums_dw = d.n_in * d.n_out <= SUMMED_FLOATS };
}

/* The parts of the scratch, in floats; dpre is of a block each lane, or of all rows. */
static int64_t dpre_floats(struct dense d, struct lanes l)
{
    if (d.act == ACT_NONE) return 0;
    return aligned((l.sums_dw ? l.n * l.block_rows : d.rows) * d.n_out);
}

int64_t dense_bwd_scratch(struct dense d)
{
    const struct lanes l = lanes_of(d);
    const int64_t dw = l.sums_dw && l.n > 1 ? (l.n - 1) * d.n_in * d.n_out : 0;

    return dpre_floats(d, l) + aligned(2 * l.n * d.n_out) + dw;
}

struct bwd {
    struct dense d;
    struct lanes l;
    struct tensor dx, dw, db;
    const float *dy, *x, *w, *y, *pre;
    float *dpre, *db_sums, *dw_sums; /* dw_sums: of all lanes but the first, which has dw itself */
};

/* One block of a lane; its sums go on from those of the lane's earlier blocks. */
static void bwd_block(const struct bwd *p, int64_t lane, int64_t first, int64_t rows)
{
    const int64_t n_in = p->d.n_in, n_out = p->d.n_out, at = first * n_out;
    const bool later = first > lane * p->l.rows;
    float *own = p->dpre + (p->l.sums_dw ? lane * p->l.block_rows * n_out : at);
    const float *dpre = p->d.act == ACT_NONE ? p->dy + at : own;

    if (p->d.act != ACT_NONE)
        dense_slope(own, p->dy + at, p->y ? p->y + at : NULL, p->pre ? p->pre + at : NULL, p->d.act,
                    rows * n_out);
    if (p->db.data) {
        float *sums = p->db_sums + 2 * lane * n_out, *block = sums + n_out;

        column_sum(later ? block : sums, dpre, n_out, rows, n_out);
        for (int64_t o = 0; later && o < n_out; o++) sums[o] += block[o];
    }
    if (p->dx.data)
        gemm_serial(false, false, rows, n_in, n_out, 1, dpre, n_out, p->w, n_in, p->dx.add ? 1 : 0,
                    (float *)p->dx.data + first * n_in, n_in);
    if (p->dw.data && p->l.sums_dw)
        gemm_serial(true, false, n_out, n_in, rows, 1, dpre, n_out, p->x + first * n_in, n_in,
                    later || (lane == 0 && p->dw.add) ? 1 : 0,
                    lane ? p->dw_sums + (lane - 1) * n_in * n_out : p->dw.data, n_in);
}

static void dw_finish(const struct bwd *p)
{
    const int64_t count = p->d.n_in * p->d.n_out;
    float *dw = p->dw.data;

    if (p->d.rows == 0 && !p->dw.add) memset(dw, 0, (size_t)count * sizeof *dw);
    if (p->l.n <= 1) return;
#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t first = 0; first < count; first += MIN_ROWS)
        for (int64_t lane = 1; lane < p->l.n; lane++) {
            const float *sums = p->dw_sums + (lane - 1) * count;

            for (int64_t i = first; i < min64(first + MIN_ROWS, count); i++) dw[i] += sums[i];
        }
}

void dense_bwd(struct tensor dx, struct tensor dw, struct tensor db, const float *dy,
               const float *x, const float *w, const float *y, const float *pre, struct dense d,
               float *scratch)
{
    const struct lanes l = lanes_of(d);
    float *db_sums = scratch + dpre_floats(d, l);
    const struct bwd p = {
        d, l, dx, dw, db, dy, x, w, y, pre, scratch, db_sums, db_sums + aligned(2 * l.n * d.n_out)
    };

#pragma omp parallel for schedule(static) if (l.n > 1)
    for (int64_t lane = 0; lane < l.n; lane++) {
        const int64_t end = min64((lane + 1) * l.rows, d.rows);

        for (int64_t first = lane * l.rows; first < end; first += l.block_rows)
            bwd_block(&p, lane, first, min64(l.block_rows, end - first));
    }
    if (db.data) column_sum_finish(db.data, db.add, db_sums, 2 * d.n_out, l.n, d.n_out);
    if (!dw.data) return;
    if (l.sums_dw)
        dw_finish(&p);
    else
        gemm_parallel(true, false, d.n_out, d.n_in, d.rows, 1, d.act == ACT_NONE ? dy : scratch,
                      d.n_out, x, d.n_in, dw.add ? 1 : 0, dw.data, d.n_in);
}
