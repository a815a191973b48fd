/* Draws masks and clicks on pictures, for people: what inspect and eval show.
 * Everything is clipped to the picture; nothing here can fail but making room. */
#ifndef TRAINER_OVERLAY_H
#define TRAINER_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/picture.h"

/* Colours 0 … N−1 are far apart and legible on photographs; other numbers count modulo N. */
enum { OVERLAY_COLOURS = 12, OVERLAY_GREEN = 1, OVERLAY_RED = 0 };

/* mask: (height,width) of the picture, 0 or not. Fills with the colour at opacity alpha, 0…1, and
 * outlines. */
void overlay_mask(struct picture *p, const uint8_t *mask, int colour, float alpha);

/* The outline alone. */
void overlay_contour(struct picture *p, const uint8_t *mask, int colour);

/* A click at pixel (x,y): a green disc with a plus, or a red one with a minus. */
void overlay_point(struct picture *p, double x, double y, bool positive);

/* Pictures side by side, top-aligned, with a white margin around and between. */
enum status overlay_beside(struct picture *out, const struct picture *const *pictures, int n,
                           int32_t margin) MUST_CHECK;

#endif
