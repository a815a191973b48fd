#include "kernels/mask_loss_check.h"

#include "kernels/cuda/takers.h"

/* What one mask's loss is made of; counts are exact below 2^24 of a tile. */
enum { SUM_FOCAL, SUM_P, SUM_PT, SUM_T, SUM_BOTH, SUM_EITHER, SUMS };

/* What forward and backward both read. */
struct operands {
    const float *logits;
    const uint8_t *gt;
    const int32_t *valid; /* NULL: all pixels */
    int64_t n_m, n_k, h, R;
    float alpha, gamma;
};

/* One mask: its logits, its ground truth and the part of it that counts. */
struct plane {
    const float *x;
    const uint8_t *gt;
    int64_t rows, cols;
};

DEVICE plane plane_of(const operands &in, int64_t m, int64_t k)
{
    return { in.logits + (m * in.n_k + k) * in.h * in.h, in.gt + m * in.R * in.R,
             in.valid ? in.valid[2 * m] : in.R, in.valid ? in.valid[2 * m + 1] : in.R };
}

DEVICE double area_of(const plane &a)
{
    return a.rows * a.cols > 0 ? (double)(a.rows * a.cols) : 1;
}

/* What every formula here is made of, for a logit u of the right answer. */
struct sigmoid {
    float right, wrong;   /* σ(u), σ(−u) */
    float entropy, other; /* −ln σ(u), −ln σ(−u) */
};

DEVICE sigmoid sigmoid_of(float u)
{
    const float e = expf(-fabsf(u)), inv = 1.0f / (1.0f + e), tail = log1pf(e);

    return { u > 0 ? inv : e * inv, u > 0 ? e * inv : inv, u > 0 ? tail : tail - u,
             u > 0 ? tail + u : tail };
}

/* σ(−u)^γ */
DEVICE float power(const sigmoid &q, float gamma)
{
    return gamma == 2 ? q.wrong * q.wrong : expf(-gamma * q.other);
}

DEVICE void add_pixel(float (&sum)[SUMS], const operands &in, float z, bool t)
{
    const sigmoid q = sigmoid_of(t ? z : -z);

    sum[SUM_FOCAL] += (t ? in.alpha : 1.0f - in.alpha) * power(q, in.gamma) * q.entropy;
    sum[SUM_P] += t ? q.right : q.wrong;
    sum[SUM_PT] += t ? q.right : 0;
    sum[SUM_T] += t;
    sum[SUM_BOTH] += t && z > 0;
    sum[SUM_EITHER] += t || z > 0;
}

enum { SUM_THREADS = 256, SUM_WARPS = SUM_THREADS / 32, SUM_ROWS = 16 };

/* selected NULL: of all masks; else of the selected ones whose weight is not 0.
 * A block owns 16 rows of one mask at the loss' resolution, a thread every 256th column of them, a
 * warp 32 neighbouring ones. Its sums go up the warp, then through shared memory in order, and are
 * the tile's: the order depends on the shape alone.
 * gt is read once, a byte a pixel, logits about once; 24 bytes a tile are written.
 * Bound by arithmetic: some 70 operations a pixel, an exponential, a logarithm and a division in
 * them, against 1 to 5 bytes. 64×3 masks of 256×256: 30 µs of H200's operations, 12 µs of its memory.
 * A thread keeps to its column, because the place of a column in the logits is two divisions. */
__global__ static void __launch_bounds__(SUM_THREADS)
    sum_tiles(float *sums, const operands in, const int32_t *selected, const float *weight,
              int n_tiles)
{
    __shared__ bilinear_tap place[SUM_ROWS];
    __shared__ float part[SUM_WARPS][SUMS];
    const int t = (int)threadIdx.x;
    const int64_t mask = blockIdx.x / (unsigned)n_tiles;
    const int64_t m = selected ? mask : mask / in.n_k, k = selected ? selected[m] : mask % in.n_k;
    const int64_t first = (int64_t)(blockIdx.x % (unsigned)n_tiles) * SUM_ROWS;
    float sum[SUMS] = {};

    if (weight && weight[m] == 0) return; /* the whole block */
    const plane a = plane_of(in, m, k);
    const int n_rows = (int)max(min(a.rows - first, (int64_t)SUM_ROWS), (int64_t)0);

    if (t < n_rows) place[t] = bilinear_place(first + t, in.h, in.R);
    __syncthreads();
    for (int64_t j = t; j < a.cols; j += SUM_THREADS) {
        const bilinear_tap column = bilinear_place(j, in.h, in.R);

        for (int i = 0; i < n_rows; i++)
            add_pixel(sum, in, bilinear_at(a.x, in.h, place[i], column),
                      a.gt[(first + i) * in.R + j] != 0);
    }
#pragma unroll
    for (int q = 0; q < SUMS; q++) {
        const float v = warp_sum(sum[q]);

        if (t % 32 == 0) part[t / 32][q] = v;
    }
    __syncthreads();
    if (t >= SUMS) return;

    float whole = 0;

    for (int warp = 0; warp < SUM_WARPS; warp++) whole += part[warp][t];
    sums[(int64_t)blockIdx.x * SUMS + t] = whole;
}

struct totals {
    double v[SUMS];
};

/* The tiles' sums of one mask, in order. */
DEVICE totals totals_of(const float *sums, int n_tiles)
{
    totals all = {};

    for (int tile = 0; tile < n_tiles; tile++)
#pragma unroll
        for (int q = 0; q < SUMS; q++) all.v[q] += sums[tile * SUMS + q];
    return all;
}

struct choice {
    const int32_t *candidates;
    float w_focal, w_dice;
    bool iou_l1;
};

DEVICE int32_t least_of(const float *value, candidates c, const choice &by)
{
    double least = 0;
    int32_t best = (int32_t)c.begin;

    for (int64_t k = c.begin; k < c.end; k++) {
        const float *const v = value + k * MASK_LOSS_VALUES;
        const double cost =
            (double)by.w_focal * v[MASK_LOSS_FOCAL] + (double)by.w_dice * v[MASK_LOSS_DICE];

        if (k == c.begin || cost < least) {
            least = cost;
            best = (int32_t)k;
        }
    }
    return best;
}

/* A warp owns a mask, a lane every 32nd of its candidates, and lane 0 the choice. A tile's sums are
 * read once, 16 bytes a candidate written. Bound by latency: n_tiles loads, all in flight.
 * In double, as a few hundred operations a mask are nothing. */
__global__ static void __launch_bounds__(32)
    finish_values(float *value, int32_t *selected, const float *sums, const operands in,
                  const float *iou_pred, const choice by, int n_tiles)
{
    const int64_t m = blockIdx.x;

    for (int64_t k = (int)threadIdx.x; k < in.n_k; k += 32) {
        const int64_t mk = m * in.n_k + k;
        const totals all = totals_of(sums + mk * n_tiles * SUMS, n_tiles);
        const double either = all.v[SUM_EITHER] > 1 ? all.v[SUM_EITHER] : 1;
        const double iou = all.v[SUM_BOTH] / either, miss = iou_pred[mk] - iou;
        float *const v = value + mk * MASK_LOSS_VALUES;

        v[MASK_LOSS_FOCAL] = (float)(all.v[SUM_FOCAL] / area_of(plane_of(in, m, k)));
        v[MASK_LOSS_DICE] =
            (float)(1 - (2 * all.v[SUM_PT] + 1) / (all.v[SUM_P] + all.v[SUM_T] + 1));
        v[MASK_LOSS_ERR] = (float)(by.iou_l1 ? fabs(miss) : miss * miss);
        v[MASK_LOSS_IOU] = (float)iou;
    }
    __syncwarp();
    if (threadIdx.x > 0) return;
    selected[m] = least_of(value + m * in.n_k * MASK_LOSS_VALUES,
                           candidates_of(by.candidates, m, in.n_k), by);
}

static operands operands_of(struct tensor logits, struct tensor gt, struct tensor valid,
                            const struct mask_loss_options *o)
{
    return { (const float *)logits.data,
             (const uint8_t *)gt.data,
             o->valid_only ? (const int32_t *)valid.data : NULL,
             logits.dim[0],
             logits.dim[1],
             logits.dim[2],
             gt.dim[1],
             o->alpha,
             o->gamma };
}

static int64_t tiles_of(int64_t R)
{
    return (R + SUM_ROWS - 1) / SUM_ROWS;
}

extern "C" enum status mask_loss_fwd_cuda(struct tensor value, struct tensor selected,
                                          struct tensor logits, struct tensor gt,
                                          struct tensor iou_pred, struct tensor valid,
                                          const struct mask_loss_options *o, struct stream *s)
{
    TRY(mask_loss_fwd_check(value, selected, logits, gt, iou_pred, valid, o));
    const operands in = operands_of(logits, gt, valid, o);
    const int64_t n_tiles = tiles_of(in.R), n_sums = in.n_m * in.n_k * n_tiles;
    void *scratch; /* (M,K,tiles,SUMS) f32 */

    STREAM_SCRATCH(s, scratch, n_sums * SUMS * (int64_t)sizeof(float));
    if (in.n_m == 0) return OK;

    const choice by = { (const int32_t *)o->candidates.data, o->w_focal, o->w_dice, o->iou_l1 };
    float *const sums = (float *)scratch;

    LAUNCH(sum_tiles, (unsigned)n_sums, SUM_THREADS, 0, s, sums, in, (const int32_t *)NULL,
           (const float *)NULL, (int)n_tiles);
    LAUNCH(finish_values, (unsigned)in.n_m, 32, 0, s, (float *)value.data, (int32_t *)selected.data,
           sums, in, (const float *)iou_pred.data, by, (int)n_tiles);
    return OK;
}

/* The gradient of a pixel is focal · (the focal's) + dice[t] · σ(z) σ(−z). */
struct slopes {
    float focal, dice[2];
};

struct loss {
    const int32_t *selected, *candidates;
    const float *weight;
    float scale, w_focal, w_dice, w_iou;
    bool iou_l1, iou_all;
};

enum { SLOPE_THREADS = 64 };

/* A thread owns a mask of weight: its tiles' sums are read once, 12 bytes written. Bound by latency,
 * as finish_values. */
__global__ static void __launch_bounds__(SLOPE_THREADS)
    find_slopes(slopes *out, const float *sums, const operands in, const loss by, int n_tiles)
{
    const int64_t m = (int64_t)blockIdx.x * SLOPE_THREADS + (int)threadIdx.x;

    if (m >= in.n_m || by.weight[m] == 0) return;

    const totals q = totals_of(sums + m * n_tiles * SUMS, n_tiles);
    const double scale = (double)by.scale * by.weight[m];
    const double whole = q.v[SUM_P] + q.v[SUM_T] + 1, part = 2 * q.v[SUM_PT] + 1;
    const double dice = scale * by.w_dice / (whole * whole);

    out[m].focal = (float)(scale * by.w_focal / area_of(plane_of(in, m, 0)));
    out[m].dice[0] = (float)(dice * part);
    out[m].dice[1] = (float)(dice * (part - 2 * whole));
}

DEVICE float pixel_slope(const operands &in, const slopes &by, float z, bool t)
{
    const sigmoid q = sigmoid_of(t ? z : -z);
    const float focal = power(q, in.gamma) * -(in.gamma * q.right * q.entropy + q.wrong);
    const float side = t ? in.alpha : in.alpha - 1.0f;

    return by.focal * side * focal + (t ? by.dice[1] : by.dice[0]) * (q.right * q.wrong);
}

enum { TILE_COLUMNS = 32, TILE_ROWS = 8, TILE_THREADS = TILE_COLUMNS * TILE_ROWS };
enum { CHUNK_COLUMNS = 144, CHUNK_ROWS = 40 };

/* Pixels begin … end − 1 of an axis. */
struct pixels {
    int begin, end;
};

/* Those that took from logit k, of h. */
DEVICE pixels takers_of(int k, const operands &in)
{
    const bilinear_span all = bilinear_takers(k, in.h, in.R);

    return { (int)all.begin, (int)all.end };
}

/* Of the pixels of a chunk from `first` on, n of them, those in all; counted from first. */
DEVICE pixels within(pixels all, int first, int n)
{
    return { max(all.begin - first, 0), min(all.end - first, n) };
}

/* What the pixel at that place takes of logit k, of h. */
DEVICE float share_of(const bilinear_tap &place, int k, int64_t h)
{
    if (place.lo != k) return place.w;
    return k + 1 < h ? 1.0f - place.w : 1.0f;
}

/* A block owns 8×32 logits of one mask, a thread one, of all candidates: those not selected get
 * zero. The gradients of the pixels that took from the tile are found once a block, in chunks of at
 * most 40×144 in shared memory, and every thread gathers its own from there: nothing is added to by
 * two, and the order is fixed. gt and logits are read about once, dlogits is written once.
 * Bound by arithmetic: 80 operations a pixel, 1.2 times over at the tiles' edges for f = 4, and 4·f²
 * reads of shared memory a logit, f of them in one bank: 64 masks of 1024², 0.8 ms of A100.
 * A chunk is what 9×33 logits span at f = 4; greater f takes more chunks, never more memory. */
__global__ static void __launch_bounds__(TILE_THREADS)
    bwd_tiles(float *dlogits, bool add, const slopes *slope, const operands in, const loss by,
              int row_tiles)
{
    __shared__ float d[CHUNK_ROWS][CHUNK_COLUMNS];
    __shared__ bilinear_tap row_place[CHUNK_ROWS], col_place[CHUNK_COLUMNS];
    const int t = (int)threadIdx.x;
    const int64_t m = blockIdx.x / (unsigned)row_tiles;
    const int r0 = (int)(blockIdx.x % (unsigned)row_tiles) * TILE_ROWS, h = (int)in.h;
    const int c0 = (int)blockIdx.y * TILE_COLUMNS;
    const int r = r0 + t / TILE_COLUMNS, c = c0 + t % TILE_COLUMNS;
    const int chosen = by.weight[m] != 0 && by.scale != 0 ? by.selected[m] : -1;
    float sum = 0;

    if (chosen >= 0) {
        const plane a = plane_of(in, m, chosen);
        const pixels of_row = takers_of(min(r, h - 1), in), of_col = takers_of(min(c, h - 1), in);
        const int i_last = takers_of(min(r0 + TILE_ROWS, h) - 1, in).end;
        const int j_last = takers_of(min(c0 + TILE_COLUMNS, h) - 1, in).end;
        const int i_end = min(i_last, (int)a.rows), j_end = min(j_last, (int)a.cols);
        const int j_begin = takers_of(c0, in).begin;

        for (int i = takers_of(r0, in).begin; i < i_end; i += CHUNK_ROWS)
            for (int j = j_begin; j < j_end; j += CHUNK_COLUMNS) {
                const int n_i = min(i_end - i, (int)CHUNK_ROWS);
                const int n_j = min(j_end - j, (int)CHUNK_COLUMNS);

                __syncthreads(); /* all have gathered from the chunk before */
                if (t < n_i) row_place[t] = bilinear_place(i + t, in.h, in.R);
                if (t < n_j) col_place[t] = bilinear_place(j + t, in.h, in.R);
                __syncthreads();
                for (int p = t; p < n_i * n_j; p += TILE_THREADS) {
                    const int y = p / n_j, x = p % n_j;
                    const float z = bilinear_at(a.x, in.h, row_place[y], col_place[x]);

                    d[y][x] = pixel_slope(in, slope[m], z, a.gt[(i + y) * in.R + j + x] != 0);
                }
                __syncthreads();
                const pixels rows = within(of_row, i, n_i), cols = within(of_col, j, n_j);

                for (int y = rows.begin; y < rows.end; y++) {
                    float along = 0;

                    for (int x = cols.begin; x < cols.end; x++)
                        along += share_of(col_place[x], c, in.h) * d[y][x];
                    sum += share_of(row_place[y], r, in.h) * along;
                }
            }
    }
    if (r >= h || c >= h) return;
    for (int64_t k = 0; k < in.n_k; k++) {
        float *const out = dlogits + ((m * in.n_k + k) * h + r) * h + c;

        if (k == chosen)
            *out = add ? *out + sum : sum;
        else if (!add)
            *out = 0;
    }
}

enum { IOU_THREADS = 128 };

/* A thread owns a predicted IoU: read once, its gradient written once. Bound by the launch. */
__global__ static void __launch_bounds__(IOU_THREADS)
    bwd_iou(float *diou, bool add, const float *value, const float *iou_pred, const operands in,
            const loss by)
{
    const int64_t mk = (int64_t)blockIdx.x * IOU_THREADS + (int)threadIdx.x;
    const int64_t m = mk / in.n_k, k = mk % in.n_k;

    if (m >= in.n_m) return;
    const float miss = iou_pred[mk] - value[mk * MASK_LOSS_VALUES + MASK_LOSS_IOU];
    const float slope = by.iou_l1 ? (float)((miss > 0) - (miss < 0)) : 2.0f * miss;
    const candidates c = candidates_of(by.candidates, m, in.n_k);
    const float share = by.iou_all ? (float)(k >= c.begin && k < c.end) / (float)(c.end - c.begin)
                                   : (float)(k == by.selected[m]);
    const float w = by.scale * by.weight[m];
    const float d = w == 0 || share == 0 ? 0 : w * by.w_iou * share * slope;

    diou[mk] = add ? diou[mk] + d : d;
}

static enum status bwd_logits(struct tensor dlogits, const operands &in, const loss &by,
                              float *sums, slopes *slope, struct stream *s)
{
    const int64_t n_tiles = tiles_of(in.R), row_tiles = (in.h + TILE_ROWS - 1) / TILE_ROWS;
    const dim3 grid((unsigned)(in.n_m * row_tiles),
                    (unsigned)((in.h + TILE_COLUMNS - 1) / TILE_COLUMNS));

    LAUNCH(sum_tiles, (unsigned)(in.n_m * n_tiles), SUM_THREADS, 0, s, sums, in, by.selected,
           by.weight, (int)n_tiles);
    LAUNCH(find_slopes, (unsigned)((in.n_m + SLOPE_THREADS - 1) / SLOPE_THREADS), SLOPE_THREADS, 0,
           s, slope, sums, in, by, (int)n_tiles);
    LAUNCH(bwd_tiles, grid, TILE_THREADS, 0, s, (float *)dlogits.data, dlogits.add, slope, in, by,
           (int)row_tiles);
    return OK;
}

extern "C" enum status mask_loss_bwd_cuda(struct tensor dlogits, struct tensor diou,
                                          struct tensor value, struct tensor selected,
                                          struct tensor logits, struct tensor gt,
                                          struct tensor iou_pred, struct tensor valid,
                                          struct tensor weight, float scale,
                                          const struct mask_loss_options *o, struct stream *s)
{
    TRY(mask_loss_bwd_check(dlogits, diou, value, selected, logits, gt, iou_pred, valid, weight,
                            o));
    const operands in = operands_of(logits, gt, valid, o);
    const int64_t n_sums = in.n_m * tiles_of(in.R) * SUMS;
    void *scratch; /* (M,tiles,SUMS) f32, then slopes by masks */

    STREAM_SCRATCH(s, scratch, n_sums * (int64_t)sizeof(float) + in.n_m * (int64_t)sizeof(slopes));
    if (in.n_m == 0) return OK;

    const loss by = { (const int32_t *)selected.data,
                      (const int32_t *)o->candidates.data,
                      (const float *)weight.data,
                      scale,
                      o->w_focal,
                      o->w_dice,
                      o->w_iou,
                      o->iou_l1,
                      o->iou_all };
    float *const sums = (float *)scratch;

    if (diou.data)
        LAUNCH(bwd_iou, (unsigned)((in.n_m * in.n_k + IOU_THREADS - 1) / IOU_THREADS), IOU_THREADS,
               0, s, (float *)diou.data, diou.add, (const float *)value.data,
               (const float *)iou_pred.data, in, by);
    if (dlogits.data) TRY(bwd_logits(dlogits, in, by, sums, (slopes *)(sums + n_sums), s));
    return OK;
}
