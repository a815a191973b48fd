#include "data_pipeline/coco.h"

#include "data_pipeline/annotation.h"
#include "data_pipeline/grow.h"
#include "data_pipeline/rle.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One element of "images" or "annotations": where its text is. */
struct piece {
    int64_t begin;
    int32_t length;
    int32_t next; /* of an annotation: the next one of the same image; of an image: its first */
};

struct id_row {
    int64_t id;
    int32_t image;
};

struct stray {
    int64_t index;
    const char *why;
};

struct coco {
    char *owned; /* the text, when it was read from a file */
    const char *text;
    int64_t n;
    struct piece *images, *annotations;
    int64_t n_images, n_annotations, images_room, annotations_room;
    struct id_row *ids; /* of the images that have one, sorted */
    int64_t n_ids;
    struct stray *strays;
    int64_t n_strays, strays_room;
};

static const struct json_limits piece_limits = { .bytes = (int64_t)64 << 20,
                                                 .string_bytes = (int64_t)1 << 24 };

static enum status refuse(char why[JSON_WHY], const char *reason)
{
    snprintf(why, JSON_WHY, "%s", reason);
    return E_CORRUPT;
}

static enum status refuse_at(char why[JSON_WHY], const char *reason, int64_t at)
{
    snprintf(why, JSON_WHY, "%s at byte %lld", reason, (long long)at);
    return E_CORRUPT;
}

/* ---- the scan -------------------------------------------------------------------------------- */

static bool take(const struct coco *c, int64_t *at, char wanted)
{
    json_skip_space(c->text, c->n, at);
    if (*at >= c->n || c->text[*at] != wanted) return false;
    (*at)++;
    return true;
}

/* text[*at] is behind the '[' of a list: its elements into pieces. */
static enum status scan_list(const struct coco *c, int64_t *at, struct piece **pieces,
                             int64_t *room, int64_t *n, int64_t max, char why[JSON_WHY])
{
    if (take(c, at, ']')) return OK;
    do {
        int64_t begin;

        json_skip_space(c->text, c->n, at);
        begin = *at;
        if (!json_skip_value(c->text, c->n, at))
            return refuse_at(why, "COCO JSON is malformed or truncated", begin);
        if (*at - begin > piece_limits.bytes)
            return refuse_at(why, "COCO JSON has an overlong element", begin);
        if (*n == max) return refuse_at(why, "COCO JSON has too many elements", begin);
        GROW(*pieces, *room, *n + 1);
        (*pieces)[(*n)++] =
            (struct piece){ .begin = begin, .length = (int32_t)(*at - begin), .next = -1 };
    } while (take(c, at, ','));
    return take(c, at, ']') ? OK : refuse_at(why, "COCO JSON lacks a ] or a comma", *at);
}

/* The key at *at, quotes included, without looking at escapes: none of ours has any. */
static bool take_key(const struct coco *c, int64_t *at, const char **key, int64_t *n_key)
{
    int64_t begin;

    json_skip_space(c->text, c->n, at);
    begin = *at;
    if (begin >= c->n || c->text[begin] != '"' || !json_skip_value(c->text, c->n, at)) return false;
    *key = c->text + begin;
    *n_key = *at - begin;
    return take(c, at, ':');
}

static enum status scan(struct coco *c, char why[JSON_WHY])
{
    static const char images[] = "\"images\"", annotations[] = "\"annotations\"";
    bool has_images = false, has_annotations = false;
    int64_t at = 0, n_key;
    const char *key;

    if (!take(c, &at, '{')) return refuse(why, "COCO JSON does not start with {");
    do {
        bool is_images, is_annotations;

        if (!take_key(c, &at, &key, &n_key))
            return refuse_at(why, "COCO JSON is malformed or truncated", at);
        is_images = n_key == sizeof images - 1 && memcmp(key, images, sizeof images - 1) == 0;
        is_annotations = n_key == sizeof annotations - 1 &&
                         memcmp(key, annotations, sizeof annotations - 1) == 0;
        if ((is_images && has_images) || (is_annotations && has_annotations))
            return refuse_at(why, "COCO JSON has a key twice", at);
        has_images |= is_images;
        has_annotations |= is_annotations;
        if ((is_images || is_annotations) && !take(c, &at, '['))
            return refuse_at(why, "COCO JSON's images or annotations are not a list", at);
        if (is_images)
            TRY(scan_list(c, &at, &c->images, &c->images_room, &c->n_images, COCO_IMAGES, why));
        else if (is_annotations)
            TRY(scan_list(c, &at, &c->annotations, &c->annotations_room, &c->n_annotations,
                          COCO_ANNOTATIONS, why));
        else if (!json_skip_value(c->text, c->n, &at))
            return refuse_at(why, "COCO JSON is malformed or truncated", at);
    } while (take(c, &at, ','));
    if (!take(c, &at, '}')) return refuse_at(why, "COCO JSON lacks a } or a comma", at);
    json_skip_space(c->text, c->n, &at);
    if (at != c->n) return refuse_at(why, "COCO JSON has bytes behind its end", at);
    if (!has_images || !has_annotations)
        return refuse(why, "COCO JSON has no \"images\" or no \"annotations\"");
    return OK;
}

/* ---- which annotation belongs to which image ------------------------------------------------- */

static enum status parse_piece(const struct coco *c, const struct piece *p, json_t **o,
                               char why[JSON_WHY])
{
    TRY(json_parse(c->text + p->begin, p->length, &piece_limits, o, why));
    if (json_is_object(*o)) return OK;
    json_decref(*o);
    return refuse(why, "element is not an object");
}

static int by_id(const void *a, const void *b)
{
    const struct id_row *const x = a, *const y = b;

    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->image > y->image) - (x->image < y->image);
}

static enum status index_images(struct coco *c)
{
    char why[JSON_WHY];

    c->ids = calloc((size_t)c->n_images + 1, sizeof *c->ids);
    if (!c->ids) FAIL(E_MEMORY, "coco: no memory for %lld images", (long long)c->n_images);
    for (int64_t i = 0; i < c->n_images; i++) {
        json_t *o;
        int64_t id;

        if (parse_piece(c, &c->images[i], &o, why) != OK) continue;
        if (json_get_int(o, "id", 0, ANNOTATION_ID_MAX, &id))
            c->ids[c->n_ids++] = (struct id_row){ .id = id, .image = (int32_t)i };
        json_decref(o);
    }
    qsort(c->ids, (size_t)c->n_ids, sizeof *c->ids, by_id);
    return OK;
}

/* The first image of the file with that id, or -1. */
static int64_t find_image(const struct coco *c, int64_t id)
{
    int64_t low = 0, high = c->n_ids;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;

        if (c->ids[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->n_ids && c->ids[low].id == id ? c->ids[low].image : -1;
}

/* Backwards, so that each image's chain comes out in the file's order. */
static enum status index_annotations(struct coco *c)
{
    char why[JSON_WHY];

    for (int64_t i = c->n_annotations - 1; i >= 0; i--) {
        const char *reason = NULL;
        int64_t id, image = -1;
        json_t *o;

        if (parse_piece(c, &c->annotations[i], &o, why) != OK) {
            reason = "annotation is not a JSON object within bounds";
        } else {
            if (!json_get_int(o, "image_id", 0, ANNOTATION_ID_MAX, &id))
                reason = "\"image_id\" is missing or not a whole number from 0, below 2^53";
            else if ((image = find_image(c, id)) < 0)
                reason = "\"image_id\" is of no image in the file";
            json_decref(o);
        }
        if (reason) {
            GROW(c->strays, c->strays_room, c->n_strays + 1);
            c->strays[c->n_strays++] = (struct stray){ .index = i, .why = reason };
        } else {
            c->annotations[i].next = c->images[image].next;
            c->images[image].next = (int32_t)i;
        }
    }
    return OK;
}

/* ---- one image ------------------------------------------------------------------------------- */

static bool name_is_safe(const char *name, int64_t n)
{
    if (n < 1 || n >= COCO_NAME || name[0] == '/') return false;
    for (const char *p = name; *p;) {
        const size_t part = strcspn(p, "/");

        if (part == 2 && p[0] == '.' && p[1] == '.') return false;
        p += part + (p[part] == '/');
    }
    return true;
}

static enum status read_image(const struct coco *c, int64_t i, const json_t *o,
                              struct coco_image *image, char why[JSON_WHY])
{
    const char *name;
    int64_t h, w, n;

    if (!json_get_int(o, "id", 0, ANNOTATION_ID_MAX, &image->id))
        return refuse(why, "image's \"id\" is missing or not a whole number from 0, below 2^53");
    if (find_image(c, image->id) != i) return refuse(why, "duplicate image id");
    if (!json_get_int(o, "height", 1, RLE_SIDE_MAX, &h) ||
        !json_get_int(o, "width", 1, RLE_SIDE_MAX, &w) || h * w > RLE_AREA_MAX)
        return refuse(why, "image's \"height\" or \"width\" is missing or out of range");
    if (!json_get_text(o, "file_name", &name, &n))
        return refuse(why, "image's \"file_name\" is missing");
    if (!name_is_safe(name, n))
        return refuse(why, "image's \"file_name\" is empty, too long, absolute or has ..");
    image->height = (int32_t)h;
    image->width = (int32_t)w;
    snprintf(image->file_name, sizeof image->file_name, "%s", name);
    return OK;
}

/* A list of counts → runs; NULL when good, else the reason. */
static const char *check_counts(const json_t *counts, const struct masks *m, int32_t *runs)
{
    int64_t left = (int64_t)m->height * m->width;

    for (size_t i = 0; i < json_array_size(counts); i++) {
        const json_t *const item = json_array_get(counts, i);
        const int64_t run = json_is_integer(item) ? (int64_t)json_integer_value(item) : -1;

        if (run < 0) return "\"counts\" has something else than whole numbers from 0";
        if (run > left) return "runs exceed the mask's size";
        left -= run;
        runs[i] = (int32_t)run;
    }
    return left ? "runs do not fill the mask's size" : NULL;
}

static enum status read_rle(const json_t *o, struct masks *m, struct coco_scratch *scratch)
{
    const json_t *const size = json_object_get(o, "size"), *counts = json_object_get(o, "counts");
    const char *why;

    if (!json_is_array(size) || json_array_size(size) != 2 ||
        json_integer_value(json_array_get(size, 0)) != m->height ||
        json_integer_value(json_array_get(size, 1)) != m->width)
        return masks_add_broken(m, "\"size\" is not the image's %d %d", m->height, m->width);
    if (json_is_string(counts))
        return masks_add_text(m, json_string_value(counts), (int64_t)json_string_length(counts),
                              NULL);
    if (!json_is_array(counts))
        return masks_add_broken(m, "\"counts\" is missing or neither text nor list");
    GROW(scratch->runs, scratch->runs_room, (int64_t)json_array_size(counts));
    why = check_counts(counts, m, scratch->runs);
    if (why) return masks_add_broken(m, "%s", why);
    return masks_add_runs(m, scratch->runs, (int64_t)json_array_size(counts));
}

/* One outline [x,y,x,y,…] appended to p; *why is set when it is not one. */
static enum status read_outline(const json_t *list, struct polygon *p, const char **why)
{
    const size_t n = json_array_size(list); /* 0 when it is no list */
    int64_t at = p->n ? 2 * p->end[p->n - 1] : 0;

    if (n < 6 || n % 2) {
        *why = "polygon has fewer than three points, or half a point";
        return OK;
    }
    GROW(p->xy, p->xy_room, at + (int64_t)n);
    GROW(p->end, p->end_room, p->n + 1);
    for (size_t i = 0; i < n; i++) {
        const json_t *const item = json_array_get(list, i);
        const double v = json_number_value(item);

        if (!json_is_number(item) || !(fabs(v) <= 1e9)) {
            *why = "polygon has something else than finite numbers";
            return OK;
        }
        p->xy[at++] = v;
    }
    p->end[p->n++] = at / 2;
    return OK;
}

static enum status read_polygons(const json_t *list, struct masks *m, struct polygon *p)
{
    const char *why = NULL;
    enum status s;

    p->n = 0;
    if (json_array_size(list) == 0) return masks_add_broken(m, "\"segmentation\" is empty");
    for (size_t i = 0; i < json_array_size(list) && !why; i++)
        TRY(read_outline(json_array_get(list, i), p, &why));
    if (why) return masks_add_broken(m, "%s", why);
    s = polygon_to_runs(p, m->height, m->width);
    if (s == E_SHAPE) return masks_add_broken(m, "polygons are too intricate");
    TRY(s);
    return masks_add_runs(m, p->runs, p->n_runs);
}

static enum status read_mask(const json_t *o, struct masks *m, struct coco_scratch *scratch,
                             int64_t *n_crowd)
{
    const json_t *const segmentation = json_object_get(o, "segmentation");
    int64_t crowd = 0;

    if (json_object_get(o, "iscrowd") && !json_get_int(o, "iscrowd", 0, 1, &crowd))
        return masks_add_broken(m, "\"iscrowd\" is neither 0 nor 1");
    if (crowd) {
        m->n_seen++;
        (*n_crowd)++;
        return OK;
    }
    if (json_is_object(segmentation)) return read_rle(segmentation, m, scratch);
    if (json_is_array(segmentation)) return read_polygons(segmentation, m, &scratch->polygon);
    return masks_add_broken(m, "\"segmentation\" is missing or neither polygons nor RLE");
}

enum status coco_read(const struct coco *c, int64_t i, double max_area, struct coco_image *image,
                      struct masks *m, struct coco_scratch *scratch, int64_t *n_crowd,
                      char why[JSON_WHY])
{
    int64_t n = 0;
    json_t *o;
    enum status s;

    TRY(parse_piece(c, &c->images[i], &o, why));
    s = read_image(c, i, o, image, why);
    json_decref(o);
    TRY(s);
    masks_start(m, image->height, image->width, max_area);
    for (int64_t k = c->images[i].next; k >= 0; k = c->annotations[k].next) {
        if (n++ == MASKS_MAX) return refuse(why, "too many annotations");
        TRY(parse_piece(c, &c->annotations[k], &o, why));
        s = read_mask(o, m, scratch, n_crowd);
        json_decref(o);
        TRY(s);
    }
    return OK;
}

int64_t coco_images(const struct coco *c)
{
    return c->n_images;
}

int64_t coco_strays(const struct coco *c)
{
    return c->n_strays;
}

int64_t coco_stray(const struct coco *c, int64_t k, const char **why)
{
    const struct stray *const s = &c->strays[c->n_strays - 1 - k]; /* found from the end */

    *why = s->why;
    return s->index;
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum status open_text(struct coco **c, struct coco *fresh, char why[JSON_WHY])
{
    enum status s = scan(fresh, why);

    if (s == OK) s = index_images(fresh);
    if (s == OK) s = index_annotations(fresh);
    if (s != OK)
        coco_close(fresh);
    else
        *c = fresh;
    return s;
}

enum status coco_open_memory(struct coco **c, const char *text, int64_t n, char why[JSON_WHY])
{
    struct coco *const fresh = calloc(1, sizeof *fresh);

    if (!fresh) FAIL(E_MEMORY, "coco: no memory");
    fresh->text = text;
    fresh->n = n;
    return open_text(c, fresh, why);
}

static enum status read_file(const char *path, int fd, char **text, int64_t *n, char why[JSON_WHY])
{
    struct stat info;
    int64_t at = 0;

    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        FAIL(E_IO, "coco: %s is not a regular file", path);
    if (info.st_size > COCO_BYTES)
        return refuse(why, "COCO JSON is larger than 2 GiB; split it by images");
    *text = malloc((size_t)info.st_size + 1);
    if (!*text) FAIL(E_MEMORY, "coco: no memory for %lld bytes", (long long)info.st_size);
    while (at < info.st_size) {
        const ssize_t got = read(fd, *text + at, (size_t)(info.st_size - at));

        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) FAIL(E_IO, "coco: reading %s failed at byte %lld", path, (long long)at);
        at += got;
    }
    *n = at;
    return OK;
}

enum status coco_open(struct coco **c, const char *path, char why[JSON_WHY])
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct coco *fresh;
    enum status s;

    if (fd < 0) FAIL(E_IO, "coco: cannot open %s: %s", path, strerror(errno));
    fresh = calloc(1, sizeof *fresh);
    if (!fresh) {
        close(fd);
        FAIL(E_MEMORY, "coco: no memory");
    }
    s = read_file(path, fd, &fresh->owned, &fresh->n, why);
    close(fd);
    if (s != OK) {
        coco_close(fresh);
        return s;
    }
    fresh->text = fresh->owned;
    return open_text(c, fresh, why);
}

void coco_close(struct coco *c)
{
    if (!c) return;
    free(c->owned);
    free(c->images);
    free(c->annotations);
    free(c->ids);
    free(c->strays);
    free(c);
}

void coco_scratch_destroy(struct coco_scratch *s)
{
    if (!s) return;
    polygon_destroy(&s->polygon);
    free(s->runs);
    memset(s, 0, sizeof *s);
}
