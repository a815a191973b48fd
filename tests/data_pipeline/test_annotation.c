#include "data_pipeline/annotation.h"

#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

/* 3 × 4: rows 0011 / 0110 / 0100; area 5, box 1 0 3 3. */
#define NAME              "\"file_name\":\"sa_7.jpg\""
#define IMAGE             "\"image\":{\"image_id\":7,\"width\":4,\"height\":3," NAME "}"
#define SEGMENTATION      "\"segmentation\":{\"size\":[3,4],\"counts\":\"441M1\"}"
#define GOOD              "{" SEGMENTATION ",\"bbox\":[1,0,3,3],\"area\":5}"
#define WITH(annotations) "{" IMAGE ",\"annotations\":[" annotations "]}"

static enum status parse(const char *json, double max_area, struct annotation *a, struct masks *m,
                         char why[JSON_WHY])
{
    const size_t n = strlen(json);
    char *const exact = malloc(n);
    enum status s;

    memcpy(exact, json, n);
    why[0] = 0;
    s = annotation_read(exact, (int64_t)n, max_area, a, m, why);
    free(exact);
    return s;
}

static void test_good(void)
{
    struct masks m = { 0 };
    struct annotation a;
    char why[JSON_WHY];

    CHECK(parse(WITH(GOOD "," GOOD), 0.9, &a, &m, why) == OK);
    CHECK(a.image_id == 7 && a.height == 3 && a.width == 4);
    CHECK(strcmp(a.file_name, "sa_7.jpg") == 0);
    CHECK(m.n == 2 && m.n_broken == 0 && m.n_seen == 2);
    CHECK(m.end[0] == 5 && m.end[1] == 10 && memcmp(m.text, "441M1441M1", 10) == 0);
    CHECK(m.area[1] == 5 && m.box[4] == 1 && m.box[5] == 0 && m.box[6] == 4 && m.box[7] == 3);
    /* again into the same masks: nothing stays */
    CHECK(parse(WITH(""), 0.9, &a, &m, why) == OK && m.n == 0 && m.n_seen == 0);
    /* keys that are not used, whole numbers written as reals */
    CHECK(parse("{\"image\":{\"image_id\":7.0,\"width\":4,\"height\":3.0,\"file_name\":\"f\"},"
                "\"annotations\":[{" SEGMENTATION ",\"bbox\":[1.0,0.0,3.0,3.0],\"area\":5.0,"
                "\"id\":1,\"predicted_iou\":0.9,\"crop_box\":[0,0,4,3],"
                "\"point_coords\":[[1.5,2]]}]}",
                0.9, &a, &m, why) == OK);
    CHECK(m.n == 1 && m.n_broken == 0);
    masks_destroy(&m);
}

static void test_left_out(void)
{
    struct masks m = { 0 };
    struct annotation a;
    char why[JSON_WHY];

    CHECK(parse(WITH("{\"segmentation\":{\"size\":[3,4],\"counts\":\"<\"},"
                     "\"bbox\":[0,0,0,0],\"area\":0}," GOOD),
                0.9, &a, &m, why) == OK);
    CHECK(m.n == 1 && m.n_empty == 1 && m.n_large == 0 && m.n_seen == 2);
    CHECK(parse(WITH(GOOD), 0.4, &a, &m, why) == OK); /* 5 of 12 pixels */
    CHECK(m.n == 0 && m.n_large == 1);
    CHECK(parse(WITH(GOOD), 5.0 / 12.0, &a, &m, why) == OK && m.n == 1); /* not over */
    masks_destroy(&m);
}

/* One broken mask between two good ones: these stay. */
static void test_broken_masks(void)
{
    static const struct {
        const char *mask, *why;
    } v[] = {
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,3],\"area\":6}", "area is given as 6" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,3],\"area\":5.5}", "\"area\"" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,3],\"area\":-5}", "\"area\"" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,3]}", "\"area\"" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,2,2],\"area\":5}", "bbox is given as 1 0 2 2" },
        { "{" SEGMENTATION ",\"bbox\":[0,0,3,3],\"area\":5}", "bbox is given" },
        { "{" SEGMENTATION ",\"bbox\":[1,2.5,3,3],\"area\":5}", "bbox is given" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3],\"area\":5}", "\"bbox\"" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,\"3\"],\"area\":5}", "\"bbox\"" },
        { "{" SEGMENTATION ",\"bbox\":[1,0,3,1e10],\"area\":5}", "\"bbox\"" },
        { "{" SEGMENTATION ",\"area\":5}", "\"bbox\"" },
        { "{\"segmentation\":{\"size\":[4,3],\"counts\":\"441M1\"},\"bbox\":[1,0,3,3],"
          "\"area\":5}",
          "\"size\" is not" },
        { "{\"segmentation\":{\"counts\":\"441M1\"},\"bbox\":[1,0,3,3],\"area\":5}", "\"size\"" },
        { "{\"segmentation\":{\"size\":[3,4],\"counts\":[4,4,1,1,2]},\"bbox\":[1,0,3,3],"
          "\"area\":5}",
          "\"counts\"" },
        { "{\"segmentation\":{\"size\":[3,4],\"counts\":\"441\"},\"bbox\":[1,0,3,3],\"area\":5}",
          "do not fill" },
        { "{\"segmentation\":{\"size\":[3,4],\"counts\":\"441N1\"},\"bbox\":[1,0,3,3],"
          "\"area\":5}",
          "exceed" },
        { "{\"segmentation\":{\"size\":[3,4],\"counts\":\"441MP\"},\"bbox\":[1,0,3,3],"
          "\"area\":5}",
          "ends inside" },
        { "{\"segmentation\":[[0,0,1,1,2,2]],\"bbox\":[1,0,3,3],\"area\":5}", "\"segmentation\"" },
        { "{\"bbox\":[1,0,3,3],\"area\":5}", "\"segmentation\"" },
        { "3", "not an object" },
    };
    struct masks m = { 0 };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        char json[2048], why[JSON_WHY];
        struct annotation a;

        snprintf(json, sizeof json, "{" IMAGE ",\"annotations\":[" GOOD ",%s," GOOD "]}",
                 v[i].mask);
        CHECK(parse(json, 0.9, &a, &m, why) == OK);
        CHECK(m.n == 2 && m.n_broken == 1 && m.n_seen == 3);
        CHECK(m.broken[0].index == 1 && strstr(m.broken[0].why, v[i].why));
        if (!strstr(m.broken[0].why, v[i].why)) printf("%s\n", m.broken[0].why);
    }
    masks_destroy(&m);
}

/* A box that is not whole may be up to a pixel off. */
static void test_fractional_box(void)
{
    struct masks m = { 0 };
    struct annotation a;
    char why[JSON_WHY];

    CHECK(parse(WITH("{" SEGMENTATION ",\"bbox\":[0.5,0,3.25,2.5],\"area\":5}"), 0.9, &a, &m,
                why) == OK);
    CHECK(m.n == 1 && m.n_broken == 0);
    CHECK(parse(WITH("{" SEGMENTATION ",\"bbox\":[0.5,0,2.25,3],\"area\":5}"), 0.9, &a, &m, why) ==
          OK);
    CHECK(m.n == 0 && m.n_broken == 1);
    masks_destroy(&m);
}

static void test_refused(void)
{
    static const struct {
        const char *json, *why;
    } v[] = {
        { "", "JSON" },
        { "{", "JSON" },
        { "[]", "\"image\"" },
        { "{}", "\"image\"" },
        { "{" IMAGE "}", "\"annotations\"" },
        { "{" IMAGE ",\"annotations\":{}}", "\"annotations\"" },
        { WITH("") "x", "end of file" },
        { "{" IMAGE "," IMAGE ",\"annotations\":[]}", "duplicate" },
        { "{\"image\":{\"image_id\":7,\"image_id\":8,\"width\":4,\"height\":3,"
          "\"file_name\":\"x\"},\"annotations\":[]}",
          "duplicate" },
        { "{\"image\":{\"image_id\":-1,\"width\":4,\"height\":3,\"file_name\":\"x\"},"
          "\"annotations\":[]}",
          "image_id" },
        { "{\"image\":{\"image_id\":9007199254740992,\"width\":4,\"height\":3,"
          "\"file_name\":\"x\"},\"annotations\":[]}",
          "image_id" },
        { "{\"image\":{\"image_id\":\"7\",\"width\":4,\"height\":3,\"file_name\":\"x\"},"
          "\"annotations\":[]}",
          "image_id" },
        { "{\"image\":{\"image_id\":7,\"width\":0,\"height\":3,\"file_name\":\"x\"},"
          "\"annotations\":[]}",
          "width" },
        { "{\"image\":{\"image_id\":7,\"width\":4,\"height\":32769,\"file_name\":\"x\"},"
          "\"annotations\":[]}",
          "height" },
        { "{\"image\":{\"image_id\":7,\"width\":32768,\"height\":32768,\"file_name\":\"x\"},"
          "\"annotations\":[]}",
          "height" },
        { "{\"image\":{\"image_id\":7,\"width\":4,\"height\":3},\"annotations\":[]}", "file_name" },
        { "{\"image\":{\"image_id\":7,\"width\":4,\"height\":3,\"file_name\":\"a\\u0000b\"},"
          "\"annotations\":[]}",
          "JSON" },
        { "{\"image\":{\"image_id\":7,\"width\":4,\"height\":3,\"file_name\":\"\xff\"},"
          "\"annotations\":[]}",
          "JSON" },
        { "{\"a\":1111111111111111111111111111111111}", "overlong number" },
        { "{\"a\":\"abc", "inside a string" },
        { "{\"a\":\"abc\\\"", "inside a string" },
        { "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]", "too deep" },
        { "{\"a\":1e999}", "JSON" },
        { "{\"a\":NaN}", "JSON" },
    };
    struct masks m = { 0 };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        char why[JSON_WHY];
        struct annotation a;

        CHECK(parse(v[i].json, 0.9, &a, &m, why) == E_CORRUPT);
        CHECK(strstr(why, v[i].why));
        if (!strstr(why, v[i].why)) printf("%s: %s\n", v[i].json, why);
    }
    masks_destroy(&m);
}

/* A hundred million brackets, and half as many values: refused before they cost memory. */
static void test_bombs(void)
{
    const size_t n = 40 * 1000 * 1000;
    char *const text = malloc(n + 1);
    struct masks m = { 0 };
    struct annotation a;
    char why[JSON_WHY];

    memset(text, '[', n);
    CHECK(annotation_read(text, (int64_t)n, 0.9, &a, &m, why) == E_CORRUPT);
    CHECK(strstr(why, "too deep"));
    for (size_t i = 0; i < n; i++) text[i] = i % 2 ? ',' : '1';
    text[0] = '[';
    CHECK(annotation_read(text, (int64_t)n, 0.9, &a, &m, why) == E_CORRUPT);
    CHECK(strstr(why, "too many values"));
    CHECK(annotation_read(text, ANNOTATION_BYTES + 1, 0.9, &a, &m, why) == E_CORRUPT);
    CHECK(strstr(why, "larger than allowed"));
    free(text);
    masks_destroy(&m);
}

/* An image whose masks have all the text that a shard takes, as if there were so much. */
static void test_text_cap(void)
{
    const int32_t runs[] = { 4, 4, 4 };
    struct masks m = { 0 };

    masks_start(&m, 3, 4, 1);
    CHECK(masks_add_runs(&m, runs, 3) == OK && m.n == 1 && m.end[0] == 3);
    CHECK(masks_add_text(&m, "444", 3, NULL) == OK && m.n == 2 && m.end[1] == 6);
    m.n = 1;
    m.end[0] = MASKS_TEXT_MAX - 3; /* one more fits exactly */
    m.text = realloc(m.text, MASKS_TEXT_MAX + 64);
    m.text_room = MASKS_TEXT_MAX + 64;
    CHECK(masks_add_runs(&m, runs, 3) == OK && m.n == 2 && m.n_broken == 0);
    CHECK(masks_add_runs(&m, runs, 3) == OK && m.n == 2 && m.n_broken == 1);
    CHECK(masks_add_text(&m, "444", 3, NULL) == OK && m.n == 2 && m.n_broken == 2);
    CHECK(m.n_broken == 2 && strstr(m.broken[1].why, "more text than a shard may hold"));
    CHECK(m.end[1] == MASKS_TEXT_MAX && m.n_seen == 5);
    masks_destroy(&m);
}

static void test_names(void)
{
    CHECK(annotation_file_id("sa_0.jpg", ".jpg") == 0);
    CHECK(annotation_file_id("sa_000123.json", ".json") == 123);
    CHECK(annotation_file_id("sa_999999999999999.jpg", ".jpg") == 999999999999999);
    CHECK(annotation_file_id("sa_9999999999999990.jpg", ".jpg") == -1);
    CHECK(annotation_file_id("sa_.jpg", ".jpg") == -1);
    CHECK(annotation_file_id("sa_1.jpeg", ".jpg") == -1);
    CHECK(annotation_file_id("sa_1.jpg.jpg", ".jpg") == -1);
    CHECK(annotation_file_id("sa_-1.jpg", ".jpg") == -1);
    CHECK(annotation_file_id("sa_1.jpg", ".json") == -1);
    CHECK(annotation_file_id("xsa_1.jpg", ".jpg") == -1);
    CHECK(annotation_file_id("", ".jpg") == -1);
}

int main(void)
{
    test_good();
    test_left_out();
    test_broken_masks();
    test_fractional_box();
    test_refused();
    test_bombs();
    test_text_cap();
    test_names();
    return check_done("annotation");
}
