/* A COCO instances JSON: images, and annotations as polygons or RLE (compressed string or list of
 * counts). The file is held in memory as text, up to COCO_BYTES; its annotations are found by one
 * scan and parsed one at a time, so memory stays near the size of the file.
 *
 * What COCO's "area" and "bbox" say comes from polygons, not pixels, and is not checked. Crowd
 * annotations (iscrowd 1) outline many things at once: they are counted and left out. */
#ifndef DATA_PIPELINE_COCO_H
#define DATA_PIPELINE_COCO_H

#include <stdint.h>

#include "data_pipeline/json.h"
#include "data_pipeline/masks.h"
#include "data_pipeline/polygon.h"
#include "kernels/base/status.h"

#define COCO_BYTES       ((int64_t)2 << 30)
#define COCO_IMAGES      ((int64_t)1 << 23)
#define COCO_ANNOTATIONS ((int64_t)1 << 25)

enum { COCO_NAME = 1024 };

struct coco;

/* E_CORRUPT: the file as a whole cannot be used, the reason (with the byte) is in why, nothing is
 * logged. E_IO and E_MEMORY are logged. */
enum status coco_open(struct coco **c, const char *path, char why[JSON_WHY]) MUST_CHECK;
enum status coco_open_memory(struct coco **c, const char *text, int64_t n,
                             char why[JSON_WHY]) MUST_CHECK; /* text: not owned, outlives c */
void coco_close(struct coco *c);

struct coco_image {
    int64_t id;
    int32_t height, width;
    char file_name[COCO_NAME]; /* relative, without ".." */
};

/* Scratch of one reader; zero is a valid empty one. */
struct coco_scratch {
    struct polygon polygon;
    int32_t *runs;
    int64_t runs_room;
};
void coco_scratch_destroy(struct coco_scratch *s);

/* Images in the file's order, broken ones included. */
int64_t coco_images(const struct coco *c);

/* Image i and its masks (m is started here). E_CORRUPT: the image cannot be used, see why. *n_crowd
 * grows by the crowd annotations left out. Thread-safe with a scratch and m of its own. */
enum status coco_read(const struct coco *c, int64_t i, double max_area, struct coco_image *image,
                      struct masks *m, struct coco_scratch *scratch, int64_t *n_crowd,
                      char why[JSON_WHY]) MUST_CHECK;

/* Annotations that belong to no image: index within the file's list, and why (static). */
int64_t coco_strays(const struct coco *c);
int64_t coco_stray(const struct coco *c, int64_t k, const char **why);

#endif
