#include "data_pipeline/pack_plan.h"

#include "data_pipeline/annotation.h"
#include "data_pipeline/grow.h"
#include "data_pipeline/png_masks.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <xxhash.h>

enum { TAR_MAGIC_AT = 257 }; /* "ustar" in a tar's first header */
enum { KEY_VERSION = 1 };    /* raise it when the same sources would give other shards */

/* ---- keys ------------------------------------------------------------------------------------ */

struct file_stamp {
    int64_t bytes, seconds, nanoseconds;
};

static uint64_t mix(uint64_t key, const void *p, size_t n)
{
    return XXH3_64bits_withSeed(p, n, key);
}

static uint64_t mix_file(uint64_t key, const char *name, const struct stat *info)
{
    const struct file_stamp stamp = { .bytes = info->st_size,
                                      .seconds = info->st_mtim.tv_sec,
                                      .nanoseconds = info->st_mtim.tv_nsec };

    return mix(mix(key, name, strlen(name)), &stamp, sizeof stamp);
}

/* A file that is missing by now counts as such; packing it will say so. */
static uint64_t mix_path(uint64_t key, const char *folder, const char *name)
{
    char path[FOLDER_PATH];
    struct stat info;

    if (snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path &&
        stat(path, &info) == 0)
        return mix_file(key, name, &info);
    return mix(key, name, strlen(name));
}

static uint64_t options_key(const struct pack_options *o)
{
    const int64_t numbers[] = { KEY_VERSION, o->resize, o->verify_pixels, o->shard_bytes,
                                o->pending_bytes };

    return mix(mix(0, numbers, sizeof numbers), &o->max_area, sizeof o->max_area);
}

static const char *base_name(const char *path)
{
    const char *const slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

void pack_plan_name(char name[PACK_NAME], const char *path)
{
    const char *const base = base_name(path);
    const size_t n = strlen(base), kept = n < PACK_NAME ? n : PACK_NAME - 1;

    memcpy(name, base + n - kept, kept);
    name[kept] = 0;
}

static uint64_t item_key(uint64_t key, const struct pack_part *part, int64_t i)
{
    const struct pack_source *const s = part->source;
    char name[FOLDER_PATH];

    if (part->form == PACK_LOOSE) {
        if (s->loose[i].jpg >= 0) key = mix_path(key, s->path, s->names.names[s->loose[i].jpg]);
        if (s->loose[i].json >= 0) key = mix_path(key, s->path, s->names.names[s->loose[i].json]);
    } else if (part->form == PACK_PNG) {
        key = mix_path(key, s->path, s->names.names[i]);
        if (snprintf(name, sizeof name, "%s/image.png", s->names.names[i]) < (int)sizeof name)
            key = mix_path(key, s->path, name);
        if (snprintf(name, sizeof name, "%s/masks", s->names.names[i]) < (int)sizeof name)
            key = mix_path(key, s->path, name);
    }
    return key;
}

/* ---- parts ----------------------------------------------------------------------------------- */

/* Cuts n images of s into parts; a broken or empty source is one part, which says so. */
static enum status add_parts(struct pack_plan *p, enum pack_form form, const struct pack_source *s,
                             int64_t n, const struct stat *info, uint64_t key)
{
    int64_t begin = 0;

    if (info) key = mix_file(key, base_name(s->path), info);
    do {
        const int64_t part = form == PACK_TAR ? n : PACK_PART_IMAGES;
        struct pack_part x = { .form = form, .source = s, .begin = begin };

        x.end = begin + part < n ? begin + part : n;
        x.bytes = form == PACK_TAR && info ? info->st_size : 0;
        x.key = mix(mix(key, &x.begin, sizeof x.begin), &x.end, sizeof x.end);
        for (int64_t i = begin; i < x.end; i++) x.key = item_key(x.key, &x, i);
        GROW(p->parts, p->parts_room, p->n_parts + 1);
        p->parts[p->n_parts++] = x;
        begin = x.end;
    } while (begin < n);
    return OK;
}

static enum status add_source(struct pack_plan *p, const char *path, struct pack_source **s)
{
    struct pack_source *fresh;

    GROW(p->sources, p->sources_room, p->n_sources + 1);
    fresh = calloc(1, sizeof *fresh);
    if (!fresh) FAIL(E_MEMORY, "pack: no memory for %s", path);
    p->sources[p->n_sources++] = fresh;
    if (snprintf(fresh->path, sizeof fresh->path, "%s", path) >= (int)sizeof fresh->path)
        FAIL(E_USAGE, "pack: the path %.200s… is too long", path);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) fresh->path[n - 1] = 0;
    *s = fresh;
    return OK;
}

static enum status add_tar(struct pack_plan *p, const char *path, const struct stat *info,
                           uint64_t key)
{
    struct pack_source *s;

    TRY(add_source(p, path, &s));
    return add_parts(p, PACK_TAR, s, 0, info, key);
}

static enum status add_coco(struct pack_plan *p, const char *path, const struct stat *info,
                            const char *images, uint64_t key)
{
    struct pack_source *s;
    enum status opened;

    TRY(add_source(p, path, &s));
    if (images)
        snprintf(s->images, sizeof s->images, "%s", images);
    else if (base_name(path) == path)
        snprintf(s->images, sizeof s->images, ".");
    else
        snprintf(s->images, sizeof s->images, "%.*s", (int)(base_name(path) - path), path);
    opened = coco_open(&s->coco, path, s->broken);
    if (opened != OK && opened != E_CORRUPT) return opened;
    key = mix(key, s->images, strlen(s->images));
    return add_parts(p, PACK_COCO, s, s->coco ? coco_images(s->coco) : 0, info, key);
}

/* ---- folders --------------------------------------------------------------------------------- */

static bool is_tar_name(const char *name)
{
    return folder_ends_with(name, ".tar") || folder_ends_with(name, ".tar.gz") ||
           folder_ends_with(name, ".tgz");
}

static bool is_loose_name(const char *name)
{
    return annotation_file_id(name, ".json") >= 0 || annotation_file_id(name, ".jpg") >= 0;
}

static int by_id(const void *a, const void *b)
{
    const struct pack_loose *const x = a, *const y = b;
    const int32_t name_x = x->jpg >= 0 ? x->jpg : x->json, name_y = y->jpg >= 0 ? y->jpg : y->json;

    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (name_x > name_y) - (name_x < name_y);
}

/* Rows of one file each, sorted, → one row a pair; a further file of the same id keeps its own. */
static void join_pairs(struct pack_source *s)
{
    int64_t n = 0, pair = 0;

    for (int64_t i = 0; i < s->n_loose; i++) {
        struct pack_loose row = s->loose[i];

        if (n == 0 || s->loose[pair].id != row.id) {
            pair = n;
        } else if (row.jpg >= 0 && s->loose[pair].jpg < 0) {
            s->loose[pair].jpg = row.jpg;
            continue;
        } else if (row.json >= 0 && s->loose[pair].json < 0) {
            s->loose[pair].json = row.json;
            continue;
        } else {
            row.again = true;
        }
        s->loose[n++] = row;
    }
    s->n_loose = n;
}

static enum status add_loose(struct pack_plan *p, const char *path, uint64_t key)
{
    struct pack_source *s;

    TRY(add_source(p, path, &s));
    TRY(folder_list(&s->names, path));
    for (int64_t i = 0; i < s->names.n; i++) {
        const char *const name = s->names.names[i];
        const int64_t jpg = annotation_file_id(name, ".jpg");
        const int64_t json = annotation_file_id(name, ".json");

        if (jpg < 0 && json < 0) continue;
        GROW(s->loose, s->loose_room, s->n_loose + 1);
        s->loose[s->n_loose++] = (struct pack_loose){ .id = jpg >= 0 ? jpg : json,
                                                      .jpg = jpg >= 0 ? (int32_t)i : -1,
                                                      .json = json >= 0 ? (int32_t)i : -1 };
    }
    qsort(s->loose, (size_t)s->n_loose, sizeof *s->loose, by_id);
    join_pairs(s);
    return add_parts(p, PACK_LOOSE, s, s->n_loose, NULL, key);
}

/* names: the folder's; those that are no image folders are taken out. */
static enum status add_png(struct pack_plan *p, const char *path, uint64_t key)
{
    struct pack_source *s;
    int64_t n = 0;

    TRY(add_source(p, path, &s));
    TRY(folder_list(&s->names, path));
    for (int64_t i = 0; i < s->names.n; i++) {
        char *const name = s->names.names[i];

        if (png_masks_here(path, name))
            s->names.names[n++] = name;
        else
            free(name);
    }
    s->names.n = n;
    return add_parts(p, PACK_PNG, s, n, NULL, key);
}

struct folder_content {
    int64_t n_tars, n_loose_json, n_loose_jpg, n_json, n_png, n_others;
    const char *other; /* one of them; into the list */
};

static struct folder_content look_into(const char *path, const struct folder *list)
{
    struct folder_content c = { 0 };

    for (int64_t i = 0; i < list->n; i++) {
        const char *const name = list->names[i];

        if (is_tar_name(name)) {
            c.n_tars++;
        } else if (annotation_file_id(name, ".json") >= 0) {
            c.n_loose_json++;
        } else if (annotation_file_id(name, ".jpg") >= 0) {
            c.n_loose_jpg++;
        } else if (folder_ends_with(name, ".json")) {
            c.n_json++;
        } else if (png_masks_here(path, name)) {
            c.n_png++;
        } else {
            c.n_others++;
            c.other = name;
        }
    }
    return c;
}

static enum status add_matching(struct pack_plan *p, const char *folder, const struct folder *list,
                                bool tars, const char *images, uint64_t key)
{
    for (int64_t i = 0; i < list->n; i++) {
        char path[FOLDER_PATH];
        struct stat info;

        if (tars ? !is_tar_name(list->names[i])
                 : !folder_ends_with(list->names[i], ".json") || is_loose_name(list->names[i]))
            continue;
        TRY(folder_join(path, folder, list->names[i]));
        if (stat(path, &info) != 0) FAIL(E_IO, "pack: cannot stat %s: %s", path, strerror(errno));
        if (tars)
            TRY(add_tar(p, path, &info, key));
        else
            TRY(add_coco(p, path, &info, images, key));
    }
    return OK;
}

static enum status add_listed(struct pack_plan *p, const char *path, const struct folder *list,
                              const char *images, uint64_t key)
{
    const struct folder_content c = look_into(path, list);
    const bool sa = c.n_tars || c.n_loose_json || c.n_png;

    if (c.n_tars) TRY(add_matching(p, path, list, true, images, key));
    if (c.n_loose_json) TRY(add_loose(p, path, key));
    if (c.n_png) TRY(add_png(p, path, key));
    if (!sa && c.n_json) return add_matching(p, path, list, false, images, key);
    if (!sa)
        FAIL(
            E_USAGE,
            "pack: %s holds nothing to pack: no tars, no sa_*.jpg with sa_*.json, no COCO JSON, no "
            "folders with image.png and masks",
            path);
    if (c.n_others + c.n_json + (c.n_loose_json ? 0 : c.n_loose_jpg) > 0)
        log_warn("pack: %s also holds %lld files of no known form%s%s; they are not packed", path,
                 (long long)(c.n_others + c.n_json + (c.n_loose_json ? 0 : c.n_loose_jpg)),
                 c.other ? ", such as " : "", c.other ? c.other : "");
    return OK;
}

/* A file of another name is taken if it begins as a tar does, and is then a damaged one at worst. */
static enum status check_tar(const char *path)
{
    uint8_t head[TAR_MAGIC_AT + 5] = { 0 };
    FILE *f;
    size_t n;

    if (is_tar_name(path)) return OK;
    f = fopen(path, "rbe");
    if (!f) FAIL(E_IO, "pack: %s: %s", path, strerror(errno));
    n = fread(head, 1, sizeof head, f);
    fclose(f);
    if (n == sizeof head && memcmp(head + TAR_MAGIC_AT, "ustar", 5) == 0) return OK;
    if (n > 2 && head[0] == 0x1f && head[1] == 0x8b) return OK; /* gzip */
    FAIL(E_USAGE,
         "pack: %s is no tar, neither by its name (.tar, .tar.gz, .tgz) nor by what it begins "
         "with, and no COCO JSON (.json)",
         path);
}

/* What samforge has made itself holds JSON too, which would be taken for a damaged COCO. */
static enum status check_folder(const char *path, const struct folder *list)
{
    bool h5 = false;

    for (int64_t i = 0; i < list->n; i++) h5 |= folder_ends_with(list->names[i], ".h5");
    if (h5 && folder_has(list, "manifest.json"))
        FAIL(E_USAGE, "pack: %s holds shards or a checkpoint, not images with masks", path);
    if (folder_has(list, "run.json") && folder_has(list, "metrics.jsonl"))
        FAIL(E_USAGE, "pack: %s is a run's folder, not one of images with masks", path);
    return OK;
}

static enum status add_path(struct pack_plan *p, const char *path, const char *images, uint64_t key)
{
    struct folder list = { 0 };
    struct stat info;
    enum status s;

    if (stat(path, &info) != 0)
        FAIL(errno == ENOENT || errno == ENOTDIR ? E_MISSING : E_IO,
             "pack: %s: %s; name tars, a COCO JSON, or a folder of images with masks", path,
             strerror(errno));
    if (S_ISREG(info.st_mode) && folder_ends_with(path, ".json"))
        return add_coco(p, path, &info, images, key);
    if (S_ISREG(info.st_mode)) {
        TRY(check_tar(path));
        return add_tar(p, path, &info, key);
    }
    if (!S_ISDIR(info.st_mode)) FAIL(E_USAGE, "pack: %s is neither file nor folder", path);
    TRY(folder_list(&list, path));
    s = check_folder(path, &list);
    if (s == OK) s = add_listed(p, path, &list, images, key);
    folder_destroy(&list);
    return s;
}

enum status pack_plan_create(struct pack_plan *p, const struct pack_options *o)
{
    struct pack_plan fresh = { 0 };

    for (int i = 0; i < o->n_sources; i++) {
        const enum status s = add_path(&fresh, o->sources[i], o->images, options_key(o));

        if (s != OK) {
            pack_plan_destroy(&fresh);
            return s;
        }
    }
    *p = fresh;
    return OK;
}

void pack_plan_destroy(struct pack_plan *p)
{
    if (!p) return;
    for (int64_t i = 0; i < p->n_sources; i++) {
        folder_destroy(&p->sources[i]->names);
        free(p->sources[i]->loose);
        coco_close(p->sources[i]->coco);
        free(p->sources[i]);
    }
    free(p->sources);
    free(p->parts);
    memset(p, 0, sizeof *p);
}
