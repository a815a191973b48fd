/* Outlines of synthetic objects: stars, letters, rings, crescents, blobs and plainer ones, each
 * within about the unit square [-1,1]², most of them far from an ellipse on purpose: a mask must
 * not be guessed from its box. */
#ifndef DATA_PIPELINE_SYNTH_SHAPE_H
#define DATA_PIPELINE_SYNTH_SHAPE_H

#include <stdbool.h>

#include "data_pipeline/dice.h"

enum { SYNTH_CORNERS = 24 };

enum synth_outline { SYNTH_POLYGON, SYNTH_ELLIPSE, SYNTH_RING, SYNTH_CRESCENT };

struct synth_shape {
    enum synth_outline outline;
    int n_corners; /* polygon */
    double x[SYNTH_CORNERS], y[SYNTH_CORNERS];
    double hole;  /* ring: radius of its hole; crescent: of the disc cut out */
    double shift; /* crescent: how far that disc lies to the right */
    double area;  /* of the unit square's 4 */
};

struct synth_shape synth_shape_draw(struct dice *d);

/* An ellipse or rectangle: what parts of objects look like. */
struct synth_shape synth_shape_draw_part(struct dice *d);

bool synth_shape_has(const struct synth_shape *s, double u, double v);

#endif
