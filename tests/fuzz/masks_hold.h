/* What must be true of masks, however hostile the file they came from. */
#ifndef TESTS_FUZZ_MASKS_HOLD_H
#define TESTS_FUZZ_MASKS_HOLD_H

#include <stdlib.h>
#include <string.h>

#include "data_pipeline/masks.h"
#include "data_pipeline/rle.h"
#include "kernels/base/check.h"

static inline void masks_hold(const struct masks *m)
{
    int64_t begin = 0;

    ASSERT(m->n + m->n_empty + m->n_large + m->n_broken <= m->n_seen && m->n_seen <= MASKS_MAX);
    for (int64_t i = 0; i < m->n_broken; i++)
        ASSERT(m->broken[i].index < m->n_seen && memchr(m->broken[i].why, 0, MASKS_WHY));
    for (int64_t i = 0; i < m->n; i++) {
        const int64_t n_text = m->end[i] - begin;
        int32_t *const runs = malloc((size_t)n_text * sizeof *runs + 1);
        const float *const box = m->box + 4 * i;
        struct rle_extent e;
        const char *why;
        int64_t n;

        ASSERT(runs && n_text > 0);
        ASSERT(rle_decode(m->text + begin, n_text, m->height, m->width, runs, n_text, &n, &why) ==
               OK);
        e = rle_extent(runs, n, m->height);
        ASSERT(e.area == m->area[i] && e.area > 0);
        ASSERT((double)e.area <= m->max_area * m->height * m->width);
        ASSERT(box[0] == (float)e.x0 && box[1] == (float)e.y0);
        ASSERT(box[2] == (float)e.x1 && box[3] == (float)e.y1);
        begin = m->end[i];
        free(runs);
    }
}

#endif
