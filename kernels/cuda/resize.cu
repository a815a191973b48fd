#include "kernels/resize_check.h"

#include "kernels/cuda/takers.h"

enum { FWD_COLUMNS = 128, FWD_ROWS = 16 };

struct planes {
    int64_t h, w, crop_h, crop_w, H, W;
    int row_tiles; /* of a plane */
};

/* A block owns 128 columns of 16 rows of one y, a thread a column of them, a warp 128 bytes a row.
 * y is written once; x is read about once from memory, its neighbours meet in L1.
 * Bound by memory where it enlarges: 4 bytes a pixel of y, and 20 operations.
 * Columns by threads, so that a column's place in x, two divisions, is found once for 16 pixels;
 * the rows' places are found once a block. */
__global__ static void __launch_bounds__(FWD_COLUMNS) fwd(float *y, const float *x, const planes g)
{
    __shared__ bilinear_tap rows[FWD_ROWS];
    const int64_t m = blockIdx.x / (unsigned)g.row_tiles;
    const int64_t first = (int64_t)(blockIdx.x % (unsigned)g.row_tiles) * FWD_ROWS;
    const int64_t j = (int64_t)blockIdx.y * FWD_COLUMNS + (int)threadIdx.x;
    const int n_rows = (int)min(g.H - first, (int64_t)FWD_ROWS);

    if ((int)threadIdx.x < n_rows)
        rows[threadIdx.x] = bilinear_place(first + (int)threadIdx.x, g.crop_h, g.H);
    __syncthreads();
    if (j >= g.W) return;

    const bilinear_tap col = bilinear_place(j, g.crop_w, g.W);
    float *const out = y + (m * g.H + first) * g.W + j;

    for (int i = 0; i < n_rows; i++)
        out[i * g.W] = bilinear_at(x + m * g.h * g.w, g.w, rows[i], col);
}

extern "C" enum status resize_fwd_cuda(struct tensor y, struct tensor x, int64_t crop_h,
                                       int64_t crop_w, struct stream *s)
{
    TRY(resize_fwd_check(y, x, crop_h, crop_w));
    STREAM_NO_SCRATCH(s);

    const int64_t H = y.dim[1], W = y.dim[2], row_tiles = (H + FWD_ROWS - 1) / FWD_ROWS;
    const planes g = { x.dim[1], x.dim[2], crop_h, crop_w, H, W, (int)row_tiles };
    const dim3 grid((unsigned)(y.dim[0] * row_tiles),
                    (unsigned)((W + FWD_COLUMNS - 1) / FWD_COLUMNS));

    if (tensor_count(y) == 0) return OK;
    LAUNCH(fwd, grid, FWD_COLUMNS, 0, s, (float *)y.data, (const float *)x.data, g);
    return OK;
}

enum { BWD_COLUMNS = 32, BWD_ROWS = 8 };

/* A block owns 32 columns of 8 rows of one dx, a warp a row, a thread a pixel: it gathers what
 * forward took from it, so that nothing is written twice and the order is fixed.
 * dx is written once; a pixel of dy is read four times, at most once from memory.
 * Bound, where forward enlarged by f, by 4·f² reads from L1 a pixel of dx, each with its weight.
 * It is not on the path of training, hence no sums by rows first, which would halve that. */
__global__ static void __launch_bounds__(BWD_COLUMNS *BWD_ROWS)
    bwd(float *dx, bool add, const float *dy, const planes g)
{
    const int64_t m = blockIdx.x / (unsigned)g.row_tiles;
    const int64_t i =
        (int64_t)(blockIdx.x % (unsigned)g.row_tiles) * BWD_ROWS + (int)threadIdx.x / BWD_COLUMNS;
    const int64_t j = (int64_t)blockIdx.y * BWD_COLUMNS + (int)threadIdx.x % BWD_COLUMNS;
    const float *const in = dy + m * g.H * g.W;
    float *const out = dx + (m * g.h + i) * g.w + j;
    float sum = 0;

    if (i >= g.h || j >= g.w) return;
    if (i < g.crop_h && j < g.crop_w) {
        const bilinear_span rows = bilinear_takers(i, g.crop_h, g.H);
        const bilinear_span cols = bilinear_takers(j, g.crop_w, g.W);

        for (int64_t r = rows.begin; r < rows.end; r++) {
            const float of_row = bilinear_share(r, i, g.crop_h, g.H);
            float along = 0;

            for (int64_t c = cols.begin; c < cols.end; c++)
                along += bilinear_share(c, j, g.crop_w, g.W) * in[r * g.W + c];
            sum += of_row * along;
        }
    }
    *out = add ? *out + sum : sum;
}

extern "C" enum status resize_bwd_cuda(struct tensor dx, struct tensor dy, int64_t crop_h,
                                       int64_t crop_w, struct stream *s)
{
    TRY(resize_bwd_check(dx, dy, crop_h, crop_w));
    STREAM_NO_SCRATCH(s);

    const int64_t h = dx.dim[1], w = dx.dim[2], row_tiles = (h + BWD_ROWS - 1) / BWD_ROWS;
    const planes g = { h, w, crop_h, crop_w, dy.dim[1], dy.dim[2], (int)row_tiles };
    const dim3 grid((unsigned)(dx.dim[0] * row_tiles),
                    (unsigned)((w + BWD_COLUMNS - 1) / BWD_COLUMNS));

    if (!dx.data || tensor_count(dx) == 0) return OK;
    LAUNCH(bwd, grid, BWD_COLUMNS * BWD_ROWS, 0, s, (float *)dx.data, dx.add,
           (const float *)dy.data, g);
    return OK;
}
