#include "kernels/rasterize_check.h"

#include "kernels/cuda/device.h"

enum { PIXEL = RASTERIZE_PIXEL };

/* The runs of all masks, and up to the end of each: all pixels of its mask, the masked ones. */
struct ends {
    int64_t *all, *masked;
};

enum { SCAN_THREADS = 256 };

/* A block owns a mask and adds its runs up, 256 at a time, in eight steps: thread t adds what is
 * 1, 2, 4 … before it, from one half of shared memory to the other, a barrier a step.
 * A run is read once, its two sums are written once. Bound by the steps' latency: 8 barriers for
 * 256 runs, some 2000 runs a mask. Integers: the order does not matter. */
__global__ static void __launch_bounds__(SCAN_THREADS)
    add_runs(ends out, const int32_t *runs, const int64_t *first)
{
    __shared__ int64_t all[2][SCAN_THREADS], masked[2][SCAN_THREADS];
    const int t = (int)threadIdx.x;
    const int64_t begin = first[blockIdx.x], end = first[blockIdx.x + 1];
    int64_t all_before = 0, masked_before = 0;

    for (int64_t k = begin; k < end; k += SCAN_THREADS) {
        const int64_t run = k + t < end ? runs[k + t] : 0;
        int now = 0;

        all[0][t] = run;
        masked[0][t] = (k + t - begin) & 1 ? run : 0;
        for (int step = 1; step < SCAN_THREADS; step *= 2) {
            const int other = t - step;

            __syncthreads();
            all[!now][t] = all[now][t] + (other >= 0 ? all[now][other] : 0);
            masked[!now][t] = masked[now][t] + (other >= 0 ? masked[now][other] : 0);
            now = !now;
        }
        __syncthreads();
        if (k + t < end) {
            out.all[k + t] = all_before + all[now][t];
            out.masked[k + t] = masked_before + masked[now][t];
        }
        all_before += all[now][SCAN_THREADS - 1];
        masked_before += masked[now][SCAN_THREADS - 1];
        __syncthreads();
    }
}

/* One mask's runs. */
struct mask_runs {
    const int64_t *all, *masked;
    int64_t n;
};

/* The first run from k on that ends behind pixel p, by strides that double, then by halves. */
DEVICE int64_t run_at(const mask_runs &r, int64_t k, int64_t p)
{
    int64_t high = k;

    for (int64_t stride = 1; high < r.n && r.all[high] <= p; stride *= 2) {
        k = high + 1;
        high = min(high + stride, r.n);
    }
    while (k < high) {
        const int64_t middle = (k + high) / 2;

        if (r.all[middle] > p)
            high = middle;
        else
            k = middle + 1;
    }
    return k;
}

/* What is masked before `part` of pixel p, which is of run k: in 1/65536 pixel of a column. */
DEVICE int64_t masked_before(const mask_runs &r, int64_t k, int64_t p, int part)
{
    if (k == r.n) return k > 0 ? r.masked[k - 1] * PIXEL : 0;
    return k & 1 ? (r.masked[k] - (r.all[k] - p)) * PIXEL + part : r.masked[k] * PIXEL;
}

/* A place in a column: a pixel, and how much of it is above. */
struct place {
    int pixel, part;
};

/* y, in 1/65536 pixel, or the end of a column of h pixels. */
DEVICE place place_of(int64_t y, int h)
{
    if (y >= (int64_t)h * PIXEL) return { h, 0 };
    return { (int)(y / PIXEL), (int)(y % PIXEL) };
}

/* Masked area of columns [x0,x1) between two places, in 1/65536 pixel; h×w pixels. */
DEVICE int64_t covered(const mask_runs &r, int h, int w, place top, place bottom, int64_t x0,
                       int64_t x1)
{
    int64_t sum = 0, k = 0;

    for (int64_t c = x0 / PIXEL; c < w && c * PIXEL < x1; c++) {
        const int64_t p0 = c * h + top.pixel, p1 = c * h + bottom.pixel;
        int64_t tall;

        k = run_at(r, k, p0);
        tall = masked_before(r, k, p0, top.part);
        k = run_at(r, k, p1);
        tall = masked_before(r, k, p1, bottom.part) - tall;
        sum += (min(x1, (c + 1) * PIXEL) - max(x0, c * PIXEL)) * tall;
    }
    return sum;
}

struct geometry {
    int64_t R, nh, nw, S;
    int h, w, row_tiles; /* of a mask */
};

enum { EDGE_THREADS = 128 };

/* A thread owns an edge between rows of cells and the one between columns of the same number: two
 * divisions each, found once for all masks. (R+1) each, written once; bound by the launch. */
__global__ static void __launch_bounds__(EDGE_THREADS)
    find_edges(int64_t *y_edge, int64_t *x_edge, const geometry g)
{
    const int64_t i = (int64_t)blockIdx.x * EDGE_THREADS + (int)threadIdx.x;

    if (i > g.R) return;
    y_edge[i] = rasterize_edge(i, g.R, g.S, g.h, g.nh);
    x_edge[i] = rasterize_edge(i, g.R, g.S, g.w, g.nw);
}

enum { COLUMNS = 32, ROWS = 8 };

/* A block owns 32×8 cells of one mask, a warp a row of them, a thread a cell: the pixel columns it
 * spans are asked in turn how much is masked between its two edges, from the sums of runs.
 * gt is written once, 32 bytes a warp; a mask's sums, 16 bytes a run, come from L1 and L2.
 * Bound by the latency of the searches, which depend on each other: about 6 pixel columns a cell,
 * two searches each, of which the second goes on where the first ended.
 * By cells, not by segments as the CPU does it: a warp's cells meet the same runs, no cell is
 * written by two, and an empty mask costs next to nothing. */
__global__ static void __launch_bounds__(COLUMNS *ROWS)
    cells(uint8_t *gt, const ends sums, const int64_t *first, const int64_t *y_edge,
          const int64_t *x_edge, const geometry g)
{
    const int64_t m = blockIdx.x / (unsigned)g.row_tiles;
    const int64_t i =
        (int64_t)(blockIdx.x % (unsigned)g.row_tiles) * ROWS + (int)threadIdx.x / COLUMNS;
    const int64_t j = (int64_t)blockIdx.y * COLUMNS + (int)threadIdx.x % COLUMNS;
    const mask_runs r = { sums.all + first[m], sums.masked + first[m], first[m + 1] - first[m] };

    if (i >= g.R || j >= g.R) return;

    const int64_t y0 = y_edge[i], y1 = y_edge[i + 1], x0 = x_edge[j], x1 = x_edge[j + 1];
    const int64_t area = covered(r, g.h, g.w, place_of(y0, g.h), place_of(y1, g.h), x0, x1);

    gt[(m * g.R + i) * g.R + j] = 2 * area >= (y1 - y0) * (x1 - x0);
}

extern "C" enum status rasterize_cuda(struct tensor gt, struct tensor runs, struct tensor first,
                                      struct tensor geometry_of, struct stream *s)
{
    TRY(rasterize_check(gt, runs, first, geometry_of));
    const int64_t n_masks = gt.dim[0], R = gt.dim[1], n = runs.dim[0];
    const int64_t row_tiles = (R + ROWS - 1) / ROWS;
    void *scratch; /* two sums a run, then the edges of rows and of columns */

    STREAM_SCRATCH(s, scratch, 2 * (n + R + 1) * (int64_t)sizeof(int64_t));
    if (n_masks == 0) return OK;

    const int32_t *const of = (const int32_t *)geometry_of.data;
    const ends sums = { (int64_t *)scratch, (int64_t *)scratch + n };
    const geometry g = { R,
                         of[RASTERIZE_NH],
                         of[RASTERIZE_NW],
                         of[RASTERIZE_S],
                         of[RASTERIZE_H],
                         of[RASTERIZE_W],
                         (int)row_tiles };
    int64_t *const y_edge = (int64_t *)scratch + 2 * n, *const x_edge = y_edge + R + 1;
    const dim3 grid((unsigned)(n_masks * row_tiles), (unsigned)((R + COLUMNS - 1) / COLUMNS));

    if (n > 0)
        LAUNCH(add_runs, (unsigned)n_masks, SCAN_THREADS, 0, s, sums, (const int32_t *)runs.data,
               (const int64_t *)first.data);
    LAUNCH(find_edges, (unsigned)((R + EDGE_THREADS) / EDGE_THREADS), EDGE_THREADS, 0, s, y_edge,
           x_edge, g);
    LAUNCH(cells, grid, COLUMNS * ROWS, 0, s, (uint8_t *)gt.data, sums, (const int64_t *)first.data,
           y_edge, x_edge, g);
    return OK;
}
