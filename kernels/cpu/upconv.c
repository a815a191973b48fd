/* Transposed convolution as a linear layer: row (n,i,j) of the product holds the 2×2 pixels it
 * becomes as (a,b,o), so that half a row, (b,o), is contiguous in y. */
#include "kernels/conv_check.h"

#include <stddef.h>

#include "kernels/cpu/dense.h"
#include "kernels/cpu/gemm.h"

/* Rows of x worked on together: their product stays in the cache until it is activated. Blocks
 * share N_LANES pieces of scratch, and a lane works off its blocks in order. */
enum { BLOCK_ROWS = 128, N_LANES = 64 };

static int64_t aligned(int64_t floats)
{
    return (floats + 15) / 16 * 16;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* w_rows (2,2,O; I) of w (I,O,2,2). */
static void reorder(float *w_rows, const float *w, int64_t n_in, int64_t n_out)
{
    for (int64_t c = 0; c < n_in; c++)
        for (int64_t o = 0; o < n_out; o++)
            for (int64_t ab = 0; ab < 4; ab++)
                w_rows[(ab * n_out + o) * n_in + c] = w[(c * n_out + o) * 4 + ab];
}

static void reorder_back(struct tensor dw, const float *dw_rows, int64_t n_in, int64_t n_out)
{
    float *to = dw.data;

    for (int64_t c = 0; c < n_in; c++)
        for (int64_t o = 0; o < n_out; o++)
            for (int64_t ab = 0; ab < 4; ab++) {
                const float v = dw_rows[(ab * n_out + o) * n_in + c];
                float *at = to + (c * n_out + o) * 4 + ab;

                *at = dw.add ? *at + v : v;
            }
}

/* Where half a of row r begins in y. */
static int64_t half_at(int64_t r, int64_t a, int64_t n_w, int64_t n_out)
{
    return ((r / n_w * 2 + a) * 2 * n_w + r % n_w * 2) * n_out;
}

struct fwd {
    float *y, *pre;
    const float *x, *w_rows, *bias; /* bias (2,O): once for each b */
    int64_t rows, n_w, n_in, n_out;
    enum activation act;
};

static void fwd_block(const struct fwd *f, float *product, int64_t first, int64_t end)
{
    const int64_t half = 2 * f->n_out;

    gemm_serial(false, true, end - first, 2 * half, f->n_in, 1, f->x + first * f->n_in, f->n_in,
                f->w_rows, f->n_in, 0, product, 2 * half);
    for (int64_t r = first; r < end; r++)
        for (int64_t a = 0; a < 2; a++) {
            const float *from = product + (r - first) * 2 * half + a * half;
            const int64_t at = half_at(r, a, f->n_w, f->n_out);

            dense_activate(f->y + at, f->pre ? f->pre + at : NULL, from, f->bias, f->act, half);
        }
}

enum status upconv_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    TRY(upconv_fwd_check(y, pre, x, w, b, act));
    const int64_t rows = tensor_rows(x), n_in = w.dim[0], n_out = w.dim[1];
    const int64_t n_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int64_t n_lanes = min64(n_blocks, N_LANES), n_w = aligned(4 * n_in * n_out);
    const int64_t n_bias = aligned(2 * n_out), lane_floats = BLOCK_ROWS * 4 * n_out;
    float *w_rows;

    STREAM_SCRATCH(s, w_rows, (n_w + n_bias + n_lanes * lane_floats) * (int64_t)sizeof *w_rows);

    float *bias = w_rows + n_w, *products = bias + n_bias;
    const struct fwd f = { y.data, pre.data, x.data, w_rows, b.data ? bias : NULL,
                           rows,   x.dim[2], n_in,   n_out,  act };

    reorder(w_rows, w.data, n_in, n_out);
    for (int64_t o = 0; b.data && o < 2 * n_out; o++) bias[o] = ((float *)b.data)[o % n_out];
#pragma omp parallel for schedule(static) if (n_lanes > 1)
    for (int64_t lane = 0; lane < n_lanes; lane++)
        for (int64_t block = n_blocks * lane / n_lanes; block < n_blocks * (lane + 1) / n_lanes;
             block++)
            fwd_block(&f, products + lane * lane_floats, block * BLOCK_ROWS,
                      min64((block + 1) * BLOCK_ROWS, rows));
    return OK;
}

/* dpre of all rows, in the order of the product. */
static void gather_slope(float *product, struct tensor dy, struct tensor y, struct tensor pre,
                         enum activation act, int64_t rows)
{
    const int64_t n_w = dy.dim[2] / 2, n_out = dy.dim[3], half = 2 * n_out;
    const float *dy_data = dy.data, *y_data = y.data, *pre_data = pre.data;

#pragma omp parallel for schedule(static) if (rows > BLOCK_ROWS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t a = 0; a < 2; a++) {
            const int64_t at = half_at(r, a, n_w, n_out);

            dense_slope(product + (r * 2 + a) * half, dy_data + at, y_data ? y_data + at : NULL,
                        pre_data ? pre_data + at : NULL, act, half);
        }
}

enum status upconv_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    TRY(upconv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const int64_t rows = tensor_rows(x), n_in = w.dim[0], n_out = w.dim[1];
    const int64_t n_w = aligned(4 * n_in * n_out), n_product = aligned(rows * 4 * n_out);
    const struct dense d = { rows, n_in, 4 * n_out, ACT_NONE };
    float *w_rows;

    STREAM_SCRATCH(s, w_rows,
                   (2 * n_w + n_product + aligned(4 * n_out) + dense_bwd_scratch(d)) *
                       (int64_t)sizeof *w_rows);

    float *dw_rows = w_rows + n_w, *product = dw_rows + n_w, *db_rows = product + n_product;
    float *rest = db_rows + aligned(4 * n_out), *db_data = db.data;

    reorder(w_rows, w.data, n_in, n_out);
    gather_slope(product, dy, y, pre, act, rows);
    dense_bwd(dx, (struct tensor){ .data = dw.data ? dw_rows : NULL },
              (struct tensor){ .data = db.data ? db_rows : NULL }, product, x.data, w_rows, NULL,
              NULL, d, rest);
    if (dw.data) reorder_back(dw, dw_rows, n_in, n_out);
    for (int64_t o = 0; db_data && o < n_out; o++) {
        const float sum =
            (db_rows[o] + db_rows[n_out + o]) + (db_rows[2 * n_out + o] + db_rows[3 * n_out + o]);

        db_data[o] = db.add ? db_data[o] + sum : sum;
    }
    return OK;
}
