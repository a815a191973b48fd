/* An image's JSON from outside: refused with a reason, or masks that hold. */
#include "data_pipeline/annotation.h"
#include "tests/fuzz/masks_hold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct masks m = { 0 };
    struct annotation a;
    char why[JSON_WHY] = "";
    char *const text = malloc(size + (size == 0)); /* exactly sized, without a NUL behind */
    enum status s;

    ASSERT(text);
    if (size) memcpy(text, data, size);
    s = annotation_read(text, (int64_t)size, 0.9, &a, &m, why);
    ASSERT(s == OK || (s == E_CORRUPT && why[0]));
    if (s == OK) {
        ASSERT(a.height >= 1 && a.width >= 1 && (int64_t)a.height * a.width <= RLE_AREA_MAX);
        ASSERT(a.image_id >= 0 && m.height == a.height && m.width == a.width);
        masks_hold(&m);
    }
    masks_destroy(&m);
    free(text);
    return 0;
}
