/* Each convolution becomes a linear layer over rows: pixels gathered under the kernel in, weights
 * put in the same order, the results scattered where they belong. */
#include "kernels/conv_check.h"

#include <string.h>

#include "kernels/cpu/dense.h"

enum { CHUNK_ROWS = 2048 };

static int64_t aligned(int64_t floats)
{
    return (floats + 15) / 16 * 16;
}

static struct tensor view(float *data)
{
    return (struct tensor){ .data = data };
}

/* ---- patch_conv: row (n,i,j) holds the patch as (c,a,b), the order of w's own rows ------------ */

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

/* ---- conv3x3: row (n,i,j) holds the nine neighbours as (a,b,c); outside the image is 0 -------- */

static void neighbours_gather(float *rows, const float *x, int64_t n_images, int64_t n_h,
                              int64_t n_w, int64_t n_c)
{
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < n_images * n_h; line++)
        for (int64_t j = 0; j < n_w; j++)
            for (int64_t a = 0; a < 3; a++) {
                const int64_t i = line % n_h + a - 1;
                float *to = rows + ((line * n_w + j) * 3 + a) * 3 * n_c;

                for (int64_t b = 0; b < 3; b++, to += n_c) {
                    const bool inside = i >= 0 && i < n_h && j + b >= 1 && j + b <= n_w;
                    const float *from = x + ((line + a - 1) * n_w + j + b - 1) * n_c;

                    if (inside)
                        memcpy(to, from, (size_t)n_c * sizeof *to);
                    else
                        memset(to, 0, (size_t)n_c * sizeof *to);
                }
            }
}

/* Images worked on together: as many as fit CHUNK_ROWS, at least one. */
static int64_t chunk_images(struct tensor x)
{
    const int64_t pixels = x.dim[1] * x.dim[2];
    const int64_t fit = pixels > 0 ? CHUNK_ROWS / pixels : 1;

    if (fit < 1) return 1;
    return fit < x.dim[0] ? fit : x.dim[0];
}

/* to (O,9,I) = from (O,I,9), and back. */
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
    const int64_t pixels = x.dim[1] * x.dim[2], n_in = w.dim[1], n_out = w.dim[0];
    const int64_t step = chunk_images(x), n_w = aligned(tensor_count(w));
    float *w_rows;

    STREAM_SCRATCH(s, w_rows, (n_w + step * pixels * 9 * n_in) * (int64_t)sizeof *w_rows);

    float *rows = w_rows + n_w;

    swap_last(w_rows, w.data, false, n_out, n_in, 9);
    for (int64_t n = 0; n < x.dim[0]; n += step) {
        const int64_t images = n + step < x.dim[0] ? step : x.dim[0] - n;
        const struct dense d = { images * pixels, 9 * n_in, n_out, ACT_NONE };

        neighbours_gather(rows, (const float *)x.data + n * pixels * n_in, images, x.dim[1],
                          x.dim[2], n_in);
        dense_fwd((float *)y.data + n * pixels * n_out, NULL, rows, w_rows, NULL, d);
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

enum status conv3x3_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                            struct tensor w, struct stream *s)
{
    TRY(conv3x3_bwd_check(dx, dw, dy, x, w));
    const int64_t pixels = x.dim[1] * x.dim[2], n_in = w.dim[1], n_out = w.dim[0];
    const int64_t step = chunk_images(x), n_w = aligned(tensor_count(w));
    const int64_t wider = n_in > n_out ? n_in : n_out;
    const int64_t n_rows = aligned(step * pixels * 9 * wider);
    const struct dense all = { step * pixels, 9 * n_in, n_out, ACT_NONE };
    float *w_turned;

    STREAM_SCRATCH(s, w_turned,
                   (2 * n_w + n_rows + aligned(step * pixels * n_in) + dense_bwd_scratch(all)) *
                       (int64_t)sizeof *w_turned);

    float *dw_rows = w_turned + n_w, *rows = dw_rows + n_w, *dx_part = rows + n_rows;
    float *rest = dx_part + aligned(step * pixels * n_in);

    turn(w_turned, w.data, n_out, n_in);
    memset(dw_rows, 0, (size_t)n_w * sizeof *dw_rows);
    for (int64_t n = 0; n < x.dim[0]; n += step) {
        const int64_t images = n + step < x.dim[0] ? step : x.dim[0] - n;
        const float *dy_part = (const float *)dy.data + n * pixels * n_out;
        const struct dense d = { images * pixels, 9 * n_in, n_out, ACT_NONE };
        struct tensor dw_part = view(dw.data ? dw_rows : NULL);

        if (dx.data) {
            const struct dense back = { images * pixels, 9 * n_out, n_in, ACT_NONE };
            float *to = (float *)dx.data + n * pixels * n_in;

            neighbours_gather(rows, dy_part, images, x.dim[1], x.dim[2], n_out);
            dense_fwd(dx.add ? dx_part : to, NULL, rows, w_turned, NULL, back);
            for (int64_t i = 0; dx.add && i < images * pixels * n_in; i++) to[i] += dx_part[i];
        }
        if (!dw.data) continue;
        dw_part.add = true;
        neighbours_gather(rows, (const float *)x.data + n * pixels * n_in, images, x.dim[1],
                          x.dim[2], n_in);
        dense_bwd(view(NULL), dw_part, view(NULL), dy_part, rows, NULL, NULL, NULL, d, rest);
    }
    if (dw.data) swap_last(dw.data, dw_rows, dw.add, n_out, 9, n_in);
    return OK;
}
