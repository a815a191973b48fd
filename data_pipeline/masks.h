/* The masks of one image on their way into a shard: RLE texts one behind the other, with the area
 * and box that their runs have. Each mask added is checked against what its file claims of it; a
 * mask that does not hold is kept aside with the reason, an empty or a too large one is counted,
 * and the others are not harmed. */
#ifndef DATA_PIPELINE_MASKS_H
#define DATA_PIPELINE_MASKS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* Of an image, as in shard.h: what goes beyond is broken. A few hundred bytes of polygons can be a
 * megabyte of runs, so that the length of a file is no bound. */
enum { MASKS_MAX = 1 << 16, MASKS_TEXT_MAX = 1 << 28 };

enum { MASKS_WHY = 120 };

/* What a file says of a mask beside its runs. */
struct masks_claim {
    bool has_area, has_box, box_integral;
    int64_t area;
    double box[4]; /* x y w h, exclusive extent: exact when integral, else within 1 pixel */
};

struct masks_broken {
    int64_t index; /* among all that were added, from 0 */
    char why[MASKS_WHY];
};

struct masks {
    int32_t height, width;
    double max_area; /* share of the image; greater masks are left out and counted */

    int64_t n; /* good masks */
    char *text;
    int64_t *end;  /* (n) of each within text */
    int64_t *area; /* (n) */
    float *box;    /* (n,4) x0 y0 x1 y1, exclusive */

    int64_t n_seen, n_empty, n_large, n_broken;
    struct masks_broken *broken; /* (n_broken) */

    /* all arrays owned; their rooms, and the runs of the mask at work */
    int64_t text_room, end_room, area_room, box_room, broken_room;
    int32_t *runs;
    int64_t runs_room;
};

/* Empties m for an image of h×w (within rle.h's caps), keeping its memory. Zero is a valid m. */
void masks_start(struct masks *m, int32_t h, int32_t w, double max_area);
void masks_destroy(struct masks *m);

/* Each adds one mask; only E_MEMORY is a failure, bad masks go to m->broken. claim may be NULL. */
enum status masks_add_text(struct masks *m, const char *text, int64_t n_text,
                           const struct masks_claim *claim) MUST_CHECK;
enum status masks_add_runs(struct masks *m, const int32_t *runs, int64_t n_runs) MUST_CHECK;
enum status masks_add_broken(struct masks *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))) MUST_CHECK;

#endif
