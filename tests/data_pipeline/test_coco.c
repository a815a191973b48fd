#include "data_pipeline/coco.h"
#include "data_pipeline/polygon.h"
#include "data_pipeline/rle.h"

#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE "{\"id\":5,\"height\":3,\"width\":4,\"file_name\":\"a/b.jpg\"}"

static enum status open_text(struct coco **c, const char *json, char **exact, char why[JSON_WHY])
{
    const size_t n = strlen(json);

    *exact = malloc(n + (n == 0));
    memcpy(*exact, json, n);
    *c = NULL;
    why[0] = 0;
    return coco_open_memory(c, *exact, (int64_t)n, why);
}

/* The masks of the one image whose annotations are given, each as its text, or why it is broken. */
static void expect(const char *annotations, const char *wanted)
{
    struct coco_scratch scratch = { 0 };
    char json[2048], why[JSON_WHY], text[1024] = "", *exact;
    struct masks m = { 0 };
    struct coco_image image;
    struct coco *c;
    int64_t n_crowd = 0;
    size_t at = 0;

    snprintf(json, sizeof json, "{\"images\":[" IMAGE "],\"annotations\":[%s]}", annotations);
    CHECK(open_text(&c, json, &exact, why) == OK);
    CHECK(coco_images(c) == 1 && coco_read(c, 0, 0.99, &image, &m, &scratch, &n_crowd, why) == OK);
    CHECK(image.id == 5 && image.height == 3 && image.width == 4);
    CHECK(strcmp(image.file_name, "a/b.jpg") == 0);
    for (int64_t i = 0; i < m.n; i++) {
        const int64_t begin = i ? m.end[i - 1] : 0;

        at += (size_t)snprintf(text + at, sizeof text - at, "%.*s|", (int)(m.end[i] - begin),
                               m.text + begin);
    }
    for (int64_t i = 0; i < m.n_broken; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "!%s|", m.broken[i].why);
    if (n_crowd) snprintf(text + at, sizeof text - at, "crowd %d", (int)n_crowd);
    if (strcmp(text, wanted) != 0) printf("%s\nwanted %s\nfound  %s\n", annotations, wanted, text);
    CHECK(strcmp(text, wanted) == 0);
    coco_close(c);
    masks_destroy(&m);
    coco_scratch_destroy(&scratch);
    free(exact);
}

static void test_masks(void)
{
    expect("", "");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":\"441M1\"}}", "441M1|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[4,4,1,1,2]}}", "441M1|");
    expect("{\"image_id\":5,\"iscrowd\":1,\"segmentation\":{\"size\":[3,4],\"counts\":[4,8]}},"
           "{\"image_id\":5,\"iscrowd\":0,\"segmentation\":{\"size\":[3,4],\"counts\":[4,8]}}",
           "48|crowd 1");
    /* columns 1 and 2, rows 0 and 1, and again as two halves that overlap, and as two that touch */
    expect("{\"image_id\":5,\"segmentation\":[[1,0,3,0,3,2,1,2]]}", "32103|");
    expect("{\"image_id\":5,\"segmentation\":[[1,0,2.6,0,2.6,2,1,2],[1.5,0,3,0,3,2,1.5,2]]}",
           "32103|");
    expect("{\"image_id\":5,\"segmentation\":[[2,0,3,0,3,2,2,2],[1,0,2,0,2,2,1,2]]}", "32103|");
    expect("{\"image_id\":5,\"segmentation\":[[0,0,2,0,2,3,0,3]]}", "066|"); /* one run */
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[4,3],\"counts\":[12]}}",
           "!\"size\" is not the image's 3 4|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[4,9]}}",
           "!runs exceed the mask's size|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[4,7]}}",
           "!runs do not fill the mask's size|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[13,-1]}}",
           "!runs exceed the mask's size|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[1,-1,12]}}",
           "!\"counts\" has something else than whole numbers from 0|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":[1.5,10.5]}}",
           "!\"counts\" has something else than whole numbers from 0|");
    expect("{\"image_id\":5,\"segmentation\":{\"size\":[3,4],\"counts\":7}}",
           "!\"counts\" is missing or neither text nor list|");
    expect("{\"image_id\":5,\"segmentation\":[]}", "!\"segmentation\" is empty|");
    expect("{\"image_id\":5,\"segmentation\":[[1,2,3,4]]}",
           "!polygon has fewer than three points, or half a point|");
    expect("{\"image_id\":5,\"segmentation\":[[1,2,3,4,5,6,7]]}",
           "!polygon has fewer than three points, or half a point|");
    expect("{\"image_id\":5,\"segmentation\":[[1,2,3,4,5,\"6\"]]}",
           "!polygon has something else than finite numbers|");
    expect("{\"image_id\":5,\"segmentation\":[[1,2,3,4,5,2e9]]}",
           "!polygon has something else than finite numbers|");
    expect("{\"image_id\":5,\"segmentation\":[3]}",
           "!polygon has fewer than three points, or half a point|");
    expect("{\"image_id\":5}", "!\"segmentation\" is missing or neither polygons nor RLE|");
    expect("{\"image_id\":5,\"iscrowd\":2}", "!\"iscrowd\" is neither 0 nor 1|");
    expect("{\"image_id\":5,\"iscrowd\":2,\"iscrowd\":0}", ""); /* a stray: it cannot be parsed */
    expect("{\"image_id\":5,\"segmentation\":[[0,0,0,3,0,1]]}", ""); /* without area: empty */
}

static void test_file(void)
{
    static const struct {
        const char *json, *why;
    } v[] = {
        { "", "does not start" },
        { "[]", "does not start" },
        { "{}", "malformed" },
        { "{\"images\":[]}", "no \"images\" or no \"annotations\"" },
        { "{\"images\":[],\"annotations\":[]} x", "behind its end" },
        { "{\"images\":[],\"annotations\":[]", "lacks a }" },
        { "{\"images\":[],\"annotations\":[{]}", "lacks a ]" },
        { "{\"images\":[{\"id\":1},\"annotations\":[]}", "lacks a ]" },
        { "{\"images\":[],\"images\":[],\"annotations\":[]}", "twice" },
        { "{\"images\":{},\"annotations\":[]}", "not a list" },
        { "{\"images\":[,],\"annotations\":[]}", "malformed" },
        { "{\"images\":[{}", "lacks a ]" },
        { "{\"images\":[{\"id\":\"", "truncated" },
        { "{\"other\":[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}", "malformed" },
    };
    char why[JSON_WHY], *exact;
    struct coco *c;

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        CHECK(open_text(&c, v[i].json, &exact, why) == E_CORRUPT && c == NULL);
        CHECK(strstr(why, v[i].why));
        if (!strstr(why, v[i].why)) printf("%s: %s\n", v[i].json, why);
        free(exact);
    }
    CHECK(open_text(&c, " { \"info\" : {\"a\":[1,2]}, \"annotations\" : [ ] ,\"images\":[ ] } ",
                    &exact, why) == OK);
    CHECK(coco_images(c) == 0);
    coco_close(c);
    free(exact);
}

/* Broken images, and annotations of none: each is told, the others are not harmed. */
static void test_images(void)
{
    static const char json[] =
        "{\"annotations\":["
        "{\"image_id\":9,\"segmentation\":{\"size\":[3,4],\"counts\":[4,8]}},"
        "{\"image_id\":6,\"segmentation\":{\"size\":[3,4],\"counts\":[3,9]}},"
        "{\"image_id\":\"6\"},17,"
        "{\"image_id\":6,\"segmentation\":{\"size\":[3,4],\"counts\":[4,8]}}],"
        "\"images\":[{\"id\":5,\"height\":3,\"width\":4},"
        "{\"id\":6,\"height\":3,\"width\":4,\"file_name\":\"x.jpg\"},"
        "{\"id\":6,\"height\":3,\"width\":4,\"file_name\":\"y.jpg\"},"
        "{\"id\":7,\"height\":3,\"width\":4,\"file_name\":\"../x.jpg\"},"
        "{\"id\":8,\"height\":3,\"width\":4,\"file_name\":\"/x.jpg\"},"
        "{\"id\":10,\"height\":3,\"width\":4,\"file_name\":\"a/../x.jpg\"},"
        "{\"id\":11,\"height\":3,\"width\":4,\"file_name\":\"\"},"
        "{\"id\":12,\"height\":0,\"width\":4,\"file_name\":\"x.jpg\"},"
        "{\"id\":-1,\"height\":3,\"width\":4,\"file_name\":\"x.jpg\"},"
        "{\"id\":13,\"id\":14}, null,"
        "{\"id\":15,\"height\":3,\"width\":4,\"file_name\":\"..x..jpg\"}]}";
    static const char *const wanted[] = { "\"file_name\" is missing",
                                          NULL,
                                          "duplicate image id",
                                          "absolute or has ..",
                                          "absolute or has ..",
                                          "absolute or has ..",
                                          "absolute or has ..",
                                          "\"height\"",
                                          "\"id\"",
                                          "duplicate",
                                          "",
                                          NULL };
    struct coco_scratch scratch = { 0 };
    char why[JSON_WHY], *exact;
    struct masks m = { 0 };
    struct coco_image image;
    const char *reason;
    int64_t n_crowd = 0;
    struct coco *c;

    CHECK(open_text(&c, json, &exact, why) == OK);
    CHECK(coco_images(c) == (int64_t)(sizeof wanted / sizeof *wanted));
    for (int64_t i = 0; i < coco_images(c); i++) {
        const enum status s = coco_read(c, i, 0.99, &image, &m, &scratch, &n_crowd, why);

        CHECK(wanted[i] ? s == E_CORRUPT && strstr(why, wanted[i]) : s == OK);
        if (i == 1) CHECK(m.n == 2 && memcmp(m.text, "3948", 4) == 0); /* in the file's order */
        if (i == 11) CHECK(m.n == 0);
    }
    CHECK(coco_strays(c) == 3);
    CHECK(coco_stray(c, 0, &reason) == 0 && strstr(reason, "no image"));
    CHECK(coco_stray(c, 1, &reason) == 2 && strstr(reason, "whole number"));
    CHECK(coco_stray(c, 2, &reason) == 3 && strstr(reason, "object"));
    coco_close(c);
    masks_destroy(&m);
    coco_scratch_destroy(&scratch);
    free(exact);
}

/* ---- polygons -------------------------------------------------------------------------------- */

enum { SIDE = 24, POINTS = 12 };

/* The rule itself, pixel by pixel: a ray upwards from the centre. */
static int inside(const double *xy, int n, double x, double y)
{
    int n_crossed = 0;

    for (int i = 0; i < n; i++) {
        const double *const a = xy + 2 * i, *const b = xy + 2 * ((i + 1) % n);
        const double *const l = a[0] <= b[0] ? a : b, *const r = l == a ? b : a;

        if (!(l[0] <= x && x < r[0])) continue;
        n_crossed += l[1] + (x - l[0]) * ((r[1] - l[1]) / (r[0] - l[0])) <= y;
    }
    return n_crossed % 2;
}

static void test_polygons(void)
{
    const struct rng_key key = rng_stream(1, RNG_TEST, 1, 0);

    for (uint64_t k = 0; k < 600; k++) {
        const struct rng_key sub = rng_sub(key, k);
        const int32_t h = 1 + (int32_t)rng_below(sub, 0, SIDE);
        const int32_t w = 1 + (int32_t)rng_below(sub, 1, SIDE);
        const int n_outlines = 1 + (int)rng_below(sub, 2, 3);
        uint8_t pixels[SIDE * SIDE];
        struct polygon p = { 0 };
        int64_t sum = 0;

        p.xy = malloc(3 * POINTS * 2 * sizeof *p.xy);
        p.end = malloc(3 * sizeof *p.end);
        p.xy_room = 3 * POINTS * 2;
        p.end_room = 3;
        for (int o = 0; o < n_outlines; o++) {
            const int64_t first = o ? p.end[o - 1] : 0, n = 3 + (int64_t)rng_below(sub, 3, 10);

            for (int64_t i = 2 * first; i < 2 * (first + n); i++) {
                const double v = (double)rng_uniform(sub, 10 + (uint64_t)i) * (SIDE + 8) - 4;

                /* often on pixel edges and centres, where rounding shows */
                p.xy[i] = rng_below(sub, 200 + (uint64_t)i, 2) ? floor(v * 2) / 2 : v;
            }
            p.end[p.n++] = first + n;
        }
        CHECK(polygon_to_runs(&p, h, w) == OK);
        for (int64_t i = 0; i < p.n_runs; i++) sum += p.runs[i];
        CHECK(sum == (int64_t)h * w);
        rle_to_pixels(p.runs, p.n_runs, h, w, pixels);
        for (int32_t y = 0; y < h; y++)
            for (int32_t x = 0; x < w; x++) {
                int in = 0;

                for (int o = 0; o < n_outlines; o++) {
                    const int64_t first = o ? p.end[o - 1] : 0;

                    in |= inside(p.xy + 2 * first, (int)(p.end[o] - first), x + 0.5, y + 0.5);
                }
                CHECK(pixels[y * w + x] == in);
            }
        polygon_destroy(&p);
    }
}

/* Shared edges: every pixel of a fan of triangles round a point is in exactly one of them. */
static void test_neighbours(void)
{
    int32_t count[SIDE * SIDE] = { 0 };
    const double corner[5][2] = { { 0, 0 }, { SIDE, 0 }, { SIDE, SIDE }, { 0, SIDE }, { 0, 0 } };

    for (int k = 0; k < 4; k++) {
        double xy[6] = {
            7.3, 11.9, corner[k][0], corner[k][1], corner[k + 1][0], corner[k + 1][1]
        };
        int64_t end = 3;
        struct polygon p = { .xy = xy, .end = &end, .n = 1, .xy_room = 6, .end_room = 1 };
        uint8_t pixels[SIDE * SIDE];

        CHECK(polygon_to_runs(&p, SIDE, SIDE) == OK);
        rle_to_pixels(p.runs, p.n_runs, SIDE, SIDE, pixels);
        for (int i = 0; i < SIDE * SIDE; i++) count[i] += pixels[i];
        p.xy = NULL;
        p.end = NULL;
        polygon_destroy(&p);
    }
    for (int i = 0; i < SIDE * SIDE; i++) CHECK(count[i] == 1);
}

/* A zigzag across a wide image asks for more crossings than there may be. */
static void test_intricate(void)
{
    enum { ZIGZAGS = 1000 };
    int64_t end = ZIGZAGS;
    double *const xy = malloc(2 * ZIGZAGS * sizeof *xy);
    struct polygon p = { .xy = xy, .end = &end, .n = 1, .xy_room = 2 * ZIGZAGS, .end_room = 1 };

    for (int i = 0; i < ZIGZAGS; i++) {
        xy[2 * i] = i % 2 ? 20000 : 0;
        xy[2 * i + 1] = i;
    }
    CHECK(polygon_to_runs(&p, 1000, 20000) == E_SHAPE);
    p.xy = NULL;
    p.end = NULL;
    polygon_destroy(&p);
    free(xy);
}

/* So do many flat outlines that hold no pixel at all. */
static void test_many_flat(void)
{
    enum { OUTLINES = 30 };
    double xy[OUTLINES * 6];
    int64_t end[OUTLINES];
    struct polygon p = { .xy = xy, .end = end, .xy_room = OUTLINES * 6, .end_room = OUTLINES };

    for (int i = 0; i < OUTLINES; i++) {
        memcpy(xy + 6 * i, (const double[]){ 0, 1, 20000, 1, 10000, 1 }, 6 * sizeof *xy);
        end[i] = 3 * (i + 1);
    }
    p.n = OUTLINES - 5; /* 40,000 crossings each: just within */
    CHECK(polygon_to_runs(&p, 1000, 20000) == OK && p.n_runs == 1);
    p.n = OUTLINES;
    CHECK(polygon_to_runs(&p, 1000, 20000) == E_SHAPE);
    p.xy = NULL;
    p.end = NULL;
    polygon_destroy(&p);
}

int main(void)
{
    test_masks();
    test_file();
    test_images();
    test_polygons();
    test_neighbours();
    test_intricate();
    test_many_flat();
    return check_done("coco");
}
