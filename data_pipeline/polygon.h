/* Polygons to runs. A pixel is inside a polygon when its centre is, by the even-odd rule; centres
 * on an edge belong to the side of greater coordinates. The polygons of one object are united.
 *
 * This is not cocoapi's rule, which walks the outline in a five times finer grid and rounds it to
 * pixels: along the outline the two differ by up to one pixel, inside they agree. Ours is exact for
 * neighbours: two polygons that share an edge never share a pixel and leave no gap. */
#ifndef DATA_PIPELINE_POLYGON_H
#define DATA_PIPELINE_POLYGON_H

#include <stdint.h>

#include "kernels/base/status.h"

#define POLYGON_CROSSINGS ((int64_t)1 << 20) /* of outlines with column centres, an object */

/* The outlines of one object. Points behind one another, (x,y) pairs, |v| ≤ 1e9; a polygon is
 * closed by itself and may lie partly outside the image. Zero is a valid empty one. */
struct polygon {
    double *xy;   /* owned */
    int64_t *end; /* owned; (n) end of each polygon, in points */
    int64_t n, xy_room, end_room;
    /* while at work */
    uint32_t *crossings, *spans;
    int64_t n_crossings, n_crossed, n_spans; /* crossings of one outline, of all so far */
    int64_t crossings_room, spans_room;
    int32_t *runs; /* the result; owned */
    int64_t n_runs, runs_room;
};
void polygon_destroy(struct polygon *p);

/* p's polygons in an h×w image (within rle.h's caps) → p->runs[0..p->n_runs), column-major.
 * E_SHAPE, not logged, when the outlines cross more than POLYGON_CROSSINGS column centres. */
enum status polygon_to_runs(struct polygon *p, int32_t h, int32_t w) MUST_CHECK;

#endif
