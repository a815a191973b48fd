#include "data_pipeline/pack.h"
#include "data_pipeline/shard.h"
#include "data_pipeline/tar.h"

#include "kernels/base/log.h"
#include "tests/check.h"
#include "tests/data_pipeline/crafted_set.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH = 160, IDS = 64 };

/* ---- a folder to work in --------------------------------------------------------------------- */

static char root[64]; /* of the test at work; sources and results lie in it */

static const char *in_root(const char *name)
{
    static char paths[8][PATH];
    static int next;
    char *const path = paths[next++ % 8];

    snprintf(path, PATH, "%s/%s", root, name);
    return path;
}

static void save(const char *name, struct crafted *c)
{
    crafted_save(in_root(name), c->p, c->n);
    crafted_free(c);
}

static void save_text(const char *name, const char *text)
{
    crafted_save(in_root(name), text, (int64_t)strlen(text));
}

static void save_jpeg(const char *name, int32_t h, int32_t w, int look)
{
    struct crafted jpeg = crafted_jpeg(h, w, look);

    save(name, &jpeg);
}

/* A tar of the pairs first … last. */
static void save_pairs(const char *name, int64_t first, int64_t last)
{
    struct crafted c = { 0 };

    for (int64_t id = first; id <= last; id++) crafted_pair(&c, id, CRAFTED_PAIR);
    crafted_end(&c);
    save(name, &c);
}

/* ---- packing and looking --------------------------------------------------------------------- */

static struct pack_progress told; /* by the last pack */

static enum status pack_with(struct pack_options o, const char *out, const char *a, const char *b)
{
    const char *sources[] = { a ? in_root(a) : NULL, b ? in_root(b) : NULL };

    o.sources = sources;
    o.n_sources = (a != NULL) + (b != NULL);
    o.out = in_root(out);
    return pack_run(&o, &told);
}

static struct pack_options usual(void)
{
    struct pack_options o = pack_options_default();

    o.n_threads = 1;
    return o;
}

static enum status pack(const char *out, const char *a, const char *b)
{
    return pack_with(usual(), out, a, b);
}

/* What a test expects to fail is not shown. */
static enum status quietly(struct pack_options o, const char *out, const char *a, const char *b)
{
    const int kept = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    enum status s;

    dup2(null, STDERR_FILENO);
    s = pack_with(o, out, a, b);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(null);
    return s;
}

/* The ids of a packed folder in order, as text "1 2 3 ". */
static const char *ids_of(const char *out)
{
    static char text[16 * IDS];
    struct shard_buffer b = { 0 };
    struct shard_set *set = NULL;
    size_t at = 0;

    text[0] = 0;
    CHECK(shard_set_open(&set, in_root(out)) == OK);
    if (!set) return text;
    CHECK(shard_set_verify(set) == OK);
    for (int64_t i = 0; i < shard_set_images(set) && i < IDS; i++) {
        struct shard_record r;

        CHECK(shard_set_read(set, i, &b, &r) == OK);
        at += (size_t)snprintf(text + at, sizeof text - at, "%lld ", (long long)r.image_id);
    }
    shard_buffer_destroy(&b);
    shard_set_close(set);
    return text;
}

static bool ids_are(const char *out, const char *wanted)
{
    const char *const found = ids_of(out);

    if (strcmp(found, wanted) != 0) printf("wanted %s\nfound  %s\n", wanted, found);
    return strcmp(found, wanted) == 0;
}

static uint64_t hash_of(const char *out)
{
    struct shard_set *set = NULL;
    uint64_t hash = 0;

    CHECK(shard_set_open(&set, in_root(out)) == OK);
    if (set) hash = shard_set_hash(set);
    shard_set_close(set);
    return hash;
}

static char *text_of(const char *path)
{
    static char text[1 << 16];
    FILE *f = fopen(path, "re");

    CHECK(f != NULL);
    text[f ? fread(text, 1, sizeof text - 1, f) : 0] = 0;
    if (f) fclose(f);
    return text;
}

static char *quarantine_of(const char *out)
{
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/quarantine.jsonl", in_root(out));
    return text_of(path);
}

static int lines_of(const char *text)
{
    int n = 0;

    for (; *text; text++) n += *text == '\n';
    return n;
}

static bool exists(const char *name)
{
    return access(in_root(name), F_OK) == 0;
}

/* ---- the form of the sources ----------------------------------------------------------------- */

/* Members in every order; the images come in the order in which pairs are complete. */
static void test_order(void)
{
    struct crafted c = { 0 }, zipped;

    crafted_pair(&c, 4, CRAFTED_JSON);
    crafted_pair(&c, 2, CRAFTED_JPG);
    crafted_pair(&c, 3, CRAFTED_PAIR);
    crafted_pair(&c, 4, CRAFTED_JPG);
    crafted_pair(&c, 1, CRAFTED_JPG);
    crafted_pair(&c, 1, CRAFTED_JSON);
    crafted_pair(&c, 2, CRAFTED_JSON);
    crafted_end(&c);
    zipped = crafted_gzip(&c);
    save("plain.tar", &c);
    save("zipped.tar", &zipped); /* as some mirrors have it: the name does not tell */
    CHECK(pack("a", "plain.tar", NULL) == OK);
    CHECK(ids_are("a", "3 4 1 2 "));
    CHECK(told.tally.n_images == 4 && told.tally.n_masks == 8 && told.n_shards == 1);
    CHECK(told.tally.n_bad_items == 0 && told.tally.n_bad_masks == 0);
    CHECK(lines_of(quarantine_of("a")) == 0);
    CHECK(pack("b", "zipped.tar", NULL) == OK);
    CHECK(hash_of("a") == hash_of("b"));
}

/* All images before all annotations, with room for hardly one: read again and again, nothing
 * lost. */
static void test_far_pairs(void)
{
    struct pack_options o = usual();
    struct crafted c = { 0 };

    for (int64_t id = 1; id <= 9; id++) crafted_pair(&c, id, CRAFTED_JPG);
    crafted_pair(&c, 20, CRAFTED_JPG);
    for (int64_t id = 9; id >= 1; id--) crafted_pair(&c, id, CRAFTED_JSON);
    crafted_pair(&c, 21, CRAFTED_JSON);
    crafted_pair(&c, 3, CRAFTED_JSON); /* again */
    crafted_end(&c);
    save("far.tar", &c);
    o.pending_bytes = 2000;
    CHECK(pack_with(o, "a", "far.tar", NULL) == OK);
    CHECK(told.tally.n_images == 9 && told.tally.n_masks == 18);
    CHECK(told.tally.n_bad_items == 3);
    CHECK(lines_of(quarantine_of("a")) == 3);
    CHECK(strstr(quarantine_of("a"), "\"sa_20.jpg\",\"reason\":\"its JSON is missing\""));
    CHECK(strstr(quarantine_of("a"), "\"sa_21.json\",\"reason\":\"its image is missing\""));
    CHECK(strstr(quarantine_of("a"), "\"sa_3.json\",\"reason\":\"duplicate"));
}

static void test_loose(void)
{
    char json[1024], mask[300];

    CHECK(mkdir(in_root("loose"), 0777) == 0);
    crafted_mask(mask, sizeof mask, 20, 30, 3, 9, 0);
    for (int64_t id = 8; id <= 11; id++) {
        char name[64];

        snprintf(name, sizeof name, "loose/sa_%lld.jpg", (long long)id);
        if (id != 10) save_jpeg(name, 20, 30, (int)id);
        snprintf(name, sizeof name, "loose/sa_%lld.json", (long long)id);
        crafted_json(json, sizeof json, id, 20, 30, mask);
        if (id != 11) save_text(name, json);
    }
    save_jpeg("loose/sa_08.jpg", 20, 30, 1);
    CHECK(pack("a", "loose", NULL) == OK);
    CHECK(ids_are("a", "8 9 "));
    CHECK(told.tally.n_bad_items == 3 && lines_of(quarantine_of("a")) == 3);
    CHECK(strstr(quarantine_of("a"), "\"sa_8.jpg\",\"reason\":\"duplicate") ||
          strstr(quarantine_of("a"), "\"sa_08.jpg\",\"reason\":\"duplicate"));
    CHECK(strstr(quarantine_of("a"), "\"sa_10.json\",\"reason\":\"its image is missing\""));
    CHECK(strstr(quarantine_of("a"), "\"sa_11.jpg\",\"reason\":\"its JSON is missing\""));
}

static void test_coco(void)
{
    static const char json[] =
        "{\"images\":[{\"id\":3,\"height\":20,\"width\":30,\"file_name\":\"x.jpg\"},"
        "{\"id\":1,\"height\":20,\"width\":30,\"file_name\":\"sub/y.jpg\"},"
        "{\"id\":2,\"height\":20,\"width\":30,\"file_name\":\"missing.jpg\"},"
        "{\"id\":4,\"height\":30,\"width\":20,\"file_name\":\"x.jpg\"}],"
        "\"annotations\":["
        "{\"id\":1,\"image_id\":1,\"segmentation\":[[2,2,9,2,9,9,2,9]]},"
        "{\"id\":2,\"image_id\":1,\"segmentation\":[[0,0,30,0,30,20,0,20]]},"
        "{\"id\":3,\"image_id\":3,\"iscrowd\":1,\"segmentation\":[[2,2,9,2,9,9,2,9]]},"
        "{\"id\":4,\"image_id\":3,\"segmentation\":[[2,2,9,2]]},"
        "{\"id\":5,\"image_id\":99,\"segmentation\":[[2,2,9,2,9,9,2,9]]}]}";
    struct pack_options o = usual();

    CHECK(mkdir(in_root("pictures"), 0777) == 0 && mkdir(in_root("pictures/sub"), 0777) == 0);
    save_jpeg("pictures/x.jpg", 20, 30, 1);
    save_jpeg("pictures/sub/y.jpg", 20, 30, 2);
    save_text("pictures/instances.json", json);
    save_text("elsewhere.json", json);
    CHECK(pack("a", "pictures", NULL) == OK);
    CHECK(ids_are("a", "3 1 "));
    CHECK(told.tally.n_masks == 1 && told.tally.n_large == 1 && told.tally.n_crowd == 1);
    CHECK(told.tally.n_bare == 1 && told.tally.n_bad_masks == 1 && told.tally.n_bad_items == 3);
    CHECK(strstr(quarantine_of("a"), "\"missing.jpg\",\"reason\":\"file is missing\""));
    CHECK(strstr(quarantine_of("a"), "\"annotations[4]\""));
    CHECK(strstr(quarantine_of("a"), "\"x.jpg\",\"mask\":1,\"reason\":\"polygon has fewer"));
    CHECK(strstr(quarantine_of("a"), "30 × 20 pixels, its annotation says 20 × 30"));
    o.images = in_root("pictures");
    CHECK(pack_with(o, "b", "elsewhere.json", NULL) == OK);
    CHECK(hash_of("a") == hash_of("b"));
    save_jpeg("pictures/missing.jpg", 20, 30, 3); /* what was missing has come */
    CHECK(pack("a", "pictures", NULL) == OK);
    CHECK(ids_are("a", "3 1 2 "));
    save_text("broken.json", "{\"images\":[");
    CHECK(quietly(usual(), "c", "broken.json", NULL) == E_CORRUPT);
    CHECK(strstr(quarantine_of("c"), "COCO JSON is malformed or truncated at byte 11"));
}

static void test_png(void)
{
    static const char *const names[] = { "cells/cafe", "cells/0042", "cells/42" };
    uint8_t mask[20 * 30] = { 0 };
    struct picture p = { 0 };

    CHECK(picture_reserve(&p, 20, 30) == OK);
    memset(p.rgb, 90, 20 * 30 * 3);
    for (int i = 100; i < 300; i++) mask[i] = 1;
    CHECK(mkdir(in_root("cells"), 0777) == 0);
    for (int k = 0; k < 3; k++) {
        char name[64];

        CHECK(mkdir(in_root(names[k]), 0777) == 0);
        snprintf(name, sizeof name, "%s/masks", names[k]);
        CHECK(mkdir(in_root(name), 0777) == 0);
        snprintf(name, sizeof name, "%s/image.png", names[k]);
        CHECK(picture_write_png(in_root(name), &p) == OK);
    }
    CHECK(picture_write_mask_png(in_root("cells/0042/masks/1.png"), mask, 20, 30) == OK);
    CHECK(picture_write_mask_png(in_root("cells/0042/masks/2.png"), mask, 30, 20) == OK);
    save_text("cells/0042/masks/3.png", "no PNG");
    save_text("cells/0042/masks/4.PNG", "what is it?");
    CHECK(pack("a", "cells", NULL) == OK);
    CHECK(told.tally.n_images == 2 && told.tally.n_masks == 1 && told.tally.n_bare == 1);
    CHECK(told.tally.n_bad_masks == 3 && told.tally.n_bad_items == 1);
    CHECK(strncmp(ids_of("a"), "42 ", 3) == 0);
    CHECK(strstr(quarantine_of("a"), "\"0042\",\"mask\":1"));
    CHECK(strstr(quarantine_of("a"), "masks/3.png"));
    CHECK(strstr(quarantine_of("a"), "masks/4.PNG is not named .png"));
    CHECK(
        strstr(quarantine_of("a"), "\"42\",\"reason\":\"duplicate: an image before it has id 42"));
    CHECK(pack("a", "cells//", NULL) == OK && told.n_parts_kept == 1); /* the same source */
    picture_destroy(&p);
}

/* ---- what is broken -------------------------------------------------------------------------- */

/* One pair with this JSON and image; the line of quarantine has `why`. */
static void expect_bad(const char *json, const struct crafted *jpeg, const char *why)
{
    struct crafted c = { 0 };

    crafted_pair(&c, 1, CRAFTED_PAIR);
    crafted_text(&c, "sa_2.json", json);
    crafted_member(&c, "sa_2.jpg", '0', jpeg->p, jpeg->n);
    crafted_pair(&c, 3, CRAFTED_PAIR);
    crafted_end(&c);
    save("bad.tar", &c);
    CHECK(pack("bad", "bad.tar", NULL) == OK);
    CHECK(ids_are("bad", "1 3 "));
    CHECK(told.tally.n_bad_items == 1 && lines_of(quarantine_of("bad")) == 1);
    CHECK(strstr(quarantine_of("bad"), "\"member\":\"sa_2.jpg\""));
    CHECK(strstr(quarantine_of("bad"), why));
    if (!strstr(quarantine_of("bad"), why)) printf("%s", quarantine_of("bad"));
}

static void test_bad_pairs(void)
{
    struct crafted jpeg = crafted_jpeg(20, 30, 1), empty = { 0 }, bomb = { 0 }, half;
    char json[1024];

    crafted_json(json, sizeof json, 2, 20, 31, "");
    expect_bad(json, &jpeg, "image is 30 × 20 pixels, its annotation says 31 × 20");
    crafted_json(json, sizeof json, 5, 20, 30, "");
    expect_bad(json, &jpeg, "its JSON is of image_id 5");
    expect_bad("{\"image\":{\"image_id\":2,\"width\":30,\"height\":20,"
               "\"file_name\":\"sa_3.jpg\"},\"annotations\":[]}",
               &jpeg, "its JSON is of the file \\\"sa_3.jpg\\\"");
    expect_bad("{\"image\":", &jpeg, "its JSON: JSON");
    expect_bad("", &jpeg, "its JSON: JSON");
    crafted_json(json, sizeof json, 2, 20, 30, "");
    expect_bad(json, &empty, "image: ");
    half = (struct crafted){ .p = jpeg.p, .n = 40 };
    expect_bad(json, &half, "image: ");

    /* a header that claims 65500 × 65500 pixels, in the JSON's words too as far as those go */
    crafted_append(&bomb, jpeg.p, jpeg.n);
    for (int64_t i = 0; i + 8 < bomb.n; i++)
        if (bomb.p[i] == 0xff && bomb.p[i + 1] == 0xc0)
            memcpy(bomb.p + i + 5, "\xff\xdc\xff\xdc", 4);
    expect_bad(json, &bomb, "image: ");
    crafted_json(json, sizeof json, 2, 65500, 65500, "");
    expect_bad(json, &bomb, "its JSON: \\\"height\\\" or");
    crafted_free(&bomb);
    crafted_free(&jpeg);
}

/* A pixel damage shows only when pixels are asked for. */
static void test_verify_pixels(void)
{
    struct crafted jpeg = crafted_jpeg(20, 30, 1), c = { 0 };
    struct pack_options o = usual();
    char json[1024];

    crafted_json(json, sizeof json, 2, 20, 30, "");
    crafted_pair(&c, 1, CRAFTED_PAIR);
    crafted_text(&c, "sa_2.json", json);
    crafted_member(&c, "sa_2.jpg", '0', jpeg.p, jpeg.n - 60);
    crafted_end(&c);
    save("cut.tar", &c);
    crafted_free(&jpeg);
    CHECK(pack("a", "cut.tar", NULL) == OK && told.tally.n_images == 2);
    o.verify_pixels = true;
    CHECK(pack_with(o, "b", "cut.tar", NULL) == OK && told.tally.n_images == 1);
    CHECK(strstr(quarantine_of("b"), "\"sa_2.jpg\",\"reason\":\"image: "));
    /* the option is part of what was done: the same folder is done again */
    CHECK(pack_with(o, "a", "cut.tar", NULL) == OK && told.n_parts_kept == 0);
    CHECK(hash_of("a") == hash_of("b"));
}

static void test_bad_masks(void)
{
    char json[2048], masks[1300], good[300], wrong[300], large[300];
    struct crafted c = { 0 }, jpeg = crafted_jpeg(20, 30, 1);

    crafted_mask(good, sizeof good, 20, 30, 3, 9, 0);
    crafted_mask(wrong, sizeof wrong, 20, 30, 3, 9, 1);
    crafted_mask(large, sizeof large, 20, 30, 1, 29, 0);
    snprintf(masks, sizeof masks, "%s,%s,%s,%s", good, wrong, large, good);
    crafted_json(json, sizeof json, 2, 20, 30, masks);
    crafted_text(&c, "sa_2.json", json);
    crafted_member(&c, "sa_2.jpg", '0', jpeg.p, jpeg.n);
    crafted_end(&c);
    save("masks.tar", &c);
    CHECK(pack("a", "masks.tar", NULL) == OK);
    CHECK(told.tally.n_images == 1 && told.tally.n_masks == 2 && told.tally.n_large == 1);
    CHECK(told.tally.n_bad_masks == 1 && told.tally.n_bad_items == 0);
    CHECK(strstr(quarantine_of("a"), "\"sa_2.jpg\",\"mask\":1,\"reason\":\"area is given as 121, "
                                     "the runs have 120\""));
    crafted_free(&jpeg);
}

static void test_bad_members(void)
{
    struct crafted c = { 0 };

    crafted_text(&c, "README", "x");
    crafted_text(&c, "../sa_8.jpg", "x");
    crafted_text(&c, "a/sa_8.jpg", "x");
    crafted_member(&c, "sa_9.jpg", '2', NULL, 0);
    crafted_pair(&c, 1, CRAFTED_PAIR);
    crafted_pair(&c, 1, CRAFTED_PAIR);
    crafted_pair(&c, 2, CRAFTED_PAIR);
    crafted_end(&c);
    save("members.tar", &c);
    CHECK(pack("a", "members.tar", NULL) == OK);
    CHECK(ids_are("a", "1 2 "));
    CHECK(told.tally.n_bad_items == 6 && lines_of(quarantine_of("a")) == 6);
    CHECK(strstr(quarantine_of("a"), "\"README\",\"reason\":\"not named sa_<number>"));
    CHECK(strstr(quarantine_of("a"), "\"../sa_8.jpg\",\"reason\":\"member is named by a path"));
    CHECK(strstr(quarantine_of("a"), "\"a/sa_8.jpg\",\"reason\":\"member is inside a folder"));
    CHECK(strstr(quarantine_of("a"), "\"sa_9.jpg\",\"reason\":\"member is a symbolic link"));
    CHECK(strstr(quarantine_of("a"), "\"sa_1.jpg\",\"reason\":\"duplicate"));
    CHECK(strstr(quarantine_of("a"), "\"sa_1.json\",\"reason\":\"duplicate"));
}

static void test_truncated(void)
{
    struct crafted c = { 0 }, zipped;

    for (int64_t id = 1; id <= 5; id++) crafted_pair(&c, id, CRAFTED_PAIR);
    crafted_end(&c);
    zipped = crafted_gzip(&c);
    c.n = c.n * 7 / 10; /* within the fourth pair */
    zipped.n = zipped.n * 7 / 10;
    save("cut.tar", &c);
    save("cut.tgz", &zipped);
    CHECK(pack("a", "cut.tar", NULL) == OK);
    CHECK(ids_are("a", "1 2 3 "));
    CHECK(strstr(quarantine_of("a"), "cut.tar\",\"reason\":\"truncated at byte "));
    CHECK(pack("b", "cut.tgz", NULL) == OK);
    CHECK(strncmp(ids_of("b"), "1 2 ", 4) == 0);
    CHECK(strstr(quarantine_of("b"), "cut.tgz\",\"reason\":\"gzip stream is truncated at byte "));
    save_text("no.tar", "this is no tar at all");
    CHECK(quietly(usual(), "c", "no.tar", NULL) == E_CORRUPT);
    CHECK(strstr(quarantine_of("c"), "no.tar\",\"reason\":\"truncated at byte 21"));
    CHECK(!exists("c/manifest.json"));
}

/* ---- options --------------------------------------------------------------------------------- */

static void test_resize(void)
{
    struct crafted c = { 0 }, large = crafted_jpeg(90, 160, 5);
    struct pack_options o = usual();
    struct shard_buffer b = { 0 };
    struct shard_set *set = NULL;
    struct picture p = { 0 };
    struct shard_record r;
    char json[1024], mask[300];
    const char *why;

    crafted_mask(mask, sizeof mask, 90, 160, 10, 70, 0);
    crafted_json(json, sizeof json, 7, 90, 160, mask);
    crafted_text(&c, "sa_7.json", json);
    crafted_member(&c, "sa_7.jpg", '0', large.p, large.n);
    crafted_pair(&c, 8, CRAFTED_PAIR);
    crafted_end(&c);
    save("two.tar", &c);
    o.resize = 64;
    CHECK(pack_with(o, "a", "two.tar", NULL) == OK);
    CHECK(shard_set_open(&set, in_root("a")) == OK && shard_set_resized_to(set) == 64);
    CHECK(shard_set_read(set, 0, &b, &r) == OK);
    CHECK(r.image_id == 7 && r.height == 90 && r.width == 160);
    CHECK(r.stored_height == 36 && r.stored_width == 64 && r.codec == SHARD_JPEG);
    CHECK(r.n_masks == 1 && r.mask_area[0] == 60 * 90 && r.mask_box[2] == 70);
    CHECK(picture_decode(r.image, r.image_bytes, 0, &p, &why) == OK);
    CHECK(p.height == 36 && p.width == 64);
    CHECK(shard_set_read(set, 1, &b, &r) == OK); /* already smaller: as it came */
    CHECK(r.image_id == 8 && r.stored_height == 20 && r.stored_width == 30);
    picture_destroy(&p);
    shard_buffer_destroy(&b);
    shard_set_close(set);
    crafted_free(&large);
}

static void save_three(void)
{
    CHECK(mkdir(in_root("tars"), 0777) == 0);
    save_pairs("tars/a.tar", 1, 7);
    save_pairs("tars/b.tar", 11, 14);
    save_pairs("tars/c.tar", 21, 25);
}

#define THREE "1 2 3 4 5 6 7 11 12 13 14 21 22 23 24 25 "

static void test_threads_and_shards(void)
{
    struct pack_options o = usual();
    char first[1 << 12];

    save_three();
    save_text("tars/d.tar", "broken"); /* something for the quarantine */
    o.shard_bytes = 2500;              /* two or three images */
    CHECK(pack_with(o, "one", "tars", NULL) == OK);
    CHECK(ids_are("one", THREE) && told.n_shards > 5 && told.n_parts == 4);
    snprintf(first, sizeof first, "%s", quarantine_of("one"));
    for (int n = 2; n <= 4; n++) {
        char name[16];

        snprintf(name, sizeof name, "t%d", n);
        o.n_threads = n;
        CHECK(pack_with(o, name, "tars", NULL) == OK);
        CHECK(hash_of(name) == hash_of("one"));
        CHECK(strcmp(first, quarantine_of(name)) == 0);
    }
}

/* ---- twice, and after an interruption -------------------------------------------------------- */

static bool stop_after(void *user, const struct pack_progress *p)
{
    return p->tally.n_images < *(const int *)user;
}

static bool die_after(void *user, const struct pack_progress *p)
{
    if (p->tally.n_images >= *(const int *)user) _exit(9);
    return true;
}

/* As quietly; what it said is in the file "said". */
static enum status saying(struct pack_options o, const char *out, const char *a)
{
    const int kept = dup(STDERR_FILENO), said = open(in_root("said"), O_CREAT | O_WRONLY, 0666);
    enum status s;

    dup2(said, STDERR_FILENO);
    log_set_level(LOG_INFO);
    s = pack_with(o, out, a, NULL);
    log_set_level(LOG_WARN);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(said);
    return s;
}

static void test_stop(void)
{
    struct pack_options o = usual();
    int n = 9; /* in the second tar */

    save_three();
    CHECK(pack("whole", "tars", NULL) == OK);
    o.progress = stop_after;
    o.user = &n;
    CHECK(saying(o, "a", "tars") == E_STOPPED);
    CHECK(strstr(text_of(in_root("said")), "stopped as asked after 1 of 3 parts"));
    CHECK(!strstr(text_of(in_root("said")), "error")); /* it was asked for */
    CHECK(!exists("a/manifest.json") && exists("a/shard-00000-000.h5"));
    CHECK(told.n_parts_done == 1);
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 1);
    CHECK(hash_of("a") == hash_of("whole"));
    CHECK(told.tally.n_images == 16 && told.tally.n_masks == 32);
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 3);
    CHECK(told.tally.n_images == 16 && told.tally.n_masks == 32 && told.n_shards == 3);
}

/* Killed after every number of images: the same command ends with the same bytes. */
static void test_kill(void)
{
    struct pack_options o = usual();

    save_three();
    o.shard_bytes = 2500;
    CHECK(pack_with(o, "whole", "tars", NULL) == OK);
    for (int n = 0; n <= 16; n++) {
        char name[16];
        int status = 0;
        pid_t child;

        snprintf(name, sizeof name, "k%d", n);
        fflush(stdout);
        child = fork();
        if (child == 0) {
            o.progress = die_after;
            o.user = &n;
            _exit(pack_with(o, name, "tars", NULL) == OK ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 9);
        CHECK(pack_with(o, name, "tars", NULL) == OK);
        CHECK(hash_of(name) == hash_of("whole"));
    }
}

/* What a killed pack may leave is removed, or written over. */
static void test_leftovers(void)
{
    save_three();
    CHECK(pack("a", "tars", NULL) == OK);
    save_text("a/shard-00001-000.h5.tmp", "half");
    save_text("a/shard-00001-007.h5", "stale");
    save_text("a/shard-00009-000.h5", "stale");
    save_text("a/.pack/part-00001.done.tmp", "half");
    CHECK(unlink(in_root("a/.pack/part-00001.done")) == 0);
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 2);
    CHECK(ids_are("a", THREE));
    CHECK(!exists("a/shard-00001-000.h5.tmp") && !exists("a/shard-00001-007.h5"));
    CHECK(!exists("a/shard-00009-000.h5"));
    save_text("a/.pack/part-00002.done", "samforge-pack-1 and rubbish"); /* as good as none */
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 2);
    CHECK(unlink(in_root("a/shard-00000-000.h5")) == 0); /* neither is one without its shards */
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 2);
    CHECK(ids_are("a", THREE));
}

/* A source that has changed is done again, the others not; more sources may be added behind. */
static void test_changed(void)
{
    save_three();
    CHECK(pack("a", "tars", NULL) == OK);
    save_pairs("tars/b.tar", 11, 12);
    CHECK(pack("a", "tars", NULL) == OK && told.n_parts_kept == 2);
    CHECK(ids_are("a", "1 2 3 4 5 6 7 11 12 21 22 23 24 25 "));
    save_pairs("more.tar", 31, 32);
    CHECK(pack("a", "tars", "more.tar") == OK && told.n_parts_kept == 3);
    CHECK(ids_are("a", "1 2 3 4 5 6 7 11 12 21 22 23 24 25 31 32 "));
    CHECK(quietly(usual(), "a", "tars", NULL) == E_USAGE); /* fewer */
    CHECK(quietly(usual(), "a", "more.tar", "tars") == E_USAGE);
    CHECK(ids_are("a", "1 2 3 4 5 6 7 11 12 21 22 23 24 25 31 32 "));
}

/* Of two images with one number the earlier source's stays, whatever is packed first. */
static void test_duplicate_ids(void)
{
    struct pack_options o = usual();

    save_pairs("a.tar", 1, 5);
    save_pairs("b.tar", 4, 8);
    CHECK(pack("a", "a.tar", "b.tar") == OK);
    CHECK(ids_are("a", "1 2 3 4 5 6 7 8 "));
    CHECK(told.tally.n_images == 8 && told.tally.n_masks == 16 && told.tally.n_bad_items == 2);
    CHECK(lines_of(quarantine_of("a")) == 2);
    CHECK(strstr(quarantine_of("a"), "b.tar\",\"member\":\"sa_4.jpg\",\"reason\":\"duplicate"));
    CHECK(pack("a", "a.tar", "b.tar") == OK && told.n_parts_kept == 2);
    o.n_threads = 2;
    CHECK(pack_with(o, "b", "a.tar", "b.tar") == OK && hash_of("a") == hash_of("b"));
    save_pairs("a.tar", 1, 4); /* number 5 is free now */
    CHECK(pack("a", "a.tar", "b.tar") == OK);
    CHECK(ids_are("a", "1 2 3 4 5 6 7 8 ") && told.tally.n_bad_items == 1);
    save_pairs("b.tar", 1, 3); /* nothing left of it */
    CHECK(pack("a", "a.tar", "b.tar") == OK);
    CHECK(ids_are("a", "1 2 3 4 ") && told.tally.n_bad_items == 3);
}

static void test_usage(void)
{
    int lock;

    save_pairs("a.tar", 1, 2);
    CHECK(quietly(usual(), "a", "nowhere.tar", NULL) == E_MISSING);
    save_text("micro.yaml", "model:\n  depth: 3\n");
    CHECK(quietly(usual(), "a", "micro.yaml", NULL) == E_USAGE);
    CHECK(!exists("a")); /* nothing is left of what was never begun */
    save_text("cut.tar", "model:\n  depth: 3\n");
    CHECK(quietly(usual(), "cut", "cut.tar", NULL) == E_CORRUPT);
    save_pairs("tar", 1, 2); /* known by what it begins with */
    CHECK(pack("odd", "tar", NULL) == OK);
    CHECK(quietly(usual(), "again", "odd", NULL) == E_USAGE); /* shards */
    CHECK(quietly(usual(), "tar", "a.tar", NULL) == E_USAGE); /* a file */
    CHECK(quietly(usual(), "tar/out", "a.tar", NULL) == E_USAGE);
    CHECK(mkdir(in_root("empty"), 0777) == 0);
    CHECK(quietly(usual(), "a", "empty", NULL) == E_USAGE);
    CHECK(mkdir(in_root("theirs"), 0777) == 0);
    save_text("theirs/thesis.txt", "x");
    CHECK(quietly(usual(), "theirs", "a.tar", NULL) == E_USAGE);
    CHECK(exists("theirs/thesis.txt") && !exists("theirs/.pack"));
    CHECK(pack("deep/er/out", "a.tar", NULL) == OK);
    lock = open(in_root("deep/er/out/.pack/lock"), O_RDWR | O_CLOEXEC);
    CHECK(lock >= 0 && flock(lock, LOCK_EX) == 0);
    CHECK(quietly(usual(), "deep/er/out", "a.tar", NULL) == E_USAGE);
    close(lock);
    CHECK(pack("deep/er/out", "a.tar", NULL) == OK);
}

int main(void)
{
    static void (*const tests[])(void) = {
        test_order,     test_far_pairs,          test_loose,     test_coco,        test_png,
        test_bad_pairs, test_verify_pixels,      test_bad_masks, test_bad_members, test_truncated,
        test_resize,    test_threads_and_shards, test_stop,      test_kill,        test_leftovers,
        test_changed,   test_duplicate_ids,      test_usage,
    };

    log_set_level(LOG_WARN);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        crafted_folder(root);
        tests[i]();
        crafted_remove(root);
    }
    return check_done("pack");
}
