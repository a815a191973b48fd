/* A synthetic set of images and masks in SA-1B's form: textured objects of several sizes on a dull
 * ground, in front of one another, with parts; masks of what is visible of objects and of parts,
 * overlapping. Everything is a pure function of (options, image id), whatever the threads.
 *
 * It is made to be learned: objects differ from the ground in colour, their outlines cannot be
 * guessed from a box, most fill several percent of the image. */
#ifndef DATA_PIPELINE_SYNTH_H
#define DATA_PIPELINE_SYNTH_H

#include <stdint.h>

#include "data_pipeline/picture.h"
#include "kernels/base/status.h"

enum {
    SYNTH_SIDE_MIN = 32,
    SYNTH_SIDE_MAX = 8192,
    SYNTH_OBJECTS_MAX = 200,
    SYNTH_MASKS_MAX = 3 * SYNTH_OBJECTS_MAX /* the whole, its body, its part */
};

struct synth_options {
    uint64_t seed;
    /* mean of the images; single ones differ by up to a fifth (within the limits above), some stand */
    int32_t width, height;
    int32_t n_objects; /* mean per image */
    int quality;       /* of the JPEG, 1…100 */
};

/* One image; zero is a valid empty one, to be drawn into again and again. */
struct synth_scene {
    int64_t image_id;
    struct picture picture;
    struct picture rough; /* scratch */
    int64_t n_masks;
    uint16_t *owner; /* owned; (height,width): topmost element, 0 the ground */
    int64_t n_owner; /* room */
    struct synth_mask {
        uint16_t first, last; /* the mask is the pixels with first ≤ owner ≤ last */
        double predicted_iou, stability_score;
    } mask[SYNTH_MASKS_MAX];
};

enum status synth_draw(const struct synth_options *o, int64_t image_id,
                       struct synth_scene *s) MUST_CHECK;
void synth_scene_destroy(struct synth_scene *s);

/* pixels: (height,width) of 0 or 1. */
void synth_mask_pixels(const struct synth_scene *s, int64_t mask, uint8_t *pixels);

/* The image's JSON in SA-1B's form. *text: malloc'd, owned by the caller. */
enum status synth_json(const struct synth_scene *s, char **text, int64_t *n) MUST_CHECK;

struct synth_set {
    struct synth_options options;
    int64_t first_id, n_images, per_tar;
    int n_threads;
};

/* Writes folder/sa_000000.tar …, each with per_tar images at most, each atomically. Makes the
 * folder; E_USAGE when it holds such tars already. */
enum status synth_write(const char *folder, const struct synth_set *set) MUST_CHECK;

#endif
