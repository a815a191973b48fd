#include "data_pipeline/synth.h"

#include "data_pipeline/distance.h"
#include "data_pipeline/folder.h"
#include "data_pipeline/rle.h"
#include "data_pipeline/tar_write.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 64, TEXT_PER_RUN = 7 };

/* What turning masks into JSON needs. */
struct scratch {
    uint8_t *pixels;
    int32_t *runs;
    char *text;
    int64_t n_runs, n_text; /* room */
    struct distance distance;
};

static void scratch_destroy(struct scratch *t)
{
    free(t->pixels);
    free(t->runs);
    free(t->text);
    distance_destroy(&t->distance);
}

static enum status scratch_create(struct scratch *t, int32_t h, int32_t w)
{
    const int64_t n = (int64_t)h * w;

    *t = (struct scratch){ .n_runs = n + 1, .n_text = TEXT_PER_RUN * (n + 1) };
    t->pixels = malloc((size_t)n);
    t->runs = malloc((size_t)t->n_runs * sizeof *t->runs);
    t->text = malloc((size_t)t->n_text);
    if (!t->pixels || !t->runs || !t->text) FAIL(E_MEMORY, "masks of %lld pixels", (long long)n);
    return distance_reserve(&t->distance, h, w);
}

static enum status mask_json(const struct synth_scene *s, int64_t m, struct scratch *t, json_t **o)
{
    const int32_t h = s->picture.height, w = s->picture.width;
    int64_t n_runs, n_text;

    synth_mask_pixels(s, m, t->pixels);
    TRY(rle_from_pixels(t->pixels, h, w, t->runs, t->n_runs, &n_runs));
    TRY(rle_encode(t->runs, n_runs, t->text, t->n_text, &n_text));

    const struct rle_extent e = rle_extent(t->runs, n_runs, h);
    const struct distance_peak deepest = distance_peak(&t->distance, t->pixels, h, w);

    *o = json_pack("{s:I, s:{s:[i,i], s:s%}, s:[i,i,i,i], s:I, s:f, s:f, s:[i,i,i,i], s:[[f,f]]}",
                   "id", (json_int_t)(s->image_id * 1000 + m), "segmentation", "size", h, w,
                   "counts", t->text, (size_t)n_text, "bbox", e.x0, e.y0, e.x1 - e.x0, e.y1 - e.y0,
                   "area", (json_int_t)e.area, "predicted_iou", s->mask[m].predicted_iou,
                   "stability_score", s->mask[m].stability_score, "crop_box", 0, 0, w, h,
                   "point_coords", deepest.x + 0.5, deepest.y + 0.5);
    if (!*o) FAIL(E_MEMORY, "the JSON of mask %lld", (long long)m);
    return OK;
}

static enum status masks_json(const struct synth_scene *s, json_t *annotations)
{
    struct scratch t;
    enum status st = scratch_create(&t, s->picture.height, s->picture.width);

    for (int64_t m = 0; st == OK && m < s->n_masks; m++) {
        json_t *o = NULL;

        st = mask_json(s, m, &t, &o);
        if (st == OK && json_array_append_new(annotations, o))
            st = status_fail(E_MEMORY, __FILE__, __LINE__, "the JSON of mask %lld", (long long)m);
    }
    scratch_destroy(&t);
    return st;
}

enum status synth_json(const struct synth_scene *s, char **text, int64_t *n)
{
    char name[NAME];
    json_t *annotations = json_array(), *root;
    enum status st;

    snprintf(name, sizeof name, "sa_%lld.jpg", (long long)s->image_id);
    /* root takes annotations over, also when it fails */
    root = json_pack("{s:{s:I, s:i, s:i, s:s}, s:o}", "image", "image_id", (json_int_t)s->image_id,
                     "width", s->picture.width, "height", s->picture.height, "file_name", name,
                     "annotations", annotations);
    if (!root) FAIL(E_MEMORY, "the JSON of image %lld", (long long)s->image_id);
    st = masks_json(s, annotations);
    if (st == OK) {
        *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(10));
        if (*text)
            *n = (int64_t)strlen(*text);
        else
            st = status_fail(E_MEMORY, __FILE__, __LINE__, "the JSON of image %lld",
                             (long long)s->image_id);
    }
    json_decref(root);
    return st;
}

/* One image as its two files. */
struct files {
    uint8_t *jpeg;
    char *json;
    int64_t n_jpeg, n_json, n_masks;
};

static void files_destroy(struct files *f)
{
    free(f->jpeg);
    free(f->json);
}

static enum status make_files(const struct synth_set *set, int64_t id, struct files *f)
{
    struct synth_scene *s = calloc(1, sizeof *s);
    enum status st;

    if (!s) FAIL(E_MEMORY, "a scene");
    st = synth_draw(&set->options, id, s);
    if (st == OK) st = picture_encode_jpeg(&s->picture, set->options.quality, &f->jpeg, &f->n_jpeg);
    if (st == OK) st = synth_json(s, &f->json, &f->n_json);
    f->n_masks = s->n_masks;
    synth_scene_destroy(s);
    free(s);
    return st;
}

static enum status add_files(struct tar_writer *w, int64_t id, const struct files *f)
{
    char name[NAME];

    snprintf(name, sizeof name, "sa_%lld.jpg", (long long)id);
    TRY(tar_writer_add(w, name, f->jpeg, f->n_jpeg));
    snprintf(name, sizeof name, "sa_%lld.json", (long long)id);
    return tar_writer_add(w, name, f->json, f->n_json);
}

/* Images [begin, end) of the set. Threads draw, one at a time adds, in order. */
static enum status fill_tar(struct tar_writer *w, const struct synth_set *set, int64_t begin,
                            int64_t end, int64_t *n_masks)
{
    enum status first = OK; /* read and written in the ordered part only */
    bool stop = false;
    int64_t sum = 0;

#pragma omp parallel for ordered schedule(dynamic, 1) num_threads(set->n_threads)
    for (int64_t i = begin; i < end; i++) {
        struct files f = { 0 };
        enum status s = OK;
        bool stopped;

#pragma omp atomic read
        stopped = stop;
        if (!stopped) s = make_files(set, set->first_id + i, &f);
#pragma omp ordered
        {
            if (first == OK && s == OK && !stopped) s = add_files(w, set->first_id + i, &f);
            if (first == OK) first = s;
            sum += f.n_masks;
            if (first != OK) {
#pragma omp atomic write
                stop = true;
            }
        }
        files_destroy(&f);
    }
    *n_masks = sum;
    return first;
}

static enum status write_tar(const char *folder, const struct synth_set *set, int64_t tar)
{
    const int64_t begin = tar * set->per_tar, left = set->n_images - begin;
    const int64_t end = begin + (left < set->per_tar ? left : set->per_tar);
    char name[NAME];
    struct tar_writer *w;
    int64_t n_masks = 0;

    snprintf(name, sizeof name, "sa_%06lld.tar", (long long)tar);
    TRY(tar_writer_create(&w, folder, name));
    enum status s = fill_tar(w, set, begin, end, &n_masks);
    if (s == OK) s = tar_writer_commit(w);
    tar_writer_destroy(w);
    if (s == OK)
        log_info("%s/%s: %lld images, %lld masks", folder, name, (long long)(end - begin),
                 (long long)n_masks);
    return s;
}

/* The folder exists and holds no tars of another set, which would be mixed with this one. */
static enum status make_folder(const char *folder)
{
    struct folder list;
    bool found = false;

    TRY(folder_make(folder));
    TRY(folder_list(&list, folder));
    for (int64_t i = 0; i < list.n && !found; i++)
        found = strncmp(list.names[i], "sa_", 3) == 0 && folder_ends_with(list.names[i], ".tar");
    folder_destroy(&list);
    if (found)
        FAIL(E_USAGE, "%s already holds sa_*.tar; remove them or name another folder", folder);
    return OK;
}

enum status synth_write(const char *folder, const struct synth_set *set)
{
    ASSERT(set->n_images >= 0 && set->per_tar >= 1 && set->n_threads >= 1);
    TRY(make_folder(folder));
    for (int64_t tar = 0; tar * set->per_tar < set->n_images; tar++)
        TRY(write_tar(folder, set, tar));
    return OK;
}
