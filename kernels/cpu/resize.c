#include "kernels/resize.h"

#include <omp.h>
#include <string.h>

#include "kernels/cpu/row_taps.h"
#include "kernels/resize_check.h"

enum { ROWS = 32 }; /* of y in one piece of work */

/* Rows i0 … i1 of y. pair holds two interpolated rows of x, row r in the half r & 1. */
static void fwd_rows(float *y, const float *x, int64_t w, int64_t crop_h, int64_t H, int64_t i0,
                     int64_t i1, const struct row_taps *t, float *pair, int64_t half)
{
    int64_t have[2] = { -1, -1 };

    for (int64_t i = i0; i < i1; i++) {
        const struct bilinear_tap r = bilinear_place(i, crop_h, H);
        const float *restrict top = pair + (r.lo & 1) * half;
        const float *restrict bottom = pair + (r.hi & 1) * half;
        float *restrict out = y + i * t->out;

        for (int64_t k = r.lo; k <= r.hi; k++) {
            if (have[k & 1] == k) continue;
            row_taps_apply(pair + (k & 1) * half, x + k * w, t, t->out);
            have[k & 1] = k;
        }
        for (int64_t j = 0; j < t->out; j++) out[j] = top[j] * (1.0f - r.w) + bottom[j] * r.w;
    }
}

enum status resize_fwd_cpu(struct tensor y, struct tensor x, int64_t crop_h, int64_t crop_w,
                           struct stream *s)
{
    char *scratch;

    TRY(resize_fwd_check(y, x, crop_h, crop_w));

    const int64_t M = x.dim[0], h = x.dim[1], w = x.dim[2], H = y.dim[1], W = y.dim[2];
    const int64_t taps_bytes = row_taps_bytes(crop_w, W), half = arena_round(W * 4) / 4;
    const int64_t blocks = (H + ROWS - 1) / ROWS;

    STREAM_SCRATCH(s, scratch, taps_bytes + omp_get_max_threads() * 2 * half * 4);

    const struct row_taps t = row_taps_plan(scratch, crop_w, W);

#pragma omp parallel for schedule(static)
    for (int64_t work = 0; work < M * blocks; work++) {
        const int64_t m = work / blocks, i0 = work % blocks * ROWS;
        float *const pair = (float *)(scratch + taps_bytes) + omp_get_thread_num() * 2 * half;

        fwd_rows((float *)y.data + m * H * W, (const float *)x.data + m * h * w, w, crop_h, H, i0,
                 i0 + ROWS < H ? i0 + ROWS : H, &t, pair, half);
    }
    return OK;
}

/* One plane. Rows of dy are summed into the two rows of x they came from, at full width; a row of
 * dx gets its sum, narrowed, when no later row can add to it. */
static void bwd_plane(float *dx, const float *dy, int64_t w, int64_t crop_h, int64_t H,
                      const struct row_taps *t, float *pair, int64_t half)
{
    int64_t done = 0; /* rows of dx that are complete */

    memset(pair, 0, (size_t)(2 * half) * sizeof *pair);
    for (int64_t i = 0; i <= H; i++) {
        const struct bilinear_tap r = bilinear_place(i < H ? i : H - 1, crop_h, H);
        const int64_t open = i < H ? r.lo : crop_h;

        for (; done < open; done++) {
            float *sum = pair + (done & 1) * half;

            row_taps_adjoint(dx + done * w, sum, t);
            memset(sum, 0, (size_t)half * sizeof *sum);
        }
        if (i == H) break;

        const float *restrict in = dy + i * t->out;
        float *restrict top = pair + (r.lo & 1) * half, *restrict bottom =
                                                            pair + (~r.lo & 1) * half;
        /* behind the last row there is none: it takes both shares */
        const float hi = r.hi > r.lo ? r.w : 0, lo = r.hi > r.lo ? 1.0f - r.w : 1;

        for (int64_t j = 0; j < t->out; j++) {
            top[j] += lo * in[j];
            bottom[j] += hi * in[j];
        }
    }
}

enum status resize_bwd_cpu(struct tensor dx, struct tensor dy, int64_t crop_h, int64_t crop_w,
                           struct stream *s)
{
    char *scratch;

    TRY(resize_bwd_check(dx, dy, crop_h, crop_w));

    const int64_t M = dx.dim[0], h = dx.dim[1], w = dx.dim[2], H = dy.dim[1], W = dy.dim[2];
    const int64_t taps_bytes = row_taps_bytes(crop_w, W), half = arena_round(W * 4) / 4;

    STREAM_SCRATCH(s, scratch, taps_bytes + omp_get_max_threads() * 2 * half * 4);
    if (!dx.data) return OK;

    const struct row_taps t = row_taps_plan(scratch, crop_w, W);

#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < M; m++) {
        float *const dx_m = (float *)dx.data + m * h * w;
        float *const pair = (float *)(scratch + taps_bytes) + omp_get_thread_num() * 2 * half;

        if (!dx.add) memset(dx_m, 0, (size_t)(h * w) * sizeof *dx_m);
        bwd_plane(dx_m, (const float *)dy.data + m * H * W, w, crop_h, H, &t, pair, half);
    }
    return OK;
}
