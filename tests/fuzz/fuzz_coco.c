/* A COCO JSON from outside: refused with a reason, or images whose masks hold. */
#include "data_pipeline/coco.h"
#include "tests/fuzz/masks_hold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct coco *c)
{
    struct coco_scratch scratch = { 0 };
    struct masks m = { 0 };
    int64_t n_crowd = 0;

    for (int64_t i = 0; i < coco_images(c); i++) {
        struct coco_image image;
        char why[JSON_WHY] = "";
        const enum status s = coco_read(c, i, 0.9, &image, &m, &scratch, &n_crowd, why);

        ASSERT(s == OK || (s == E_CORRUPT && why[0]));
        if (s != OK) continue;
        ASSERT(image.file_name[0] && image.file_name[0] != '/');
        ASSERT(strncmp(image.file_name, "../", 3) != 0 && !strstr(image.file_name, "/../"));
        masks_hold(&m);
    }
    for (int64_t k = 0; k < coco_strays(c); k++) {
        const char *why = NULL;

        ASSERT(coco_stray(c, k, &why) >= 0 && why);
    }
    masks_destroy(&m);
    coco_scratch_destroy(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[JSON_WHY] = "";
    char *const text = malloc(size + (size == 0)); /* exactly sized, without a NUL behind */
    struct coco *c = NULL;
    enum status s;

    ASSERT(text);
    if (size) memcpy(text, data, size);
    s = coco_open_memory(&c, text, (int64_t)size, why);
    ASSERT(s == OK || (s == E_CORRUPT && why[0] && !c));
    if (s == OK) read_all(c);
    coco_close(c);
    free(text);
    return 0;
}
