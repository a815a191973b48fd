#include "trainer/inspect_shards.h"

#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"
#include "data_pipeline/shard.h"
#include "trainer/overlay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { SHARDS_SHOWN = 20, BAR = 40 };
static const float alpha = 0.45f; /* of a drawn mask */

/* Upper ends of the classes of mask areas, as shares of the image. */
static const double area_ends[] = { 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 1 };
enum { AREAS = sizeof area_ends / sizeof *area_ends };

/* COCO's classes of objects: below 32² pixels, below 96², the rest. */
enum { SMALL, MEDIUM, LARGE, COCO_CLASSES };
static const char *const coco_names[] = { "small", "medium", "large" };

struct range {
    double min, max, sum;
    int64_t n;
};

struct survey {
    int64_t n_records, n_masks, n_bare, n_jpeg;
    struct range long_side, short_side, stored_long_side, image_bytes, masks, text_bytes;
    int64_t area[AREAS], coco[COCO_CLASSES];
};

/* Memory that one record after another uses. */
struct room {
    struct shard_buffer buffer;
    int32_t *runs;
    int64_t n_runs;
};

static void put(struct range *r, double x)
{
    if (r->n == 0 || x < r->min) r->min = x;
    if (r->n == 0 || x > r->max) r->max = x;
    r->sum += x;
    r->n++;
}

static double mean(const struct range *r)
{
    return r->n > 0 ? r->sum / (double)r->n : 0;
}

static void room_destroy(struct room *m)
{
    shard_buffer_destroy(&m->buffer);
    free(m->runs);
}

static enum status decode_mask(struct room *m, const struct shard_set *set, int64_t image,
                               const struct shard_record *r, int64_t mask, int64_t *n_runs)
{
    const int64_t begin = mask > 0 ? r->mask_end[mask - 1] : 0;
    const int64_t n_text = r->mask_end[mask] - begin;
    char where[SHARD_WHERE];
    const char *why = NULL;
    struct rle_extent e;
    enum status s;

    if (rle_max_runs(n_text) > m->n_runs) {
        free(m->runs);
        m->n_runs = 2 * rle_max_runs(n_text);
        m->runs = malloc((size_t)m->n_runs * sizeof *m->runs);
        if (!m->runs) {
            m->n_runs = 0;
            FAIL(E_MEMORY, "inspect: no memory for a mask of %" PRId64 " bytes", n_text);
        }
    }
    s = rle_decode(r->mask_text + begin, n_text, r->height, r->width, m->runs, m->n_runs, n_runs,
                   &why);
    if (why)
        FAIL(E_CORRUPT, "inspect: %s, mask %" PRId64 ": %s", shard_set_where(set, image, where),
             mask, why);
    TRY(s);
    e = rle_extent(m->runs, *n_runs, r->height);
    if (e.area != r->mask_area[mask])
        FAIL(E_CORRUPT,
             "inspect: %s, mask %" PRId64 ": it has %" PRId64 " pixels, its index says %" PRId64,
             shard_set_where(set, image, where), mask, e.area, r->mask_area[mask]);
    return OK;
}

/* ---- surveying ------------------------------------------------------------------------------- */

static void survey_mask(struct survey *v, const struct shard_record *r, int64_t m)
{
    const int64_t area = r->mask_area[m];
    const double share = (double)area / ((double)r->height * r->width);
    int k = 0;

    while (k < AREAS - 1 && share >= area_ends[k]) k++;
    v->area[k]++;
    v->coco[area < 32 * 32 ? SMALL : area < 96 * 96 ? MEDIUM : LARGE]++;
    put(&v->text_bytes, (double)(r->mask_end[m] - (m > 0 ? r->mask_end[m - 1] : 0)));
}

static enum status survey_record(struct survey *v, struct room *room, const struct shard_set *set,
                                 int64_t image)
{
    char where[SHARD_WHERE];
    struct shard_record r;
    const char *why = NULL;
    int32_t h, w;
    int64_t n_runs;
    enum status s;

    TRY(shard_set_read(set, image, &room->buffer, &r));
    s = picture_size(r.image, r.image_bytes, &h, &w, &why);
    if (!why && (h != r.stored_height || w != r.stored_width))
        why = "its size is not what the index says";
    if (why) FAIL(E_CORRUPT, "inspect: %s: the image: %s", shard_set_where(set, image, where), why);
    TRY(s);
    for (int64_t m = 0; m < r.n_masks; m++) {
        TRY(decode_mask(room, set, image, &r, m, &n_runs));
        survey_mask(v, &r, m);
    }
    v->n_records++;
    v->n_masks += r.n_masks;
    v->n_bare += r.n_masks == 0;
    v->n_jpeg += r.codec == SHARD_JPEG;
    put(&v->long_side, r.height > r.width ? r.height : r.width);
    put(&v->short_side, r.height > r.width ? r.width : r.height);
    put(&v->stored_long_side, h > w ? h : w);
    put(&v->image_bytes, (double)r.image_bytes);
    put(&v->masks, (double)r.n_masks);
    return OK;
}

static enum status survey_set(struct survey *v, const struct shard_set *set, int64_t n_sample)
{
    const int64_t n_images = shard_set_images(set);
    const int64_t n = n_sample > 0 && n_sample < n_images ? n_sample : n_images;
    struct room room = { 0 };
    enum status s = OK;

    for (int64_t i = 0; i < n && s == OK; i++) {
        const int64_t image = (int64_t)((double)i * (double)n_images / (double)n);

        s = survey_record(v, &room, set, image < n_images ? image : n_images - 1);
    }
    room_destroy(&room);
    return s;
}

/* ---- printing -------------------------------------------------------------------------------- */

static void print_bar(const char *name, int64_t n, int64_t all)
{
    const int length = all > 0 ? (int)((double)n / (double)all * BAR + 0.5) : 0;

    printf("    %-12s%12" PRId64 "  %5.1f %%  ", name, n,
           all > 0 ? 100 * (double)n / (double)all : 0.0);
    for (int i = 0; i < length; i++) fputs("#", stdout);
    putchar('\n');
}

static void print_range(const char *name, const char *unit, const struct range *r)
{
    printf("  %-18s%.0f to %.0f%s, mean %.0f\n", name, r->min, r->max, unit, mean(r));
}

static void print_survey(const struct survey *v, int64_t n_images)
{
    printf("  looked into %" PRId64 " of %" PRId64
           " records: hashes, image sizes, run lengths and areas agree\n",
           v->n_records, n_images);
    print_range("long sides", " pixels", &v->long_side);
    print_range("short sides", " pixels", &v->short_side);
    print_range("stored long sides", " pixels", &v->stored_long_side);
    print_range("image bytes", "", &v->image_bytes);
    print_range("masks an image", "", &v->masks);
    if (v->text_bytes.n > 0) print_range("mask text bytes", "", &v->text_bytes);
    printf("  %" PRId64 " JPEG, %" PRId64 " PNG, %" PRId64 " without a mask\n", v->n_jpeg,
           v->n_records - v->n_jpeg, v->n_bare);
    printf("  areas of masks, as shares of the image\n");
    for (int k = 0; k < AREAS; k++) {
        char name[32];

        snprintf(name, sizeof name, "%s %g %%", k < AREAS - 1 ? "<" : "to", 100 * area_ends[k]);
        print_bar(name, v->area[k], v->n_masks);
    }
    printf("  areas of masks, COCO's classes (32², 96² pixels)\n");
    for (int k = 0; k < COCO_CLASSES; k++) print_bar(coco_names[k], v->coco[k], v->n_masks);
}

static int64_t total_bytes(const struct shard_set *set)
{
    int64_t bytes = 0;

    for (int64_t i = 0; i < shard_set_shards(set); i++) bytes += shard_set_summary(set, i)->bytes;
    return bytes;
}

static void print_text(const char *path, const struct shard_set *set, const struct survey *v,
                       bool verified)
{
    const int64_t n_shards = shard_set_shards(set), resized = shard_set_resized_to(set);

    printf("shards %s\n  %" PRId64 " images, %" PRId64 " masks, %" PRId64 " shard%s, %" PRId64
           " bytes; data %016" PRIx64 "\n",
           path, shard_set_images(set), shard_set_masks(set), n_shards, n_shards == 1 ? "" : "s",
           total_bytes(set), shard_set_hash(set));
    if (resized > 0) printf("  larger images stored with a long side of %" PRId64 "\n", resized);
    for (int64_t i = 0; i < n_shards && i < SHARDS_SHOWN; i++) {
        const struct shard_summary *s = shard_set_summary(set, i);

        printf("    %-24s %10" PRId64 " images %12" PRId64 " masks %14" PRId64 " bytes\n", s->name,
               s->n_images, s->n_masks, s->bytes);
    }
    if (n_shards > SHARDS_SHOWN) printf("    and %" PRId64 " more\n", n_shards - SHARDS_SHOWN);
    printf("  %s\n", verified ? "every byte verified"
                              : "manifest and index verified; --verify checks every byte");
    print_survey(v, shard_set_images(set));
}

static json_t *range_json(const struct range *r)
{
    return json_pack("{s:f,s:f,s:f}", "min", r->min, "max", r->max, "mean", mean(r));
}

static json_t *shards_json(const struct shard_set *set)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < shard_set_shards(set); i++) {
        const struct shard_summary *s = shard_set_summary(set, i);

        json_array_append_new(
            list, json_pack("{s:s,s:I,s:I,s:I}", "name", s->name, "images", (json_int_t)s->n_images,
                            "masks", (json_int_t)s->n_masks, "bytes", (json_int_t)s->bytes));
    }
    return list;
}

static json_t *survey_json(const struct survey *v)
{
    json_t *areas = json_array(), *coco = json_object();

    for (int k = 0; k < AREAS; k++)
        json_array_append_new(areas, json_pack("{s:f,s:I}", "share_below", area_ends[k], "masks",
                                               (json_int_t)v->area[k]));
    for (int k = 0; k < COCO_CLASSES; k++)
        json_object_set_new(coco, coco_names[k], json_integer(v->coco[k]));
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "records",
                     (json_int_t)v->n_records, "masks", (json_int_t)v->n_masks,
                     "images_without_mask", (json_int_t)v->n_bare, "jpeg", (json_int_t)v->n_jpeg,
                     "png", (json_int_t)(v->n_records - v->n_jpeg), "long_side",
                     range_json(&v->long_side), "short_side", range_json(&v->short_side),
                     "stored_long_side", range_json(&v->stored_long_side), "image_bytes",
                     range_json(&v->image_bytes), "masks_per_image", range_json(&v->masks),
                     "mask_text_bytes", range_json(&v->text_bytes), "mask_areas", areas,
                     "coco_classes", coco);
}

static enum status print_json(const char *path, const struct shard_set *set, const struct survey *v,
                              bool verified)
{
    char hash[17];
    json_t *o;
    int rc;

    snprintf(hash, sizeof hash, "%016" PRIx64, shard_set_hash(set));
    o = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b,s:o,s:o}", "kind", "shards", "path", path,
                  "hash", hash, "images", (json_int_t)shard_set_images(set), "masks",
                  (json_int_t)shard_set_masks(set), "bytes", (json_int_t)total_bytes(set),
                  "resized_to", (json_int_t)shard_set_resized_to(set), "every_byte_verified",
                  (int)verified, "shards", shards_json(set), "survey", survey_json(v));
    rc = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;
    json_decref(o);
    if (rc != 0 || putchar('\n') == EOF) FAIL(E_IO, "inspect: cannot write the summary");
    return OK;
}

/* ---- drawing --------------------------------------------------------------------------------- */

struct turn {
    int64_t area, mask;
};

static int larger_first(const void *a, const void *b)
{
    const struct turn *x = a, *y = b;

    if (x->area != y->area) return x->area < y->area ? 1 : -1;
    return x->mask < y->mask ? -1 : x->mask > y->mask;
}

/* Large masks first, so that small ones stay visible upon them. */
static enum status draw_masks(struct picture *p, struct room *room, const struct shard_set *set,
                              int64_t image, const struct shard_record *r)
{
    uint8_t *mask = malloc((size_t)r->height * (size_t)r->width);
    struct turn *turn = malloc(((size_t)r->n_masks + 1) * sizeof *turn);
    enum status s = OK;

    if (!mask || !turn)
        s = status_fail(E_MEMORY, __FILE__, __LINE__, "inspect: no memory to draw %d×%d pixels",
                        (int)r->width, (int)r->height);
    for (int64_t i = 0; i < r->n_masks && s == OK; i++)
        turn[i] = (struct turn){ r->mask_area[i], i };
    if (s == OK) qsort(turn, (size_t)r->n_masks, sizeof *turn, larger_first);
    for (int64_t i = 0; i < r->n_masks && s == OK; i++) {
        int64_t n_runs = 0;

        s = decode_mask(room, set, image, r, turn[i].mask, &n_runs);
        if (s != OK) break;
        rle_to_pixels(room->runs, n_runs, r->height, r->width, mask);
        overlay_mask(p, mask, (int)(i % OVERLAY_COLOURS), alpha);
    }
    free(mask);
    free(turn);
    return s;
}

/* The image at the size of its masks. */
static enum status draw_image(struct picture *p, const struct shard_set *set, int64_t image,
                              const struct shard_record *r)
{
    struct picture stored = { 0 };
    char where[SHARD_WHERE];
    const char *why = NULL;
    enum status s = picture_decode(r->image, r->image_bytes, 0, &stored, &why);

    if (why)
        s = status_fail(E_CORRUPT, __FILE__, __LINE__, "inspect: %s: the image: %s",
                        shard_set_where(set, image, where), why);
    if (s == OK) s = picture_resize(p, &stored, r->height, r->width);
    picture_destroy(&stored);
    return s;
}

static enum status draw(const struct shard_set *set, int64_t image, const char *png)
{
    struct picture p = { 0 };
    struct room room = { 0 };
    struct shard_record r;
    enum status s;

    if (image >= shard_set_images(set))
        FAIL(E_USAGE, "inspect: record %" PRId64 " cannot be drawn: there are 0 to %" PRId64, image,
             shard_set_images(set) - 1);
    s = shard_set_read(set, image, &room.buffer, &r);
    if (s == OK) s = draw_image(&p, set, image, &r);
    if (s == OK) s = draw_masks(&p, &room, set, image, &r);
    if (s == OK) s = picture_write_png(png, &p);
    picture_destroy(&p);
    room_destroy(&room);
    return s;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum status inspect_set(const char *path, const struct shard_set *set,
                               const struct inspect_shards_options *o)
{
    struct survey v = { 0 };

    if (o->draw >= 0) TRY(draw(set, o->draw, o->png));
    if (o->verify) TRY(shard_set_verify(set));
    TRY(survey_set(&v, set, o->n_sample));
    if (o->json) return print_json(path, set, &v, o->verify);
    print_text(path, set, &v, o->verify);
    if (o->draw >= 0) printf("  record %" PRId64 " drawn into %s\n", o->draw, o->png);
    return OK;
}

enum status inspect_shards(const char *path, const struct inspect_shards_options *o)
{
    struct shard_set *set;
    enum status s;

    TRY(shard_set_open(&set, path));
    s = inspect_set(path, set, o);
    shard_set_close(set);
    return s;
}
