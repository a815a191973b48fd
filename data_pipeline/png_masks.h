/* Images with one PNG an object: FOLDER/ID/image.png and FOLDER/ID/masks/NAME.png, the form of
 * BBBC038. A mask is where its PNG is not black; masks are taken in the order of their names.
 * Whatever else lies in masks is a broken mask. */
#ifndef DATA_PIPELINE_PNG_MASKS_H
#define DATA_PIPELINE_PNG_MASKS_H

#include <stdint.h>

#include "data_pipeline/folder.h"
#include "data_pipeline/json.h"
#include "data_pipeline/masks.h"
#include "kernels/base/status.h"

#define PNG_MASKS_BYTES ((int64_t)256 << 20) /* of one PNG */

/* The number of an image: of a name of at most 15 digits that number, else a hash below 2^53 of the
 * name. */
int64_t png_masks_id(const char *name);

/* True when folder/name has an image.png and a folder masks. */
bool png_masks_here(const char *folder, const char *name);

struct png_masks_scratch {
    struct folder_file file;
    int32_t *runs;
    int64_t runs_room;
};
void png_masks_scratch_destroy(struct png_masks_scratch *s);

/* folder/name: the PNG of the image into image, its masks into m (started here). E_CORRUPT: the
 * image cannot be used, why says why, nothing is logged. */
enum status png_masks_read(const char *folder, const char *name, double max_area,
                           struct folder_file *image, struct masks *m,
                           struct png_masks_scratch *scratch, char why[JSON_WHY]) MUST_CHECK;

#endif
