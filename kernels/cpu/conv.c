/* Each convolution becomes a linear layer over rows: pixels gathered under the kernel in, weights
 * put in the same order, the results scattered where they belong. */
#include "kernels/conv_check.h"

#include <string.h>

#include "kernels/cpu/dense.h"
#include "kernels/cpu/gemm.h"

/* conv3x3: output pixels of a block, so that the neighbours gathered for it are still in the cache
 * when they are multiplied. Blocks are shared out over a fixed number of lanes, each with a
 * gathered block and, backward, sums of dw of its own. */
enum { BLOCK_ROWS = 192, FWD_LANES = 8, BWD_LANES = 4 };

static int64_t aligned(int64_t floats)
{
    return (floats + 15) / 16 * 16;
}

static struct tensor view(float *data)
{
    return (struct tensor){ .data = data };
}

/* ---- patch_conv: row (n,i,j) holds the patch as (c,a,b), the order of w's own rows ---------- */

/* Gathers x into rows, or scatters rows back into x, adding or not. */
static void patches_gather(float *rows, struct tensor x, int64_t p)
{
    const int64_t n_w = x.dim[2] / p, n_c = x.dim[3], n_patch_rows = x.dim[0] * (x.dim[1] / p);

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_patch_rows; i++)
        for (int64_t j = 0; j < n_w; j++) {
            float *row = rows + (i * n_w + j) * n_c * p * p;

            for (int64_t a = 0; a < p; a++) {
                const float *from = (const float *)x.data + ((i * p + a) * x.dim[2] + j * p) * n_c;

                for (int64_t c = 0; c < n_c; c++)
                    for (int64_t b = 0; b < p; b++) row[(c * p + a) * p + b] = from[b * n_c + c];
            }
        }
}

static void patches_scatter(struct tensor dx, const float *rows, struct tensor x, int64_t p)
{
    const int64_t n_w = x.dim[2] / p, n_c = x.dim[3], n_patch_rows = x.dim[0] * (x.dim[1] / p);

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_patch_rows; i++)
        for (int64_t j = 0; j < n_w; j++) {
            const float *row = rows + (i * n_w + j) * n_c * p * p;

            for (int64_t a = 0; a < p; a++) {
                float *to = (float *)dx.data + ((i * p + a) * x.dim[2] + j * p) * n_c;

                for (int64_t b = 0; b < p; b++)
                    for (int64_t c = 0; c < n_c; c++) {
                        const float v = row[(c * p + a) * p + b];

                        to[b * n_c + c] = dx.add ? to[b * n_c + c] + v : v;
                    }
            }
        }
}

static struct dense patch_dense(struct tensor x, struct tensor w, enum activation act)
{
    const int64_t p = w.dim[2];

    return (struct dense){ x.dim[0] * (x.dim[1] / p) * (x.dim[2] / p), w.dim[1] * p * p, w.dim[0],
                           act };
}

enum status patch_conv_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                               struct tensor b, enum activation act, struct stream *s)
{
    TRY(patch_conv_fwd_check(y, pre, x, w, b, act));
    const int64_t p = w.dim[2];
    const float *rows = x.data;
    float *gathered;

    STREAM_SCRATCH(s, gathered, p > 1 ? tensor_bytes(x) : 0);
    if (p > 1) {
        patches_gather(gathered, x, p);
        rows = gathered;
    }
    dense_fwd(y.data, pre.data, rows, w.data, b.data, patch_dense(x, w, act));
    return OK;
}

enum status patch_conv_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db,
                               struct tensor dy, struct tensor x, struct tensor w, struct tensor y,
                               struct tensor pre, enum activation act, struct stream *s)
{
    TRY(patch_conv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const struct dense d = patch_dense(x, w, act);
    const int64_t p = w.dim[2], n_x = p > 1 ? aligned(tensor_count(x)) : 0;
    float *scratch;

    STREAM_SCRATCH(s, scratch, (2 * n_x + dense_bwd_scratch(d)) * (int64_t)sizeof *scratch);
    if (p == 1) {
        dense_bwd(dx, dw, db, dy.data, x.data, w.data, y.data, pre.data, d, scratch);
        return OK;
    }
    float *rows = scratch, *dx_rows = scratch + n_x;

    if (dw.data) patches_gather(rows, x, p);
    dense_bwd(view(dx.data ? dx_rows : NULL), dw, db, dy.data, rows, w.data, y.data, pre.data, d,
              scratch + 2 * n_x);
    if (dx.data) patches_scatter(dx, dx_rows, x, p);
    return OK;
}

/* ---- conv3x3: row (n,i,j) holds the nine neighbours as (a,b,c); outside the image is 0 ------ */

/* Pixels first … first + n_rows − 1 of x (n,i,j folded) into rows. */
static void neighbours_gather(float *rows, const float *x, struct tensor shape, int64_t n_c,
                              int64_t first, int64_t n_rows)
{
    const int64_t n_h = shape.dim[1], n_w = shape.dim[2];

    for (int64_t r = first; r < first + n_rows; r++) {
        const int64_t i = r / n_w % n_h, j = r % n_w;

        for (int64_t a = -1; a <= 1; a++)
            for (int64_t b = -1; b <= 1; b++, rows += n_c) {
                const bool inside = i + a >= 0 && i + a < n_h && j + b >= 0 && j + b < n_w;

                if (inside)
                    memcpy(rows, x + (r + a * n_w + b) * n_c, (size_t)n_c * sizeof *rows);
                else
                    memset(rows, 0, (size_t)n_c * sizeof *rows);
            }
    }
}

/* How the pixels are shared out: lanes of whole blocks. */
struct lanes {
    int64_t n, rows; /* lanes, pixels of each but the last */
};

static struct lanes lanes_of(struct tensor x, int64_t n_lanes)
{
    const int64_t rows = tensor_rows(x), blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int64_t each = (blocks + n_lanes - 1) / n_lanes * BLOCK_ROWS;

    return (struct lanes){ each > 0 ? (rows + each - 1) / each : 0, each };
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* to (outer,B,A) = from (outer,A,B) */
static void swap_last(float *to, const float *from, bool add, int64_t n_outer, int64_t n_a,
                      int64_t n_b)
{
    for (int64_t o = 0; o < n_outer; o++)
        for (int64_t a = 0; a < n_a; a++)
            for (int64_t b = 0; b < n_b; b++) {
                const float v = from[(o * n_a + a) * n_b + b];
                float *at = to + (o * n_b + b) * n_a + a;

                *at = add ? *at + v : v;
            }
}

enum status conv3x3_fwd_cpu(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    TRY(conv3x3_fwd_check(y, x, w));
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    const int64_t n_w = aligned(tensor_count(w)), each = aligned(BLOCK_ROWS * 9 * n_in);
    const struct lanes l = lanes_of(x, FWD_LANES);
    float *w_rows;

    STREAM_SCRATCH(s, w_rows, (n_w + l.n * each) * (int64_t)sizeof *w_rows);
    swap_last(w_rows, w.data, false, n_out, n_in, 9);
#pragma omp parallel for schedule(static) if (l.n > 1)
    for (int64_t lane = 0; lane < l.n; lane++) {
        const int64_t end = min64((lane + 1) * l.rows, n_rows);
        float *rows = w_rows + n_w + lane * each;

        for (int64_t r = lane * l.rows; r < end; r += BLOCK_ROWS) {
            const int64_t size = min64(BLOCK_ROWS, end - r);

            neighbours_gather(rows, x.data, x, n_in, r, size);
            gemm_serial(false, true, size, n_out, 9 * n_in, 1, rows, 9 * n_in, w_rows, 9 * n_in, 0,
                        (float *)y.data + r * n_out, n_out);
        }
    }
    return OK;
}

/* dx is the 3×3 convolution of dy with the turned kernel: w_turned[c,a,b,o] = w[o,c,2-a,2-b]. */
static void turn(float *w_turned, const float *w, int64_t n_out, int64_t n_in)
{
    for (int64_t c = 0; c < n_in; c++)
        for (int64_t ab = 0; ab < 9; ab++)
            for (int64_t o = 0; o < n_out; o++)
                w_turned[(c * 9 + ab) * n_out + o] = w[(o * n_in + c) * 9 + 8 - ab];
}

struct bwd {
    struct tensor dx, dw, dy, x;
    int64_t n_in, n_out;
    const float *w_turned; /* (I, 9 O) */
};

/* One lane; sums (O, 9 I) is its part of dw, rows its gathered block. */
static void bwd_lane(const struct bwd *p, float *sums, float *rows, int64_t begin, int64_t end)
{
    const int64_t n_in = p->n_in, n_out = p->n_out;

    for (int64_t r = begin; r < end; r += BLOCK_ROWS) {
        const int64_t size = min64(BLOCK_ROWS, end - r);

        if (p->dx.data) {
            neighbours_gather(rows, p->dy.data, p->dy, n_out, r, size);
            gemm_serial(false, true, size, n_in, 9 * n_out, 1, rows, 9 * n_out, p->w_turned,
                        9 * n_out, p->dx.add ? 1 : 0, (float *)p->dx.data + r * n_in, n_in);
        }
        if (p->dw.data) {
            neighbours_gather(rows, p->x.data, p->x, n_in, r, size);
            gemm_serial(true, false, n_out, 9 * n_in, size, 1,
                        (const float *)p->dy.data + r * n_out, n_out, rows, 9 * n_in,
                        r > begin ? 1 : 0, sums, 9 * n_in);
        }
    }
}

enum status conv3x3_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                            struct tensor w, struct stream *s)
{
    TRY(conv3x3_bwd_check(dx, dw, dy, x, w));
    const int64_t n_in = w.dim[1], n_out = w.dim[0], n_w = aligned(tensor_count(w));
    const int64_t each = aligned(BLOCK_ROWS * 9 * (n_in > n_out ? n_in : n_out));
    const struct lanes l = lanes_of(x, BWD_LANES);
    const int64_t n_sums = l.n > 0 ? l.n : 1;
    float *w_turned;

    STREAM_SCRATCH(s, w_turned, (n_w + n_sums * n_w + l.n * each) * (int64_t)sizeof *w_turned);

    float *sums = w_turned + n_w, *rows = sums + n_sums * n_w;
    const struct bwd p = { dx, dw, dy, x, n_in, n_out, w_turned };

    turn(w_turned, w.data, n_out, n_in);
    if (l.n == 0) memset(sums, 0, (size_t)n_w * sizeof *sums);
#pragma omp parallel for schedule(static) if (l.n > 1)
    for (int64_t lane = 0; lane < l.n; lane++)
        bwd_lane(&p, sums + lane * n_w, rows + lane * each, lane * l.rows,
                 min64((lane + 1) * l.rows, tensor_rows(x)));
    if (!dw.data) return OK;
    for (int64_t lane = 1; lane < l.n; lane++)
        for (int64_t i = 0; i < n_w; i++) sums[i] += sums[lane * n_w + i];
    swap_last(dw.data, sums, dw.add, n_out, 9, n_in);
    return OK;
}
