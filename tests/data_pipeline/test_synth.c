/* The synthetic set: the same bytes whatever the threads, masks that are what their JSON says, and
 * shapes that cannot be guessed from a box. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data_pipeline/rle.h"
#include "data_pipeline/synth.h"
#include "data_pipeline/tar_write.h"

enum { PATH = 128, TAR_BLOCK = 512 };

static const struct synth_options options = {
    .seed = 5, .width = 160, .height = 120, .n_objects = 4, .quality = 85
};

static char base[] = "/tmp/test_synth.XXXXXX";

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

static void write_set(const char *folder, int64_t n_images, int64_t per_tar, int n_threads)
{
    const struct synth_set set = { .options = options,
                                   .first_id = 70,
                                   .n_images = n_images,
                                   .per_tar = per_tar,
                                   .n_threads = n_threads };

    assert_int_equal(synth_write(folder, &set), OK);
}

static void remove_set(const char *folder, int n_tars)
{
    char path[3 * PATH];

    for (int i = 0; i < n_tars; i++) {
        snprintf(path, sizeof path, "%s/sa_%06d.tar", folder, i);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0); /* nothing else lies there */
}

static void test_threads(void **state)
{
    char folder[2][PATH], path[3 * PATH];

    (void)state;
    for (int k = 0; k < 2; k++) {
        snprintf(folder[k], PATH, "%s/threads%d", base, k + 1);
        write_set(folder[k], 11, 4, k + 1);
    }
    for (int i = 0; i < 3; i++) {
        size_t n[2];
        char *bytes[2];

        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/sa_%06d.tar", folder[k], i);
            bytes[k] = slurp(path, &n[k]);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(bytes[0], bytes[1], n[0]);
        free(bytes[0]);
        free(bytes[1]);
    }
    for (int k = 0; k < 2; k++) remove_set(folder[k], 3);
}

/* An image is the same in whatever set, after whatever other image. */
static void test_pure(void **state)
{
    struct synth_scene *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    struct synth_options other = options;

    (void)state;
    assert_true(a && b);
    assert_int_equal(synth_draw(&options, 3, a), OK);
    assert_int_equal(synth_draw(&options, 4, a), OK);
    assert_int_equal(synth_draw(&options, 4, b), OK);
    assert_int_equal(a->picture.height, b->picture.height);
    assert_int_equal(a->picture.width, b->picture.width);
    const size_t n = (size_t)a->picture.height * (size_t)a->picture.width * 3;
    assert_memory_equal(a->picture.rgb, b->picture.rgb, n);
    other.seed++;
    assert_int_equal(synth_draw(&other, 4, b), OK);
    assert_true(a->picture.width != b->picture.width || a->picture.height != b->picture.height ||
                memcmp(a->picture.rgb, b->picture.rgb, n) != 0);
    synth_scene_destroy(a);
    synth_scene_destroy(b);
    free(a);
    free(b);
}

static int64_t get(const json_t *o, const char *key)
{
    assert_true(json_is_integer(json_object_get(o, key)));
    return json_integer_value(json_object_get(o, key));
}

static int64_t item(const json_t *o, const char *key, size_t i)
{
    const json_t *v = json_array_get(json_object_get(o, key), i);

    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

/* Decodes one annotation and checks every key against its pixels. */
static void check_annotation(const json_t *o, int32_t h, int32_t w, const uint8_t *want)
{
    const json_t *segmentation = json_object_get(o, "segmentation");
    const char *text = json_string_value(json_object_get(segmentation, "counts")), *why = "";
    int32_t *runs = malloc(((size_t)h * (size_t)w + 1) * sizeof *runs);
    uint8_t *pixels = malloc((size_t)h * (size_t)w);
    int64_t n_runs;

    assert_true(text && runs && pixels);
    assert_int_equal(item(segmentation, "size", 0), h);
    assert_int_equal(item(segmentation, "size", 1), w);
    assert_int_equal(
        rle_decode(text, (int64_t)strlen(text), h, w, runs, (int64_t)h * w + 1, &n_runs, &why), OK);
    rle_to_pixels(runs, n_runs, h, w, pixels);
    assert_memory_equal(pixels, want, (size_t)h * (size_t)w);

    const struct rle_extent e = rle_extent(runs, n_runs, h);
    assert_true(e.area >= 100);
    assert_int_equal(get(o, "area"), e.area);
    assert_int_equal(item(o, "bbox", 0), e.x0);
    assert_int_equal(item(o, "bbox", 1), e.y0);
    assert_int_equal(item(o, "bbox", 2), e.x1 - e.x0);
    assert_int_equal(item(o, "bbox", 3), e.y1 - e.y0);
    assert_int_equal(item(o, "crop_box", 2), w);
    assert_int_equal(item(o, "crop_box", 3), h);
    assert_true(json_real_value(json_object_get(o, "predicted_iou")) >= 0.88);
    assert_true(json_real_value(json_object_get(o, "stability_score")) >= 0.95);

    const json_t *point = json_array_get(json_object_get(o, "point_coords"), 0);
    const int32_t x = (int32_t)json_real_value(json_array_get(point, 0));
    const int32_t y = (int32_t)json_real_value(json_array_get(point, 1));
    assert_true(x >= 0 && x < w && y >= 0 && y < h && pixels[y * w + x]);
    free(runs);
    free(pixels);
}

static void test_json(void **state)
{
    struct synth_scene *s = calloc(1, sizeof *s);
    int64_t n_masks = 0, n_images = 0, overlapping = 0;

    (void)state;
    assert_non_null(s);
    for (int64_t id = 0; id < 25; id++) {
        char *text, name[64];
        int64_t n;

        assert_int_equal(synth_draw(&options, id, s), OK);
        const int32_t h = s->picture.height, w = s->picture.width;
        uint8_t *pixels = malloc((size_t)h * (size_t)w);
        assert_non_null(pixels);
        assert_true(w >= 80 && w <= 200 && h >= 80 && h <= 200);
        assert_int_equal(synth_json(s, &text, &n), OK);
        json_t *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        const json_t *image = json_object_get(root, "image");
        const json_t *annotations = json_object_get(root, "annotations");
        snprintf(name, sizeof name, "sa_%lld.jpg", (long long)id);
        assert_int_equal(get(image, "image_id"), id);
        assert_int_equal(get(image, "width"), w);
        assert_int_equal(get(image, "height"), h);
        assert_string_equal(json_string_value(json_object_get(image, "file_name")), name);
        assert_int_equal(json_array_size(annotations), s->n_masks);
        for (int64_t m = 0; m < s->n_masks; m++) {
            synth_mask_pixels(s, m, pixels);
            check_annotation(json_array_get(annotations, (size_t)m), h, w, pixels);
            overlapping += m > 0 && s->mask[m].first <= s->mask[m - 1].last &&
                           s->mask[m].last >= s->mask[m - 1].first;
        }
        n_masks += s->n_masks;
        n_images += s->n_masks > 0;
        json_decref(root);
        free(text);
        free(pixels);
    }
    assert_int_equal(n_images, 25);
    assert_true(n_masks > 3 * 25);
    assert_true(overlapping > 10); /* parts within wholes */
    synth_scene_destroy(s);
    free(s);
}

/* Masks fill about half of their boxes: neither the box nor an ellipse is the answer. */
static void test_not_boxes(void **state)
{
    struct synth_scene *s = calloc(1, sizeof *s);
    double filled = 0, share = 0;
    int64_t n_masks = 0;

    (void)state;
    assert_non_null(s);
    for (int64_t id = 0; id < 40; id++) {
        assert_int_equal(synth_draw(&options, id, s), OK);
        const int32_t h = s->picture.height, w = s->picture.width;
        uint8_t *pixels = malloc((size_t)h * (size_t)w);
        int32_t *runs = malloc(((size_t)h * (size_t)w + 1) * sizeof *runs);
        int64_t n_runs;

        assert_true(pixels && runs);
        for (int64_t m = 0; m < s->n_masks; m++, n_masks++) {
            synth_mask_pixels(s, m, pixels);
            assert_int_equal(rle_from_pixels(pixels, h, w, runs, (int64_t)h * w + 1, &n_runs), OK);
            const struct rle_extent e = rle_extent(runs, n_runs, h);
            filled += (double)e.area / ((double)(e.x1 - e.x0) * (e.y1 - e.y0));
            share += (double)e.area / ((double)h * w);
        }
        free(pixels);
        free(runs);
    }
    filled /= (double)n_masks;
    share /= (double)n_masks;
    assert_true(filled > 0.35 && filled < 0.62);
    assert_true(share > 0.03 && share < 0.12);
    synth_scene_destroy(s);
    free(s);
}

/* Sides differ by a fifth, and stay within the limits where their mean is a limit. */
static void test_sides(void **state)
{
    const struct synth_options strip = {
        .seed = 5, .width = SYNTH_SIDE_MAX, .height = SYNTH_SIDE_MIN, .n_objects = 1, .quality = 85
    };
    struct synth_scene *s = calloc(1, sizeof *s);
    int64_t n_max = 0, n_min = 0;

    (void)state;
    assert_non_null(s);
    for (int64_t id = 0; id < 12; id++) {
        assert_int_equal(synth_draw(&strip, id, s), OK);
        const int32_t h = s->picture.height, w = s->picture.width;

        assert_in_range(w > h ? w : h, SYNTH_SIDE_MAX * 4 / 5, SYNTH_SIDE_MAX);
        assert_in_range(w > h ? h : w, SYNTH_SIDE_MIN, SYNTH_SIDE_MIN * 6 / 5);
        n_max += w == SYNTH_SIDE_MAX || h == SYNTH_SIDE_MAX;
        n_min += w == SYNTH_SIDE_MIN || h == SYNTH_SIDE_MIN;
    }
    assert_true(n_max > 0 && n_max < 12 && n_min > 0 && n_min < 12);
    synth_scene_destroy(s);
    free(s);
}

static void test_refuses_mixing(void **state)
{
    char folder[PATH], deep[PATH];

    (void)state;
    snprintf(deep, sizeof deep, "%s/a", base);
    snprintf(folder, sizeof folder, "%s/a/b", base); /* folders above are made */
    write_set(folder, 1, 1, 1);
    const struct synth_set set = {
        .options = options, .n_images = 1, .per_tar = 1, .n_threads = 1
    };
    assert_int_equal(synth_write(folder, &set), E_USAGE);
    assert_int_equal(synth_write("/proc/none/such", &set), E_IO);
    remove_set(folder, 1);
    assert_int_equal(rmdir(deep), 0);
}

/* ustar: names, octal sizes, checksums, padding, two blocks of zeros at the end. */
static void test_tar(void **state)
{
    static const char name[] = "t.tar";
    struct tar_writer *w;
    char path[PATH];
    size_t n;

    (void)state;
    assert_int_equal(tar_writer_create(&w, base, name), OK);
    assert_int_equal(tar_writer_add(w, "one", "abc", 3), OK);
    tar_writer_destroy(w);
    assert_int_equal(rmdir(base), 0); /* not committed: nothing is left */
    assert_int_equal(mkdir(base, 0700), 0);
    assert_int_equal(tar_writer_create(&w, base, name), OK);
    assert_int_equal(tar_writer_add(w, "one", "abc", 3), OK);
    assert_int_equal(tar_writer_add(w, "empty", "", 0), OK);
    assert_int_equal(tar_writer_commit(w), OK);
    tar_writer_destroy(w);
    snprintf(path, sizeof path, "%s/%s", base, name);
    char *bytes = slurp(path, &n);
    assert_int_equal(n, 5 * TAR_BLOCK);
    assert_string_equal(bytes, "one");
    assert_memory_equal(bytes + 124, "00000000003", 12);
    assert_memory_equal(bytes + 257, "ustar\00000", 8);
    unsigned sum = 0;
    for (int i = 0; i < TAR_BLOCK; i++) sum += i >= 148 && i < 156 ? ' ' : (unsigned char)bytes[i];
    assert_int_equal(strtoul(bytes + 148, NULL, 8), sum);
    assert_memory_equal(bytes + TAR_BLOCK, "abc\0", 4);
    assert_string_equal(bytes + 2 * TAR_BLOCK, "empty");
    for (size_t i = 3 * TAR_BLOCK; i < n; i++) assert_int_equal(bytes[i], 0);
    free(bytes);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tar_writer_create(&w, "/tmp/no such folder", name), E_IO);
}

static int make_base(void **state)
{
    (void)state;
    return mkdtemp(base) ? 0 : -1;
}

static int remove_base(void **state)
{
    (void)state;
    return rmdir(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_pure),
        cmocka_unit_test(test_json),           cmocka_unit_test(test_not_boxes),
        cmocka_unit_test(test_refuses_mixing), cmocka_unit_test(test_tar),
        cmocka_unit_test(test_sides),
    };

    return cmocka_run_group_tests(tests, make_base, remove_base);
}
