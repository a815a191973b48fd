#include "kernels/bilinear.h"
#include "kernels/prompt_check.h"
#include "kernels/prompt_draw.h"

#include "kernels/cuda/element.h"

/* All pixels of a region: the foreground, the background, or where the prediction is wrong. */
enum region { FOREGROUND, BACKGROUND, ERRORS };

/* gt and, for ERRORS, the logits z to be upsampled to it. */
struct plane {
    const uint8_t *gt;
    const float *z;
    int64_t R, h;
};

/* row: the place of row i in the logits. */
DEVICE bool is_inside(const plane &p, enum region region, bilinear_tap row, int64_t i, int64_t j)
{
    const bool t = p.gt[i * p.R + j] != 0;

    if (region != ERRORS) return t == (region == FOREGROUND);
    return t != (bilinear_at(p.z, p.h, row, bilinear_place(j, p.h, p.R)) > 0);
}

DEVICE int warp_count(int v)
{
#pragma unroll
    for (int turn = 16; turn > 0; turn /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, turn);
    return v;
}

/* How many of the lanes up to this one's sum: the sum of v over lanes 0 … own. */
DEVICE int warp_running_sum(int v)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(0xFFFFFFFFu, v, step);

        if (lane >= step) v += below;
    }
    return v;
}

/* Pixels of each row, of each mask: of the foreground, of errors. */
struct row_counts {
    int *foreground, *errors;
};

DEVICE int64_t best_of(const float *iou_pred, const int32_t *candidates, int64_t m, int64_t n_k)
{
    return candidates_best(candidates_of(candidates, m, n_k), iou_pred + m * n_k);
}

/* What is drawn from: of prompt_first no logits. */
struct masks {
    const uint8_t *gt;
    const float *logits, *iou_pred, *weight;
    const int32_t *candidates;
    int64_t n_m, n_k, R, h;
};

DEVICE plane plane_of(const masks &in, int64_t m)
{
    const int64_t best = in.logits ? best_of(in.iou_pred, in.candidates, m, in.n_k) : 0;

    return { in.gt + m * in.R * in.R,
             in.logits ? in.logits + (m * in.n_k + best) * in.h * in.h : NULL, in.R, in.h };
}

enum { COUNT_THREADS = 256, COUNT_WARPS = COUNT_THREADS / 32 };

/* A warp owns a row of gt of one mask, 32 neighbouring pixels at a time, a block eight rows.
 * gt is read once, logits about once from memory; two numbers a row are written.
 * Bound by arithmetic where logits are upsampled, 60 operations a pixel for its place and four
 * products: 20 µs on A100 for 64 masks of 256×256; else by memory, a byte a pixel.
 * Rows apart from the choice, so that all of the device counts, and the choice looks at one row. */
template <bool WITH_ERRORS>
__global__ static void __launch_bounds__(COUNT_THREADS)
    count_rows(row_counts out, const masks in, bool active)
{
    const int lane = (int)threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * COUNT_WARPS + (int)threadIdx.x / 32;
    const int64_t m = row / in.R, i = row % in.R;
    int foreground = 0, errors = 0;

    if (!active || m >= in.n_m || in.weight[m] == 0) return; /* whole warps */
    const plane p = plane_of(in, m);
    const bilinear_tap place = bilinear_place(i, p.h, p.R);

    for (int64_t j = lane; j < in.R; j += 32) {
        foreground += is_inside(p, FOREGROUND, place, i, j);
        if (WITH_ERRORS) errors += is_inside(p, ERRORS, place, i, j);
    }
    foreground = warp_count(foreground);
    if (WITH_ERRORS) errors = warp_count(errors);
    if (lane > 0) return;
    out.foreground[row] = foreground;
    if (WITH_ERRORS) out.errors[row] = errors;
}

/* Of row i of mask m, which all lanes may ask at once. */
DEVICE int count_of(const row_counts &rows, enum region region, int64_t m, int64_t i, int64_t R)
{
    if (region == ERRORS) return rows.errors[m * R + i];

    const int n = rows.foreground[m * R + i];

    return region == FOREGROUND ? n : (int)R - n;
}

/* By a whole warp: pixels of the region in all rows. */
DEVICE int64_t count_all(const row_counts &rows, enum region region, int64_t m, int64_t R)
{
    const int lane = (int)threadIdx.x % 32;
    int64_t sum = 0;

    for (int64_t i = 0; i < R; i += 32)
        sum += warp_count(i + lane < R ? count_of(rows, region, m, i + lane, R) : 0);
    return sum;
}

/* By a whole warp: the n-th pixel of the region in row-major order, as an index of the plane; there
 * are more than n. */
DEVICE int64_t nth(const row_counts &rows, const plane &p, enum region region, int64_t m, int64_t n)
{
    const int lane = (int)threadIdx.x % 32;
    int64_t i = 0, j = 0;

    for (;; i += 32) {
        const int own = i + lane < p.R ? count_of(rows, region, m, i + lane, p.R) : 0;
        const int up_to = warp_running_sum(own), all = __shfl_sync(0xFFFFFFFFu, up_to, 31);
        const unsigned behind = __ballot_sync(0xFFFFFFFFu, up_to > n);

        if (behind) {
            const int row = __ffs((int)behind) - 1;

            n -= __shfl_sync(0xFFFFFFFFu, up_to - own, row);
            i += row;
            break;
        }
        n -= all;
    }
    const bilinear_tap place = bilinear_place(i, p.h, p.R);

    for (;; j += 32) {
        unsigned inside =
            __ballot_sync(0xFFFFFFFFu, j + lane < p.R && is_inside(p, region, place, i, j + lane));
        const int all = __popc(inside);

        if (n >= all) {
            n -= all;
            continue;
        }
        for (; n > 0; n--) inside &= inside - 1;
        return i * p.R + j + __ffs((int)inside) - 1;
    }
}

DEVICE void put(float *coords, int32_t *labels, float x, float y, int32_t label)
{
    coords[0] = x;
    coords[1] = y;
    *labels = label;
}

DEVICE void put_pixel(float *coords, int32_t *labels, int64_t at, int64_t R, int frame,
                      int32_t label)
{
    put(coords, labels, prompt_draw_centre(at % R, R, frame), prompt_draw_centre(at / R, R, frame),
        label);
}

struct prompts {
    float *coords;
    int32_t *labels, *n_points;
    int64_t n_p;
};

struct draw {
    const int64_t *key;
    int64_t m_first;
};

/* A warp owns a mask: it finds the row of the chosen pixel from the rows' counts, 32 at a time, and
 * the pixel in that row. The counts are read twice, one row of gt once; two slots are written.
 * Bound by latency: three chains of R/32 loads, some 10 µs. One mask a block, because there are
 * fewer masks than multiprocessors have room for. */
__global__ static void __launch_bounds__(32)
    choose_first(const prompts out, const row_counts rows, const masks in, const float *box,
                 const float *size, const draw from, const prompt_options o)
{
    const int64_t m = blockIdx.x;
    const bool writes = threadIdx.x == 0;
    float *const xy = out.coords + m * out.n_p * 2;
    int32_t *const label = out.labels + m * out.n_p;
    const rng_key key = prompt_draw_key(from.key, from.m_first + m);
    const plane p = plane_of(in, m);

    if (writes) {
        out.n_points[m] = 2;
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
        put(xy + 2, label + 1, 0, 0, PROMPT_LABEL_NONE);
    }
    __syncwarp(); /* empty first: other lanes may fill them */
    if (in.weight[m] == 0) return;
    if (rng_uniform(key, PROMPT_DRAW_KIND) < o.box_share) {
        const int c = (int)threadIdx.x & 3; /* a lane draws one coordinate */
        const float drawn = prompt_draw_coordinate(c, box + 4 * m, size, key, &o);
        float v[4];

#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __shfl_sync(0xFFFFFFFFu, drawn, k);
        const float own = prompt_draw_is_box(v[0], v[1], v[2], v[3]) ? drawn : box[4 * m + c];

        if (threadIdx.x < 4) xy[c] = own - 0.5f;
        if (threadIdx.x < 2) label[c] = PROMPT_LABEL_BOX + c;
        return;
    }
    const int64_t n = count_all(rows, FOREGROUND, m, in.R);

    if (n == 0) return;
    const int64_t at = nth(rows, p, FOREGROUND, m, rng_below(key, PROMPT_DRAW_POINT, (uint64_t)n));

    if (writes) put_pixel(xy, label, at, in.R, o.frame, 1);
}

/* As choose_first, with a region that depends on what there is. */
__global__ static void __launch_bounds__(32)
    choose_next(const prompts out, const row_counts rows, const masks in, const draw from,
                int round, int frame, bool active)
{
    if (!active) return;

    const int64_t m = blockIdx.x;
    const bool writes = threadIdx.x == 0;
    const rng_key key = prompt_draw_key(from.key, from.m_first + m);
    const plane p = plane_of(in, m);
    const int64_t used = out.n_points[m];
    float *const xy = out.coords + (m * out.n_p + used) * 2;
    int32_t *const label = out.labels + m * out.n_p + used;
    enum region region = ERRORS;
    int64_t n;

    __syncwarp(); /* all know how many were used */
    if (writes) {
        out.n_points[m] = (int32_t)(used + 1);
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
    }
    if (in.weight[m] == 0) return;
    n = count_all(rows, region, m, in.R);
    if (n == 0) n = count_all(rows, region = BACKGROUND, m, in.R);
    if (n == 0) n = count_all(rows, region = FOREGROUND, m, in.R);
    const uint32_t choice = rng_below(key, (uint64_t)(PROMPT_DRAW_CLICK + round), (uint64_t)n);
    const int64_t at = nth(rows, p, region, m, choice);

    if (writes) put_pixel(xy, label, at, in.R, frame, p.gt[at] != 0);
}

enum { COPY_THREADS = 256, COPY_BLOCK = COPY_THREADS * 4 };
static const int64_t MAX_ROWS_OF_BLOCKS = 1024;

/* A thread owns four neighbouring logits of masks blockIdx.y, + gridDim.y, … Read once, written
 * once: bound by memory, 8 bytes a logit of one candidate. */
__global__ static void __launch_bounds__(COPY_THREADS)
    copy_best(float *mask_prompt, const masks in, bool aligned)
{
    const int64_t i = ((int64_t)blockIdx.x * COPY_THREADS + (int)threadIdx.x) * 4;
    const int64_t n = in.h * in.h;
    float v[4];

    if (i >= n) return;
    for (int64_t m = blockIdx.y; m < in.n_m; m += gridDim.y) {
        element_load_lot(v, plane_of(in, m).z + i, n - i, aligned);
        element_store_lot(mask_prompt + m * n + i, v, n - i, aligned);
    }
}

static unsigned count_blocks(const masks &in)
{
    return (unsigned)((in.n_m * in.R + COUNT_WARPS - 1) / COUNT_WARPS);
}

extern "C" enum status prompt_first_cuda(struct tensor coords, struct tensor labels,
                                         struct tensor n_points, struct tensor gt,
                                         struct tensor box, struct tensor size,
                                         struct tensor weight, struct tensor key, int64_t m_first,
                                         const struct prompt_options *o, struct stream *s)
{
    TRY(prompt_first_check(coords, labels, n_points, gt, box, size, weight, key, m_first, o));
    const int64_t n_m = coords.dim[0], R = gt.dim[1];
    void *scratch; /* a count a row */

    STREAM_SCRATCH(s, scratch, n_m * R * (int64_t)sizeof(int));
    if (n_m == 0) return OK;

    const row_counts rows = { (int *)scratch, NULL };
    const prompts out = { (float *)coords.data, (int32_t *)labels.data, (int32_t *)n_points.data,
                          coords.dim[1] };
    const masks in = {
        (const uint8_t *)gt.data, NULL, NULL, (const float *)weight.data, NULL, n_m, 0, R, 0
    };
    const draw from = { (const int64_t *)key.data, m_first };

    LAUNCH(count_rows<false>, count_blocks(in), COUNT_THREADS, 0, s, rows, in, true);
    LAUNCH(choose_first, (unsigned)n_m, 32, 0, s, out, rows, in, (const float *)box.data,
           (const float *)size.data, from, *o);
    return OK;
}

extern "C" enum status prompt_next_cuda(struct tensor mask_prompt, struct tensor coords,
                                        struct tensor labels, struct tensor n_points,
                                        struct tensor logits, struct tensor iou_pred,
                                        struct tensor gt, struct tensor weight, struct tensor key,
                                        int64_t m_first, int round, bool add_point,
                                        const struct prompt_options *o, struct stream *s)
{
    TRY(prompt_next_check(mask_prompt, coords, labels, n_points, logits, iou_pred, gt, weight, key,
                          m_first, round, o));
    const int64_t n_m = coords.dim[0], R = gt.dim[1], h = logits.dim[2];
    void *scratch; /* two counts a row */

    STREAM_SCRATCH(s, scratch, 2 * n_m * R * (int64_t)sizeof(int));
    if (n_m == 0) return OK;

    const row_counts rows = { (int *)scratch, (int *)scratch + n_m * R };
    const prompts out = { (float *)coords.data, (int32_t *)labels.data, (int32_t *)n_points.data,
                          coords.dim[1] };
    const masks in = { (const uint8_t *)gt.data,
                       (const float *)logits.data,
                       (const float *)iou_pred.data,
                       (const float *)weight.data,
                       (const int32_t *)o->candidates.data,
                       n_m,
                       logits.dim[1],
                       R,
                       h };
    const draw from = { (const int64_t *)key.data, m_first };
    const dim3 grid((unsigned)((h * h + COPY_BLOCK - 1) / COPY_BLOCK),
                    (unsigned)min(n_m, MAX_ROWS_OF_BLOCKS));
    const bool aligned = element_aligned<4>((const float *)mask_prompt.data, h * h) &&
                         element_aligned<4>((const float *)logits.data, h * h);

    LAUNCH(copy_best, grid, COPY_THREADS, 0, s, (float *)mask_prompt.data, in, aligned);
    /* a silent round launches the same and does nothing, so that all steps are graphs of one shape */
    LAUNCH(count_rows<true>, count_blocks(in), COUNT_THREADS, 0, s, rows, in, add_point);
    LAUNCH(choose_next, (unsigned)n_m, 32, 0, s, out, rows, in, from, round, o->frame, add_point);
    return OK;
}

/* A thread owns a pixel of every mask that its row of blocks takes. Bound by memory: 12 bytes each. */
__global__ static void __launch_bounds__(COPY_THREADS)
    add_to_best(float *dlogits, const float *dmask, const float *iou_pred,
                const int32_t *candidates, int64_t n_m, int64_t K, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * COPY_THREADS + (int)threadIdx.x;

    for (int64_t m = blockIdx.y; i < n && m < n_m; m += gridDim.y) {
        const int64_t best = candidates_best(candidates_of(candidates, m, K), iou_pred + m * K);

        dlogits[(m * K + best) * n + i] += dmask[m * n + i];
    }
}

extern "C" enum status prompt_next_bwd_cuda(struct tensor dlogits, struct tensor dmask,
                                            struct tensor iou_pred, const struct prompt_options *o,
                                            struct stream *s)
{
    TRY(prompt_next_bwd_check(dlogits, dmask, iou_pred, o));
    STREAM_NO_SCRATCH(s);

    const int64_t n_m = dlogits.dim[0], K = dlogits.dim[1], n = dlogits.dim[2] * dlogits.dim[3];
    const dim3 grid((unsigned)((n + COPY_THREADS - 1) / COPY_THREADS),
                    (unsigned)min(n_m, MAX_ROWS_OF_BLOCKS));

    if (n_m == 0 || n == 0) return OK;
    LAUNCH(add_to_best, grid, COPY_THREADS, 0, s, (float *)dlogits.data, (const float *)dmask.data,
           (const float *)iou_pred.data, (const int32_t *)o->candidates.data, n_m, K, n);
    return OK;
}
