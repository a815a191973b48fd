#include "data_pipeline/png_masks.h"

#include "data_pipeline/annotation.h"
#include "data_pipeline/grow.h"
#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <xxhash.h>

int64_t png_masks_id(const char *name)
{
    const size_t n = strlen(name);
    int64_t id = 0;

    if (n < 1 || n > 15 || strspn(name, "0123456789") != n)
        return (int64_t)(XXH3_64bits(name, n) & (uint64_t)ANNOTATION_ID_MAX);
    for (size_t i = 0; i < n; i++) id = id * 10 + (name[i] - '0');
    return id;
}

bool png_masks_here(const char *folder, const char *name)
{
    char path[FOLDER_PATH];
    struct stat info;

    if (snprintf(path, sizeof path, "%s/%s/image.png", folder, name) >= (int)sizeof path ||
        stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    return snprintf(path, sizeof path, "%s/%s/masks", folder, name) < (int)sizeof path &&
           stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

void png_masks_scratch_destroy(struct png_masks_scratch *s)
{
    if (!s) return;
    folder_file_destroy(&s->file);
    free(s->runs);
    memset(s, 0, sizeof *s);
}

static enum status add_mask(const uint8_t *pixels, int32_t h, int32_t w, const char *name,
                            struct masks *m, struct png_masks_scratch *scratch)
{
    int64_t n_runs;

    if (h != m->height || w != m->width)
        return masks_add_broken(m, "masks/%.40s is %d × %d pixels, the image %d × %d", name, w, h,
                                m->width, m->height);
    GROW(scratch->runs, scratch->runs_room, (int64_t)h * w + 1);
    TRY(rle_from_pixels(pixels, h, w, scratch->runs, scratch->runs_room, &n_runs));
    return masks_add_runs(m, scratch->runs, n_runs);
}

static enum status read_mask(const char *folder, const char *name, struct masks *m,
                             struct png_masks_scratch *scratch)
{
    char path[FOLDER_PATH];
    uint8_t *pixels = NULL;
    const char *why;
    int32_t h, w;
    enum status s;

    if (!folder_ends_with(name, ".png"))
        return masks_add_broken(m, "masks/%.40s is not named .png", name);
    TRY(folder_join(path, folder, name));
    s = folder_read(&scratch->file, path, PNG_MASKS_BYTES, &why);
    if (s == OK)
        s = picture_decode_mask(scratch->file.bytes, scratch->file.n, &pixels, &h, &w, &why);
    if (s == E_CORRUPT) return masks_add_broken(m, "masks/%.40s: %s", name, why);
    TRY(s);
    s = add_mask(pixels, h, w, name, m, scratch);
    free(pixels);
    return s;
}

enum status png_masks_read(const char *folder, const char *name, double max_area,
                           struct folder_file *image, struct masks *m,
                           struct png_masks_scratch *scratch, char why[JSON_WHY])
{
    char path[FOLDER_PATH], masks_name[FOLDER_PATH];
    struct folder list = { 0 };
    const char *reason = "";
    int32_t h, w;
    enum status s;

    TRY(folder_join(masks_name, name, "image.png"));
    TRY(folder_join(path, folder, masks_name));
    s = folder_read(image, path, PNG_MASKS_BYTES, &reason);
    if (s == OK) s = picture_size(image->bytes, image->n, &h, &w, &reason);
    if (s == OK && (h > RLE_SIDE_MAX || w > RLE_SIDE_MAX)) {
        reason = "has a side beyond 32768 pixels";
        s = E_CORRUPT;
    }
    if (s == E_CORRUPT) snprintf(why, JSON_WHY, "image.png: %s", reason);
    TRY(s);
    masks_start(m, h, w, max_area);
    TRY(folder_join(masks_name, name, "masks"));
    TRY(folder_join(path, folder, masks_name));
    TRY(folder_list(&list, path));
    for (int64_t i = 0; i < list.n && s == OK; i++) {
        if (m->n_seen == MASKS_MAX) {
            snprintf(why, JSON_WHY, "more than %d masks", MASKS_MAX);
            s = E_CORRUPT;
        } else {
            s = read_mask(path, list.names[i], m, scratch);
        }
    }
    folder_destroy(&list);
    return s;
}
