/* One image's JSON in SA-1B form: what it says of the image, and its masks, each checked.
 *
 *   {"image": {"image_id", "width", "height", "file_name"},
 *    "annotations": [{"segmentation": {"size": [h,w], "counts": RLE}, "bbox": [x,y,w,h], "area"}]}
 *
 * Of a mask: Σ runs = h·w, area = Σ odd runs, bbox = the runs' box, size = the image's size. Other
 * keys (predicted_iou, stability_score, crop_box, point_coords …) may be there and are not used. */
#ifndef DATA_PIPELINE_ANNOTATION_H
#define DATA_PIPELINE_ANNOTATION_H

#include <stdint.h>

#include "data_pipeline/json.h"
#include "data_pipeline/masks.h"
#include "kernels/base/status.h"

#define ANNOTATION_BYTES  ((int64_t)64 << 20)      /* of one JSON */
#define ANNOTATION_ID_MAX (((int64_t)1 << 53) - 1) /* what every JSON reader holds exactly */

enum { ANNOTATION_NAME = 256 };

struct annotation {
    int64_t image_id;
    int32_t height, width;
    char file_name[ANNOTATION_NAME];
};

/* Reads json[0..n): the image into a, its masks into m (started here). E_CORRUPT: nothing of the
 * image can be used, the reason is in why, nothing is logged. Broken masks are in m->broken. */
enum status annotation_read(const char *json, int64_t n, double max_area, struct annotation *a,
                            struct masks *m, char why[JSON_WHY]) MUST_CHECK;

/* The number in "sa_<number><suffix>" exactly (at most 15 digits), or -1. */
int64_t annotation_file_id(const char *name, const char *suffix);

#endif
