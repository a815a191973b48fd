#include "data_pipeline/pack_part.h"

#include "data_pipeline/annotation.h"
#include "data_pipeline/grow.h"
#include "kernels/base/check.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

enum { REASON = 400, JPEG_QUALITY = 95 };

_Static_assert((int)MASKS_MAX <= (int)SHARD_MASKS_MAX &&
                   (int)MASKS_TEXT_MAX <= (int)SHARD_IMAGE_BYTES_MAX,
               "what masks.h lets through, a shard takes");

void pack_worker_destroy(struct pack_worker *w)
{
    if (!w) return;
    masks_destroy(&w->masks);
    picture_destroy(&w->picture);
    picture_destroy(&w->small);
    coco_scratch_destroy(&w->coco);
    png_masks_scratch_destroy(&w->png);
    folder_file_destroy(&w->image);
    folder_file_destroy(&w->json);
}

/* ---- quarantine ------------------------------------------------------------------------------ */

/* Names and reasons may hold any bytes: what is not UTF-8 becomes '?'. */
static json_t *text_value(const char *text)
{
    json_t *const value = json_string(text);
    char clean[FOLDER_PATH];

    if (value) return value;
    snprintf(clean, sizeof clean, "%s", text);
    for (char *p = clean; *p; p++)
        if (*p < ' ' || *p > '~') *p = '?';
    return json_string(clean);
}

static bool write_line(FILE *f, const char *source, const char *member, int64_t mask,
                       const char *reason)
{
    json_t *const line = json_object();
    bool good = line && json_object_set_new(line, "source", text_value(source)) == 0;

    if (member) good = good && json_object_set_new(line, "member", text_value(member)) == 0;
    if (mask >= 0) good = good && json_object_set_new(line, "mask", json_integer(mask)) == 0;
    good = good && json_object_set_new(line, "reason", text_value(reason)) == 0 &&
           json_dumpf(line, f, JSON_COMPACT) == 0 && fputc('\n', f) != EOF;
    json_decref(line);
    return good;
}

enum status pack_reject(struct pack_worker *w, const char *member, int64_t mask, const char *fmt,
                        ...)
{
    char reason[REASON];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    if (!write_line(w->quarantine, w->part->source->path, member, mask, reason))
        FAIL(E_IO, "pack: cannot write the quarantine of %s: %s", w->part->source->path,
             strerror(errno));
    if (mask >= 0)
        w->done.tally.n_bad_masks++;
    else
        w->done.tally.n_bad_items++;
    return OK;
}

/* ---- progress -------------------------------------------------------------------------------- */

void pack_tally_add(struct pack_tally *to, const struct pack_tally *t, int64_t sign)
{
    to->n_images += sign * t->n_images;
    to->n_masks += sign * t->n_masks;
    to->n_bare += sign * t->n_bare;
    to->n_empty += sign * t->n_empty;
    to->n_large += sign * t->n_large;
    to->n_crowd += sign * t->n_crowd;
    to->n_bad_masks += sign * t->n_bad_masks;
    to->n_bad_items += sign * t->n_bad_items;
    to->bytes_out += sign * t->bytes_out;
}

enum status pack_step(struct pack_worker *w, int64_t bytes_in)
{
    struct pack_shared *const s = w->shared;
    const struct pack_options *const o = s->options;

    pthread_mutex_lock(&s->lock);
    pack_tally_add(&s->progress.tally, &w->told, -1);
    pack_tally_add(&s->progress.tally, &w->done.tally, 1);
    w->told = w->done.tally;
    s->progress.bytes_in += bytes_in - w->bytes_in;
    w->bytes_in = bytes_in;
    if (o->progress && !atomic_load(&s->stop) && !o->progress(o->user, &s->progress)) {
        s->stop_wanted = true;
        atomic_store(&s->stop, true);
    }
    pthread_mutex_unlock(&s->lock);
    return atomic_load(&s->stop) ? E_STOPPED : OK;
}

/* ---- one image ------------------------------------------------------------------------------- */

static enum status commit_shard(struct pack_worker *w)
{
    struct pack_done *const d = &w->done;
    enum status s;

    if (!w->writer) return OK;
    GROW(d->shards, d->shards_room, d->n_shards + 1);
    s = shard_writer_commit(w->writer, &d->shards[d->n_shards]);
    shard_writer_destroy(w->writer);
    w->writer = NULL;
    TRY(s);
    d->tally.bytes_out += d->shards[d->n_shards].bytes;
    d->n_shards++;
    return OK;
}

static enum status store(struct pack_worker *w, const struct shard_record *r)
{
    struct pack_done *const d = &w->done;
    int32_t ignored;

    if (!w->writer) {
        char name[SHARD_NAME];

        pack_state_shard_name(name, w->part_index, d->n_shards);
        TRY(shard_writer_create(&w->writer, &(struct shard_writer_options){
                                                .folder = w->shared->state->out, .name = name }));
    }
    TRY(id_map_add(&w->own, r->image_id, 0, &ignored));
    TRY(shard_writer_add(w->writer, r));
    GROW(d->ids, d->ids_room, d->n_ids + 1);
    d->ids[d->n_ids++] = r->image_id;
    d->tally.n_images++;
    d->tally.n_masks += r->n_masks;
    d->tally.n_bare += r->n_masks == 0;
    if (shard_writer_bytes(w->writer) >= w->shared->options->shard_bytes) return commit_shard(w);
    return OK;
}

/* Looks at the bytes: OK when they are the picture the annotation speaks of, E_CORRUPT with a
 * reason when not. With --resize or --verify-pixels w->picture holds the pixels afterwards. */
static enum status check_picture(struct pack_worker *w, const uint8_t *bytes, int64_t n,
                                 char why[REASON])
{
    const struct pack_options *const o = w->shared->options;
    const struct masks *const m = &w->masks;
    const bool large = o->resize && (m->height > o->resize || m->width > o->resize);
    const char *reason = "";
    int32_t h, v;
    enum status s = picture_size(bytes, n, &h, &v, &reason);

    if (s == OK && (h != m->height || v != m->width)) {
        snprintf(why, REASON, "image is %d × %d pixels, its annotation says %d × %d", v, h,
                 m->width, m->height);
        return E_CORRUPT;
    }
    if (s == OK && (large || o->verify_pixels))
        s = picture_decode(bytes, n, o->verify_pixels ? 0 : o->resize, &w->picture, &reason);
    if (s == E_CORRUPT) snprintf(why, REASON, "image: %s", reason);
    return s;
}

static bool is_png(const uint8_t *bytes, int64_t n)
{
    return n >= 4 && memcmp(bytes, "\x89PNG", 4) == 0;
}

static enum status store_resized(struct pack_worker *w, struct shard_record *r)
{
    uint8_t *bytes = NULL;
    enum status s;

    picture_fit(r->height, r->width, w->shared->options->resize, &r->stored_height,
                &r->stored_width);
    TRY(picture_resize(&w->small, &w->picture, r->stored_height, r->stored_width));
    TRY(picture_encode_jpeg(&w->small, JPEG_QUALITY, &bytes, &r->image_bytes));
    r->image = bytes;
    r->codec = SHARD_JPEG;
    s = store(w, r);
    free(bytes);
    return s;
}

static enum status reject_masks(struct pack_worker *w, const char *member)
{
    for (int64_t i = 0; i < w->masks.n_broken; i++)
        TRY(pack_reject(w, member, w->masks.broken[i].index, "%s", w->masks.broken[i].why));
    w->done.tally.n_empty += w->masks.n_empty;
    w->done.tally.n_large += w->masks.n_large;
    return OK;
}

/* One image with the masks in w->masks, whose frame is the size its annotation says; quarantines
 * it when the bytes do not agree. */
static enum status add_image(struct pack_worker *w, int64_t image_id, const char *member,
                             const uint8_t *bytes, int64_t n)
{
    const struct masks *const m = &w->masks;
    struct shard_record r = { .image_id = image_id,
                              .height = m->height,
                              .width = m->width,
                              .stored_height = m->height,
                              .stored_width = m->width,
                              .codec = is_png(bytes, n) ? SHARD_PNG : SHARD_JPEG,
                              .image = bytes,
                              .image_bytes = n,
                              .n_masks = m->n,
                              .mask_text = m->text,
                              .mask_end = m->end,
                              .mask_area = m->area,
                              .mask_box = m->box };
    const int32_t side = w->shared->options->resize;
    struct pack_done *const d = &w->done;
    char why[REASON];
    enum status s;

    if (w->earlier && id_map_find(w->earlier, image_id) >= 0) {
        GROW(d->excluded, d->excluded_room, d->n_excluded + 1);
        d->excluded[d->n_excluded++] = image_id;
        return pack_reject(w, member, -1, "duplicate: an earlier source has image id %lld too",
                           (long long)image_id);
    }
    if (id_map_find(&w->own, image_id) >= 0)
        return pack_reject(w, member, -1, "duplicate: an image before it has id %lld too",
                           (long long)image_id);
    s = check_picture(w, bytes, n, why);
    if (s == E_CORRUPT) return pack_reject(w, member, -1, "%s", why);
    TRY(s);
    TRY(reject_masks(w, member));
    return side && (r.height > side || r.width > side) ? store_resized(w, &r) : store(w, &r);
}

enum status pack_pair(struct pack_worker *w, int64_t image_id, const char *member,
                      const uint8_t *image, int64_t n_image, const uint8_t *json, int64_t n_json)
{
    struct annotation a;
    char why[JSON_WHY];
    enum status s = annotation_read((const char *)json, n_json, w->shared->options->max_area, &a,
                                    &w->masks, why);

    if (s == E_CORRUPT) return pack_reject(w, member, -1, "its JSON: %s", why);
    TRY(s);
    if (a.image_id != image_id)
        return pack_reject(w, member, -1, "its JSON is of image_id %lld", (long long)a.image_id);
    if (annotation_file_id(a.file_name, ".jpg") != image_id)
        return pack_reject(w, member, -1, "its JSON is of the file \"%s\"", a.file_name);
    return add_image(w, image_id, member, image, n_image);
}

/* ---- folders and COCO ------------------------------------------------------------------------ */

/* The file's bytes, or a line of quarantine; *got says which. */
static enum status read_or_reject(struct pack_worker *w, const char *folder, const char *name,
                                  int64_t max, struct folder_file *f, bool *got)
{
    char path[FOLDER_PATH];
    const char *why;
    enum status s;

    TRY(folder_join(path, folder, name));
    s = folder_read(f, path, max, &why);
    *got = s == OK;
    return s == E_CORRUPT ? pack_reject(w, name, -1, "file %s", why) : s;
}

static enum status pack_loose(struct pack_worker *w, int64_t i)
{
    const struct pack_source *const s = w->part->source;
    const struct pack_loose *const row = &s->loose[i];
    const char *const jpg = row->jpg >= 0 ? s->names.names[row->jpg] : NULL;
    const char *const json = row->json >= 0 ? s->names.names[row->json] : NULL;
    bool got;

    if (row->again)
        return pack_reject(w, jpg ? jpg : json, -1, "duplicate: another file has its number too");
    if (!jpg) return pack_reject(w, json, -1, "its image is missing");
    if (!json) return pack_reject(w, jpg, -1, "its JSON is missing");
    TRY(read_or_reject(w, s->path, jpg, SHARD_IMAGE_BYTES_MAX, &w->image, &got));
    if (!got) return OK;
    TRY(read_or_reject(w, s->path, json, ANNOTATION_BYTES, &w->json, &got));
    if (!got) return OK;
    return pack_pair(w, row->id, jpg, w->image.bytes, w->image.n, w->json.bytes, w->json.n);
}

static enum status pack_png(struct pack_worker *w, int64_t i)
{
    const struct pack_source *const s = w->part->source;
    const char *const name = s->names.names[i];
    char why[JSON_WHY];
    const enum status read = png_masks_read(s->path, name, w->shared->options->max_area, &w->image,
                                            &w->masks, &w->png, why);

    if (read == E_CORRUPT) return pack_reject(w, name, -1, "%s", why);
    TRY(read);
    return add_image(w, png_masks_id(name), name, w->image.bytes, w->image.n);
}

static enum status pack_coco(struct pack_worker *w, int64_t i)
{
    const struct pack_source *const s = w->part->source;
    struct coco_image image;
    int64_t n_crowd = 0;
    char why[JSON_WHY], entry[64];
    enum status read;
    bool got;

    snprintf(entry, sizeof entry, "images[%lld]", (long long)i);
    read = coco_read(s->coco, i, w->shared->options->max_area, &image, &w->masks, &w->coco,
                     &n_crowd, why);
    if (read == E_CORRUPT) return pack_reject(w, entry, -1, "%s", why);
    TRY(read);
    TRY(read_or_reject(w, s->images, image.file_name, SHARD_IMAGE_BYTES_MAX, &w->image, &got));
    if (!got) return OK;
    w->done.tally.n_crowd += n_crowd;
    return add_image(w, image.id, image.file_name, w->image.bytes, w->image.n);
}

static enum status reject_strays(struct pack_worker *w)
{
    const struct coco *const c = w->part->source->coco;

    for (int64_t k = 0; k < coco_strays(c); k++) {
        char entry[64];
        const char *why;

        snprintf(entry, sizeof entry, "annotations[%lld]", (long long)coco_stray(c, k, &why));
        TRY(pack_reject(w, entry, -1, "%s", why));
    }
    return OK;
}

static enum status pack_items(struct pack_worker *w)
{
    const struct pack_part *const p = w->part;

    for (int64_t i = p->begin; i < p->end; i++) {
        if (p->form == PACK_LOOSE)
            TRY(pack_loose(w, i));
        else if (p->form == PACK_COCO)
            TRY(pack_coco(w, i));
        else
            TRY(pack_png(w, i));
        TRY(pack_step(w, 0));
    }
    return OK;
}

/* ---- the part -------------------------------------------------------------------------------- */

static enum status pack_whole(struct pack_worker *w)
{
    const struct pack_part *const p = w->part;

    if (p->source->broken[0]) return pack_reject(w, NULL, -1, "%s", p->source->broken);
    if (p->form == PACK_TAR) return pack_tar(w);
    if (p->form == PACK_COCO && p->begin == 0) TRY(reject_strays(w));
    return pack_items(w);
}

static enum status run(struct pack_worker *w)
{
    TRY(pack_state_quarantine(w->shared->state, w->part_index, &w->quarantine));
    TRY(pack_whole(w));
    TRY(commit_shard(w));
    TRY(pack_state_save(w->shared->state, w->part_index, &w->done, w->quarantine));
    return pack_step(w, w->part->bytes);
}

enum status pack_part_run(struct pack_worker *w, const struct pack_part *part, int64_t index,
                          const struct id_map *earlier, struct pack_done *done)
{
    enum status s;

    w->part = part;
    w->part_index = index;
    w->earlier = earlier;
    w->bytes_in = 0;
    memset(&w->told, 0, sizeof w->told);
    w->done = (struct pack_done){ .key = part->key };
    pack_plan_name(w->done.source, part->source->path);
    s = run(w);
    id_map_destroy(&w->own);
    shard_writer_destroy(w->writer);
    w->writer = NULL;
    if (w->quarantine) fclose(w->quarantine); /* saved already, or of no more use */
    w->quarantine = NULL;
    if (s == OK)
        *done = w->done;
    else
        pack_done_destroy(&w->done);
    memset(&w->done, 0, sizeof w->done);
    return s;
}
