#include "kernels/prompt.h"

#include <string.h>

#include "kernels/bilinear.h"
#include "kernels/prompt_check.h"
#include "kernels/prompt_draw.h"

enum region { REGION_FOREGROUND, REGION_BACKGROUND, REGION_ERROR };

/* A plane of gt and, for REGION_ERROR, of logits z to be upsampled to it. */
struct plane {
    const uint8_t *gt;
    const float *z;
    int64_t R, h;
};

static bool inside(const struct plane *p, enum region region, int64_t i, int64_t j)
{
    const bool t = p->gt[i * p->R + j] != 0;

    if (region == REGION_FOREGROUND) return t;
    if (region == REGION_BACKGROUND) return !t;
    return t != (bilinear_at(p->z, p->h, bilinear_place(i, p->h, p->R),
                             bilinear_place(j, p->h, p->R)) > 0);
}

static int64_t count(const struct plane *p, enum region region)
{
    int64_t n = 0;

    for (int64_t i = 0; i < p->R; i++)
        for (int64_t j = 0; j < p->R; j++) n += inside(p, region, i, j);
    return n;
}

/* The n-th pixel of the region in row-major order, as an index of the plane. */
static int64_t nth(const struct plane *p, enum region region, int64_t n)
{
    for (int64_t at = 0; at < p->R * p->R; at++)
        if (inside(p, region, at / p->R, at % p->R) && n-- == 0) return at;
    ASSERT(false);
}

static void put(float *coords, int32_t *labels, float x, float y, int32_t label)
{
    coords[0] = x;
    coords[1] = y;
    *labels = label;
}

enum status prompt_first_ref(struct tensor coords, struct tensor labels, struct tensor n_points,
                             struct tensor gt, struct tensor box, struct tensor size,
                             struct tensor weight, struct tensor key, int64_t m_first,
                             const struct prompt_options *o, struct stream *s)
{
    TRY(prompt_first_check(coords, labels, n_points, gt, box, size, weight, key, m_first, o));
    STREAM_NO_SCRATCH(s);

    const int64_t M = coords.dim[0], P = coords.dim[1], R = gt.dim[1];

    for (int64_t m = 0; m < M; m++) {
        const struct rng_key k = prompt_draw_key(key.data, m_first + m);
        const struct plane plane = { .gt = (const uint8_t *)gt.data + m * R * R, .R = R };
        float *xy = (float *)coords.data + m * P * 2;
        int32_t *label = (int32_t *)labels.data + m * P;

        ((int32_t *)n_points.data)[m] = 2;
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
        put(xy + 2, label + 1, 0, 0, PROMPT_LABEL_NONE);
        if (((const float *)weight.data)[m] == 0) continue;
        if (rng_uniform(k, PROMPT_DRAW_KIND) < o->box_share) {
            float b[4];

            prompt_draw_box(b, (const float *)box.data + m * 4, size.data, k, o);
            put(xy, label, b[0] - 0.5f, b[1] - 0.5f, PROMPT_LABEL_BOX);
            put(xy + 2, label + 1, b[2] - 0.5f, b[3] - 0.5f, PROMPT_LABEL_BOX + 1);
        } else {
            const int64_t n = count(&plane, REGION_FOREGROUND);
            int64_t at;

            if (n == 0) continue;
            at = nth(&plane, REGION_FOREGROUND, rng_below(k, PROMPT_DRAW_POINT, (uint64_t)n));
            put(xy, label, prompt_draw_centre(at % R, R, o->frame),
                prompt_draw_centre(at / R, R, o->frame), 1);
        }
    }
    return OK;
}

enum status prompt_next_ref(struct tensor mask_prompt, struct tensor coords, struct tensor labels,
                            struct tensor n_points, struct tensor logits, struct tensor iou_pred,
                            struct tensor gt, struct tensor weight, struct tensor key,
                            int64_t m_first, int round, bool add_point,
                            const struct prompt_options *o, struct stream *s)
{
    TRY(prompt_next_check(mask_prompt, coords, labels, n_points, logits, iou_pred, gt, weight, key,
                          m_first, round, o));
    STREAM_NO_SCRATCH(s);

    const int64_t M = coords.dim[0], P = coords.dim[1], R = gt.dim[1];
    const int64_t K = logits.dim[1], h = logits.dim[2];

    for (int64_t m = 0; m < M; m++) {
        const struct rng_key k = prompt_draw_key(key.data, m_first + m);
        const int64_t best = candidates_best(candidates_of(o->candidates.data, m, K),
                                             (const float *)iou_pred.data + m * K);
        const struct plane plane = { .gt = (const uint8_t *)gt.data + m * R * R,
                                     .z = (const float *)logits.data + (m * K + best) * h * h,
                                     .R = R,
                                     .h = h };
        int32_t *used = (int32_t *)n_points.data + m;
        enum region region = REGION_ERROR;
        int64_t n, at;

        memcpy((float *)mask_prompt.data + m * h * h, plane.z, (size_t)(h * h) * sizeof(float));
        if (!add_point) continue;
        ASSERT(*used >= 0 && *used < P);

        float *xy = (float *)coords.data + (m * P + *used) * 2;
        int32_t *label = (int32_t *)labels.data + m * P + *used;

        (*used)++;
        put(xy, label, 0, 0, PROMPT_LABEL_NONE);
        if (((const float *)weight.data)[m] == 0) continue;
        n = count(&plane, region);
        if (n == 0) n = count(&plane, region = REGION_BACKGROUND);
        if (n == 0) n = count(&plane, region = REGION_FOREGROUND);
        at = nth(&plane, region, rng_below(k, (uint64_t)(PROMPT_DRAW_CLICK + round), (uint64_t)n));
        put(xy, label, prompt_draw_centre(at % R, R, o->frame),
            prompt_draw_centre(at / R, R, o->frame), plane.gt[at] != 0);
    }
    return OK;
}

enum status prompt_next_bwd_ref(struct tensor dlogits, struct tensor dmask, struct tensor iou_pred,
                                const struct prompt_options *o, struct stream *s)
{
    TRY(prompt_next_bwd_check(dlogits, dmask, iou_pred, o));
    STREAM_NO_SCRATCH(s);

    const int64_t M = dlogits.dim[0], K = dlogits.dim[1], L2 = dlogits.dim[2] * dlogits.dim[3];
    const float *const from = dmask.data;

    for (int64_t m = 0; m < M; m++) {
        const struct candidates c = candidates_of(o->candidates.data, m, K);
        const int64_t best = candidates_best(c, (const float *)iou_pred.data + m * K);
        float *const to = (float *)dlogits.data + (m * K + best) * L2;

        for (int64_t i = 0; i < L2; i++) to[i] += from[m * L2 + i];
    }
    return OK;
}
