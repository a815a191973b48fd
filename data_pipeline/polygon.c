#include "data_pipeline/polygon.h"

#include "data_pipeline/grow.h"

#include <math.h>
#include <string.h>

void polygon_destroy(struct polygon *p)
{
    if (!p) return;
    free(p->xy);
    free(p->end);
    free(p->crossings);
    free(p->spans);
    free(p->runs);
    memset(p, 0, sizeof *p);
}

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The first index ≥ 0 and ≤ n whose centre is not before v. */
static int32_t first_centre(double v, int32_t n)
{
    const double i = ceil(v - 0.5);

    return i > 0 ? i < n ? (int32_t)i : n : 0;
}

/* Where the edge a→b passes column centres: column · (h+1) + first row at or below the edge. The
 * half-open range of columns makes the number of crossings of a closed outline even in each. */
static enum status cross_edge(struct polygon *p, const double *a, const double *b, int32_t h,
                              int32_t w)
{
    const double *const left = a[0] <= b[0] ? a : b, *const right = left == a ? b : a;
    const int32_t begin = first_centre(left[0], w), end = first_centre(right[0], w);
    const double slope = end > begin ? (right[1] - left[1]) / (right[0] - left[0]) : 0;

    p->n_crossed += end - begin;
    if (p->n_crossed > POLYGON_CROSSINGS) return E_SHAPE;
    GROW(p->crossings, p->crossings_room, p->n_crossings + (end - begin));
    for (int32_t x = begin; x < end; x++) {
        const double y = left[1] + (x + 0.5 - left[0]) * slope;

        p->crossings[p->n_crossings++] =
            (uint32_t)x * (uint32_t)(h + 1) + (uint32_t)first_centre(y, h);
    }
    return OK;
}

/* One outline's crossings → spans [begin,end) of column-major positions, appended. */
static enum status span_outline(struct polygon *p, const double *xy, int64_t n, int32_t h,
                                int32_t w)
{
    const uint32_t side = (uint32_t)(h + 1);

    p->n_crossings = 0;
    for (int64_t i = 0; i < n; i++) TRY(cross_edge(p, xy + 2 * i, xy + 2 * ((i + 1) % n), h, w));
    if (p->n_crossings == 0) return OK;
    qsort(p->crossings, (size_t)p->n_crossings, sizeof *p->crossings, by_value);
    GROW(p->spans, p->spans_room, p->n_spans + p->n_crossings);
    for (int64_t i = 0; i + 1 < p->n_crossings; i += 2) {
        const uint32_t x = p->crossings[i] / side;
        const uint32_t y0 = p->crossings[i] % side, y1 = p->crossings[i + 1] % side;

        if (y0 == y1) continue;
        p->spans[p->n_spans++] = x * (uint32_t)h + y0;
        p->spans[p->n_spans++] = x * (uint32_t)h + y1;
    }
    return OK;
}

enum status polygon_to_runs(struct polygon *p, int32_t h, int32_t w)
{
    const uint32_t total = (uint32_t)h * (uint32_t)w;
    uint32_t at = 0;
    int64_t first = 0;

    p->n_spans = p->n_crossed = 0;
    for (int64_t i = 0; i < p->n; i++) {
        TRY(span_outline(p, p->xy + 2 * first, p->end[i] - first, h, w));
        first = p->end[i];
    }
    if (p->n > 1 && p->n_spans > 0)
        qsort(p->spans, (size_t)(p->n_spans / 2), 2 * sizeof *p->spans, by_value);
    GROW(p->runs, p->runs_room, p->n_spans + 2);
    p->n_runs = 0;
    for (int64_t i = 0; i < p->n_spans;) {
        const uint32_t begin = p->spans[i];
        uint32_t end = p->spans[i + 1];

        for (i += 2; i < p->n_spans && p->spans[i] <= end; i += 2)
            if (p->spans[i + 1] > end) end = p->spans[i + 1];
        p->runs[p->n_runs++] = (int32_t)(begin - at);
        p->runs[p->n_runs++] = (int32_t)(end - begin);
        at = end;
    }
    if (at < total || p->n_runs == 0) p->runs[p->n_runs++] = (int32_t)(total - at);
    return OK;
}
