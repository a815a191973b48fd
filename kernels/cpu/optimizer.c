#include "kernels/optimizer.h"

#include <math.h>

#include "kernels/adamw_scale.h"
#include "kernels/base/bf16.h"
#include "kernels/optimizer_check.h"

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static double block_sum(const float *g, int64_t n)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
    return sum;
}

enum status grad_norm_cpu(struct tensor squares, struct tensor g, struct stream *s)
{
    double *block, total = 0;

    TRY(grad_norm_check(squares, g));

    const int64_t n = g.dim[0], n_blocks = (n + GRAD_NORM_BLOCK - 1) / GRAD_NORM_BLOCK;

    STREAM_SCRATCH(s, block, n_blocks * (int64_t)sizeof *block);

#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n_blocks; b++)
        block[b] = block_sum((const float *)g.data + b * GRAD_NORM_BLOCK,
                             min_of(GRAD_NORM_BLOCK, n - b * GRAD_NORM_BLOCK));
    for (int64_t b = 0; b < n_blocks; b++) total += block[b];
    *(double *)squares.data = total;
    return OK;
}

/* The numbers of the step that are the same for a whole segment. */
struct step {
    float beta1, beta2, grad_scale, eps, fix1, fix2, lr, decay;
};

static void update(float *restrict w, float *restrict m, float *restrict v, const float *restrict g,
                   int64_t n, const struct step *o)
{
    const struct step p = *o;

    for (int64_t i = 0; i < n; i++) {
        const float gi = p.grad_scale * g[i];
        const float mi = p.beta1 * m[i] + (1.0f - p.beta1) * gi;
        const float vi = p.beta2 * v[i] + (1.0f - p.beta2) * (gi * gi);

        m[i] = mi;
        v[i] = vi;
        w[i] -= p.lr * (mi * p.fix1 / (sqrtf(vi * p.fix2) + p.eps) + p.decay * w[i]);
    }
}

enum status adamw_cpu(struct tensor w, struct tensor m, struct tensor v, struct tensor w16,
                      struct tensor g, struct tensor squares, const struct adamw_segment *segment,
                      int n_segments, const struct adamw_options *o, struct stream *s)
{
    TRY(adamw_check(w, m, v, w16, g, squares, segment, n_segments, o));
    STREAM_NO_SCRATCH(s);

    const int64_t n = w.dim[0], block = GRAD_NORM_BLOCK;
    float scale;

    if (!adamw_scale(&scale, o->grad_scale, o->clip, squares.data, (int)squares.dim[0])) return OK;
    const struct step common = { .beta1 = o->beta1,
                                 .beta2 = o->beta2,
                                 .grad_scale = scale,
                                 .eps = o->eps,
                                 .fix1 = (float)(1 / (1 - pow(o->beta1, (double)o->step))),
                                 .fix2 = (float)(1 / (1 - pow(o->beta2, (double)o->step))) };

#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < n; begin += block) {
        const int64_t end = min_of(begin + block, n);
        int64_t at = begin;

        for (int k = 0; k < n_segments && at < end; k++) {
            const int64_t stop = min_of(segment[k].end, end);
            struct step p = common;

            if (stop <= at) continue;
            p.lr = o->lr * segment[k].lr_scale;
            p.decay = segment[k].decay;
            if (!segment[k].frozen)
                update((float *)w.data + at, (float *)m.data + at, (float *)v.data + at,
                       (const float *)g.data + at, stop - at, &p);
            for (int64_t i = at; w16.data && !segment[k].frozen && i < stop; i++)
                ((uint16_t *)w16.data)[i] = bf16_from_float(((float *)w.data)[i]);
            at = stop;
        }
    }
    return OK;
}
