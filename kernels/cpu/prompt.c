#include "kernels/prompt.h"

#include <omp.h>
#include <string.h>

#include "kernels/cpu/row_taps.h"
#include "kernels/prompt_check.h"
#include "kernels/prompt_draw.h"

/* All pixels of a region: the foreground, the background, or where the prediction is wrong. */
enum region { REGION_FOREGROUND, REGION_BACKGROUND, REGION_ERROR };

/* A plane of gt and, for REGION_ERROR, of logits z to be upsampled to it. */
struct plane {
    const uint8_t *gt;
    const float *z;
    int64_t R, h;
};

/* Scratch of one thread. */
struct work {
    float *pair; /* two rows of z, widened to R: row r in the half r & 1 */
    int64_t half, have[2];
    uint8_t *inside;   /* (R) one row of the region */
    int32_t *n_in_row; /* (R) */
};

static int64_t work_bytes(int64_t R)
{
    return 3 * arena_round(R * 4) + arena_round(R);
}

static struct work work_at(char *scratch, int64_t R)
{
    const int64_t row = arena_round(R * 4);

    return (struct work){ .pair = (float *)scratch,
                          .half = row / 4,
                          .have = { -1, -1 },
                          .n_in_row = (int32_t *)(scratch + 2 * row),
                          .inside = (uint8_t *)scratch + 3 * row };
}

/* Row i of the region into w->inside, 0 or 1; returns how many there are. */
static int32_t region_row(const struct plane *p, enum region region, int64_t i,
                          const struct row_taps *t, struct work *w)
{
    const uint8_t *restrict gt = p->gt + i * p->R;
    uint8_t *restrict inside = w->inside;
    int32_t n = 0;

    if (region == REGION_ERROR) {
        const struct bilinear_tap r = bilinear_place(i, p->h, p->R);
        const float *restrict top = w->pair + (r.lo & 1) * w->half;
        const float *restrict bottom = w->pair + (r.hi & 1) * w->half;
        const float lo = 1.0f - r.w, hi = r.w;

        for (int64_t k = r.lo; k <= r.hi; k++) {
            if (w->have[k & 1] == k) continue;
            row_taps_apply(w->pair + (k & 1) * w->half, p->z + k * p->h, t, p->R);
            w->have[k & 1] = k;
        }
        for (int64_t j = 0; j < p->R; j++)
            inside[j] = (gt[j] != 0) != (top[j] * lo + bottom[j] * hi > 0);
    } else {
        const uint8_t wanted = region == REGION_FOREGROUND;

        for (int64_t j = 0; j < p->R; j++) inside[j] = (gt[j] != 0) == wanted;
    }
    for (int64_t j = 0; j < p->R; j++) n += inside[j];
    return n;
}

static int64_t count(const struct plane *p, enum region region, const struct row_taps *t,
                     struct work *w)
{
    int64_t n = 0;

    for (int64_t i = 0; i < p->R; i++) n += w->n_in_row[i] = region_row(p, region, i, t, w);
    return n;
}

/* After count of the same region: its n-th pixel in row-major order, as an index of the plane. */
static int64_t nth(const struct plane *p, enum region region, int64_t n, const struct row_taps *t,
                   struct work *w)
{
    int64_t i = 0, j = 0;

    while (n >= w->n_in_row[i]) n -= w->n_in_row[i++];
    region_row(p, region, i, t, w);
    while (n >= w->inside[j]) n -= w->inside[j++];
    return i * p->R + j;
}

static void put(float *coords, int32_t *labels, float x, float y, int32_t label)
{
    coords[0] = x;
    coords[1] = y;
    *labels = label;
}

/* Both slots are empty when called. */
static void first_prompt(float *xy, int32_t *label, const struct plane *p, const float *box,
                         const float *size, struct rng_key key, const struct prompt_options *o,
                         struct work *w)
{
    if (rng_uniform(key, PROMPT_DRAW_KIND) < o->box_share) {
        float b[4];

        prompt_draw_box(b, box, size, key, o);
        put(xy, label, b[0] - 0.5f, b[1] - 0.5f, PROMPT_LABEL_BOX);
        put(xy + 2, label + 1, b[2] - 0.5f, b[3] - 0.5f, PROMPT_LABEL_BOX + 1);
    } else {
        const int64_t n = count(p, REGION_FOREGROUND, NULL, w);

        if (n > 0) {
            const uint32_t choice = rng_below(key, PROMPT_DRAW_POINT, (uint64_t)n);
            const int64_t at = nth(p, REGION_FOREGROUND, choice, NULL, w);

            put(xy, label, prompt_draw_centre(at % p->R, p->R, o->frame),
                prompt_draw_centre(at / p->R, p->R, o->frame), 1);
        }
    }
}

enum status prompt_first_cpu(struct tensor coords, struct tensor labels, struct tensor n_points,
                             struct tensor gt, struct tensor box, struct tensor size,
                             struct tensor weight, struct tensor key, int64_t m_first,
                             const struct prompt_options *o, struct stream *s)
{
    char *scratch;

    TRY(prompt_first_check(coords, labels, n_points, gt, box, size, weight, key, m_first, o));

    const int64_t M = coords.dim[0], P = coords.dim[1], R = gt.dim[1];

    STREAM_SCRATCH(s, scratch, omp_get_max_threads() * work_bytes(R));

#pragma omp parallel for schedule(dynamic)
    for (int64_t m = 0; m < M; m++) {
        const struct plane p = { .gt = (const uint8_t *)gt.data + m * R * R, .R = R };
        struct work w = work_at(scratch + omp_get_thread_num() * work_bytes(R), R);
        float *const xy = (float *)coords.data + m * P * 2;
        int32_t *const label = (int32_t *)labels.data + m * P;

        ((int32_t *)n_points.data)[m] = 2;
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
        put(xy + 2, label + 1, 0, 0, PROMPT_LABEL_NONE);
        if (((const float *)weight.data)[m] != 0)
            first_prompt(xy, label, &p, (const float *)box.data + m * 4, size.data,
                         prompt_draw_key(key.data, m_first + m), o, &w);
    }
    return OK;
}

static void click(float *xy, int32_t *label, const struct plane *p, struct rng_key key, int round,
                  const struct prompt_options *o, const struct row_taps *t, struct work *w)
{
    enum region region = REGION_ERROR;
    int64_t n = count(p, region, t, w), at;

    if (n == 0) n = count(p, region = REGION_BACKGROUND, t, w);
    if (n == 0) n = count(p, region = REGION_FOREGROUND, t, w);
    at = nth(p, region, rng_below(key, (uint64_t)(PROMPT_DRAW_CLICK + round), (uint64_t)n), t, w);
    put(xy, label, prompt_draw_centre(at % p->R, p->R, o->frame),
        prompt_draw_centre(at / p->R, p->R, o->frame), p->gt[at] != 0);
}

enum status prompt_next_cpu(struct tensor mask_prompt, struct tensor coords, struct tensor labels,
                            struct tensor n_points, struct tensor logits, struct tensor iou_pred,
                            struct tensor gt, struct tensor weight, struct tensor key,
                            int64_t m_first, int round, bool add_point,
                            const struct prompt_options *o, struct stream *s)
{
    char *scratch;

    TRY(prompt_next_check(mask_prompt, coords, labels, n_points, logits, iou_pred, gt, weight, key,
                          m_first, round, o));

    const int64_t M = coords.dim[0], P = coords.dim[1], R = gt.dim[1];
    const int64_t K = logits.dim[1], h = logits.dim[2], taps_bytes = row_taps_bytes(h, R);

    STREAM_SCRATCH(s, scratch, taps_bytes + omp_get_max_threads() * work_bytes(R));

    const struct row_taps t = row_taps_plan(scratch, h, R);

#pragma omp parallel for schedule(dynamic)
    for (int64_t m = 0; m < M; m++) {
        const int64_t best = candidates_best(candidates_of(o->candidates.data, m, K),
                                             (const float *)iou_pred.data + m * K);
        const struct plane p = { .gt = (const uint8_t *)gt.data + m * R * R,
                                 .z = (const float *)logits.data + (m * K + best) * h * h,
                                 .R = R,
                                 .h = h };
        struct work w = work_at(scratch + taps_bytes + omp_get_thread_num() * work_bytes(R), R);
        int32_t *const used = (int32_t *)n_points.data + m;

        memcpy((float *)mask_prompt.data + m * h * h, p.z, (size_t)(h * h) * sizeof(float));
        if (!add_point) continue;
        ASSERT(*used >= 0 && *used < P);

        float *const xy = (float *)coords.data + (m * P + *used) * 2;
        int32_t *const label = (int32_t *)labels.data + m * P + *used;

        (*used)++;
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
        if (((const float *)weight.data)[m] != 0)
            click(xy, label, &p, prompt_draw_key(key.data, m_first + m), round, o, &t, &w);
    }
    return OK;
}

enum status prompt_next_bwd_cpu(struct tensor dlogits, struct tensor dmask, struct tensor iou_pred,
                                const struct prompt_options *o, struct stream *s)
{
    return prompt_next_bwd_ref(dlogits, dmask, iou_pred, o, s);
}
