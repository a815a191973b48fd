#include "data_pipeline/annotation.h"

#include "data_pipeline/rle.h"

#include <stdio.h>
#include <string.h>

static enum status refuse(char why[JSON_WHY], const char *reason)
{
    snprintf(why, JSON_WHY, "%s", reason);
    return E_CORRUPT;
}

int64_t annotation_file_id(const char *name, const char *suffix)
{
    int64_t id = 0;
    int n = 0;

    if (strncmp(name, "sa_", 3) != 0) return -1;
    for (name += 3; name[n] >= '0' && name[n] <= '9' && n < 15; n++) id = id * 10 + (name[n] - '0');
    return n > 0 && strcmp(name + n, suffix) == 0 ? id : -1;
}

static enum status read_image(const json_t *image, struct annotation *a, char why[JSON_WHY])
{
    const char *name;
    int64_t h, w, n;

    if (!json_is_object(image)) return refuse(why, "\"image\" is missing or not an object");
    if (!json_get_int(image, "image_id", 0, ANNOTATION_ID_MAX, &a->image_id))
        return refuse(why, "\"image_id\" is missing or not a whole number from 0, below 2^53");
    if (!json_get_int(image, "height", 1, RLE_SIDE_MAX, &h) ||
        !json_get_int(image, "width", 1, RLE_SIDE_MAX, &w) || h * w > RLE_AREA_MAX)
        return refuse(why, "\"height\" or \"width\" is missing or out of range");
    if (!json_get_text(image, "file_name", &name, &n) || n >= ANNOTATION_NAME)
        return refuse(why, "\"file_name\" is missing or too long");
    a->height = (int32_t)h;
    a->width = (int32_t)w;
    snprintf(a->file_name, sizeof a->file_name, "%s", name);
    return OK;
}

static bool size_is(const json_t *segmentation, int32_t h, int32_t w)
{
    const json_t *const size = json_object_get(segmentation, "size");

    return json_is_array(size) && json_array_size(size) == 2 &&
           json_is_integer(json_array_get(size, 0)) && json_is_integer(json_array_get(size, 1)) &&
           json_integer_value(json_array_get(size, 0)) == h &&
           json_integer_value(json_array_get(size, 1)) == w;
}

static enum status read_mask(const json_t *o, struct masks *m)
{
    const json_t *const segmentation = json_object_get(o, "segmentation");
    struct masks_claim claim = { .has_area = true, .has_box = true };
    const char *text;
    int64_t n_text;

    if (!json_is_object(o)) return masks_add_broken(m, "annotation is not an object");
    if (!json_is_object(segmentation))
        return masks_add_broken(m, "\"segmentation\" is missing or not an object");
    if (!size_is(segmentation, m->height, m->width))
        return masks_add_broken(m, "\"size\" is not the image's %d %d", m->height, m->width);
    if (!json_get_text(segmentation, "counts", &text, &n_text))
        return masks_add_broken(m, "\"counts\" is missing or not a string");
    if (!json_get_int(o, "area", 0, RLE_AREA_MAX, &claim.area))
        return masks_add_broken(m, "\"area\" is missing or not a whole number");
    if (!json_get_box(o, "bbox", claim.box, &claim.box_integral))
        return masks_add_broken(m, "\"bbox\" is missing or not four numbers");
    return masks_add_text(m, text, n_text, &claim);
}

static enum status read_root(const json_t *root, double max_area, struct annotation *a,
                             struct masks *m, char why[JSON_WHY])
{
    const json_t *const list = json_object_get(root, "annotations");

    TRY(read_image(json_object_get(root, "image"), a, why));
    if (!json_is_array(list)) return refuse(why, "\"annotations\" is missing or not a list");
    if (json_array_size(list) > MASKS_MAX) return refuse(why, "too many annotations");
    masks_start(m, a->height, a->width, max_area);
    for (size_t i = 0; i < json_array_size(list); i++) TRY(read_mask(json_array_get(list, i), m));
    return OK;
}

enum status annotation_read(const char *json, int64_t n, double max_area, struct annotation *a,
                            struct masks *m, char why[JSON_WHY])
{
    static const struct json_limits limits = { .bytes = ANNOTATION_BYTES,
                                               .string_bytes = (int64_t)1 << 24 };
    json_t *root;
    enum status s;

    TRY(json_parse(json, n, &limits, &root, why));
    s = read_root(root, max_area, a, m, why);
    json_decref(root);
    return s;
}
