/* How far a pixel of a region is from the nearest pixel outside it: exact squared Euclidean
 * distances in integers, linear in the region's bounding box. The image's border counts as outside.
 *
 * What lies deepest is where a click goes: the first click of an evaluation and every corrective
 * one (SAM 2's sample_one_point_from_error_center). */
#ifndef DATA_PIPELINE_DISTANCE_H
#define DATA_PIPELINE_DISTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { DISTANCE_SIDE_MAX = 65500 }; /* so that squares fit 32 bits and columns 16 */

/* Scratch; zero is a valid empty one. */
struct distance {
    uint16_t *column; /* owned; to the nearest outside pixel of the same column */
    int32_t *line;    /* owned; of one row: (3,width) */
    int64_t n_column, n_line;
};
void distance_destroy(struct distance *d);

/* Room for masks of up to height×width; only this function allocates. */
enum status distance_reserve(struct distance *d, int32_t height, int32_t width) MUST_CHECK;

/* Below, masks are (h,w) row-major bytes of 0 or 1 and d has room for them. */

/* squared: (h,w), 0 outside the mask. */
void distance_transform(struct distance *d, const uint8_t *mask, int32_t h, int32_t w,
                        int32_t *squared);

struct distance_peak {
    int32_t squared; /* 0: the mask is empty, x and y say nothing */
    int32_t x, y;
};

/* The pixel farthest from the outside; of several the first in row-major order. */
struct distance_peak distance_peak(struct distance *d, const uint8_t *mask, int32_t h, int32_t w);

struct distance_click {
    int32_t x, y;
    bool positive; /* on what the guess misses; else on what it has too much */
    bool found;    /* false: guess and truth agree */
};

/* The deepest pixel of what differs; what is missing must lie strictly deeper than what is too much
 * to be clicked. */
struct distance_click distance_click(struct distance *d, const uint8_t *truth, const uint8_t *guess,
                                     int32_t h, int32_t w);

#endif
