/* Pictures from outside: whatever the bytes, an answer without a crash, within the caps, and the
 * same size from the header as from the pixels. */
#include <stdlib.h>

#include "data_pipeline/picture.h"
#include "kernels/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct picture p; /* used again, as the loader does */
    const char *why = NULL;
    uint8_t *mask = NULL;
    int32_t height = 0, width = 0, mask_height, mask_width;

    const enum status size = picture_size(data, (int64_t)n, &height, &width, &why);
    ASSERT(size == OK || (size == E_CORRUPT && why));
    for (int32_t min_long = 0; min_long <= 16; min_long += 16) {
        const enum status s = picture_decode(data, (int64_t)n, min_long, &p, &why);

        ASSERT(s == OK || (s == E_CORRUPT && why));
        if (s != OK) continue;
        ASSERT(size == OK && p.height <= height && p.width <= width);
        ASSERT(min_long || (p.height == height && p.width == width));
        ASSERT((int64_t)p.height * p.width <= PICTURE_PIXELS_MAX);
    }
    if (picture_decode_mask(data, (int64_t)n, &mask, &mask_height, &mask_width, &why) == OK) {
        ASSERT(mask_height == height && mask_width == width);
        for (int64_t i = 0; i < (int64_t)height * width; i++) ASSERT(mask[i] <= 1);
    }
    free(mask);
    return 0;
}
