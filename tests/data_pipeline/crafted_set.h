/* Small SA-1B pairs for tests: real JPEGs, JSONs that are right or wrong in one place. */
#ifndef TESTS_DATA_PIPELINE_CRAFTED_SET_H
#define TESTS_DATA_PIPELINE_CRAFTED_SET_H

#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"
#include "tests/data_pipeline/crafted_tar.h"

/* A JPEG of h×w pixels that differs with `look`. */
static inline struct crafted crafted_jpeg(int32_t h, int32_t w, int look)
{
    struct picture p = { 0 };
    struct crafted c = { 0 };

    ASSERT(picture_reserve(&p, h, w) == OK);
    for (int32_t i = 0; i < h * w; i++) {
        p.rgb[3 * i] = (uint8_t)(i % w * 3 + look * 29);
        p.rgb[3 * i + 1] = (uint8_t)(i / w * 3 + look * 7);
        p.rgb[3 * i + 2] = (uint8_t)(look * 51);
    }
    ASSERT(picture_encode_jpeg(&p, 90, &c.p, &c.n) == OK);
    picture_destroy(&p);
    return c;
}

/* "{"segmentation": …}" of the rectangle of columns x0…x1 and all rows, into text; wrong by `off`
 * pixels in its area. */
static inline void crafted_mask(char *text, size_t room, int32_t h, int32_t w, int32_t x0,
                                int32_t x1, int off)
{
    const int32_t runs[3] = { x0 * h, (x1 - x0) * h, (w - x1) * h };
    char rle[64], escaped[128];
    int64_t n = 0, at = 0;

    ASSERT(rle_encode(runs, runs[2] ? 3 : 2, rle, sizeof rle, &n) == OK);
    for (int64_t i = 0; i < n; i++) {
        if (rle[i] == '\\') escaped[at++] = '\\';
        escaped[at++] = rle[i];
    }
    escaped[at] = 0;
    snprintf(text, room,
             "{\"segmentation\":{\"size\":[%d,%d],\"counts\":\"%s\"},\"bbox\":[%d,0,%d,%d],"
             "\"area\":%d}",
             h, w, escaped, x0, x1 - x0, h, (x1 - x0) * h + off);
}

/* The JSON of image id, with these annotations. */
static inline void crafted_json(char *text, size_t room, int64_t id, int32_t h, int32_t w,
                                const char *annotations)
{
    snprintf(text, room,
             "{\"image\":{\"image_id\":%lld,\"width\":%d,\"height\":%d,"
             "\"file_name\":\"sa_%lld.jpg\"},\"annotations\":[%s]}",
             (long long)id, w, h, (long long)id, annotations);
}

enum crafted_half { CRAFTED_JPG = 1, CRAFTED_JSON = 2, CRAFTED_PAIR = 3 };

/* sa_<id>.jpg and sa_<id>.json of 20 × 30 pixels with two masks, or one of the two members. */
static inline void crafted_pair(struct crafted *tar, int64_t id, enum crafted_half halves)
{
    char name[64], json[1024], masks[640], one[300], two[300];

    crafted_mask(one, sizeof one, 20, 30, (int32_t)(id % 10), (int32_t)(id % 10) + 5, 0);
    crafted_mask(two, sizeof two, 20, 30, 1, 27, 0);
    snprintf(masks, sizeof masks, "%s,%s", one, two);
    if (halves & CRAFTED_JPG) {
        struct crafted jpeg = crafted_jpeg(20, 30, (int)(id % 97));

        snprintf(name, sizeof name, "./sa_%lld.jpg", (long long)id);
        crafted_member(tar, name, '0', jpeg.p, jpeg.n);
        crafted_free(&jpeg);
    }
    if (halves & CRAFTED_JSON) {
        snprintf(name, sizeof name, "./sa_%lld.json", (long long)id);
        crafted_json(json, sizeof json, id, 20, 30, masks);
        crafted_text(tar, name, json);
    }
}

#endif
