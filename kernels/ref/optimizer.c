#include "kernels/optimizer.h"

#include <math.h>

#include "kernels/adamw_scale.h"
#include "kernels/base/bf16.h"
#include "kernels/optimizer_check.h"

enum status grad_norm_ref(struct tensor squares, struct tensor g, struct stream *s)
{
    TRY(grad_norm_check(squares, g));
    STREAM_NO_SCRATCH(s);

    const float *p = g.data;
    double total = 0;

    for (int64_t begin = 0; begin < g.dim[0]; begin += GRAD_NORM_BLOCK) {
        const int64_t end = begin + GRAD_NORM_BLOCK < g.dim[0] ? begin + GRAD_NORM_BLOCK : g.dim[0];
        double block = 0;

        for (int64_t i = begin; i < end; i++) block += (double)p[i] * p[i];
        total += block;
    }
    *(double *)squares.data = total;
    return OK;
}

enum status adamw_ref(struct tensor w, struct tensor m, struct tensor v, struct tensor w16,
                      struct tensor g, struct tensor squares, const struct adamw_segment *segment,
                      int n_segments, const struct adamw_options *o, struct stream *s)
{
    TRY(adamw_check(w, m, v, w16, g, squares, segment, n_segments, o));
    STREAM_NO_SCRATCH(s);

    const double b1 = o->beta1, b2 = o->beta2;
    const double fix1 = 1 - pow(b1, (double)o->step), fix2 = 1 - pow(b2, (double)o->step);
    float *wp = w.data, *mp = m.data, *vp = v.data;
    uint16_t *w16p = w16.data;
    const float *gp = g.data;
    float scale;
    int64_t i = 0;

    if (!adamw_scale(&scale, o->grad_scale, o->clip, squares.data, (int)squares.dim[0])) return OK;
    for (int k = 0; k < n_segments; k++) {
        const double lr = (double)o->lr * segment[k].lr_scale;

        if (segment[k].frozen) i = segment[k].end;
        for (; i < segment[k].end; i++) {
            const double gi = (double)scale * gp[i];
            const double mi = b1 * mp[i] + (1 - b1) * gi, vi = b2 * vp[i] + (1 - b2) * gi * gi;
            const double step =
                mi / fix1 / (sqrt(vi / fix2) + o->eps) + segment[k].decay * (double)wp[i];

            mp[i] = (float)mi;
            vp[i] = (float)vi;
            wp[i] = (float)(wp[i] - lr * step);
            if (w16p) w16p[i] = bf16_from_float(wp[i]);
        }
    }
    return OK;
}
