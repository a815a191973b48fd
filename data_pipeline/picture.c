#include "data_pipeline/picture_codec.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t png_magic[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n' };

static const char *const unknown = "neither JPEG nor PNG: the first bytes fit no format";

static bool is_jpeg(const uint8_t *bytes, int64_t n)
{
    return n >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF;
}

static bool is_png(const uint8_t *bytes, int64_t n)
{
    return n >= (int64_t)sizeof png_magic && memcmp(bytes, png_magic, sizeof png_magic) == 0;
}

void picture_destroy(struct picture *p)
{
    if (!p) return;
    free(p->rgb);
    *p = (struct picture){ 0 };
}

enum status picture_reserve(struct picture *p, int32_t height, int32_t width)
{
    const int64_t bytes = (int64_t)height * width * 3;

    if (height < 1 || width < 1 || height > PICTURE_SIDE_MAX || width > PICTURE_SIDE_MAX ||
        bytes / 3 > PICTURE_PIXELS_MAX)
        FAIL(E_SHAPE, "a picture of %d×%d pixels; sides are 1 to %d, pixels %lld at most", width,
             height, PICTURE_SIDE_MAX, (long long)PICTURE_PIXELS_MAX);
    if (bytes > p->room) {
        free(p->rgb);
        p->room = 0;
        p->rgb = malloc((size_t)bytes);
        if (!p->rgb) FAIL(E_MEMORY, "a picture of %lld bytes", (long long)bytes);
        p->room = bytes;
    }
    p->height = height;
    p->width = width;
    return OK;
}

enum status picture_plausible(int64_t height, int64_t width, int64_t n, int64_t per_byte,
                              const char **why)
{
    if (height < 1 || width < 1) PICTURE_REFUSE(why, "the header says a side of 0 pixels");
    if (height > PICTURE_SIDE_MAX || width > PICTURE_SIDE_MAX)
        PICTURE_REFUSE(why, "a side is longer than 65500 pixels");
    if (height * width > PICTURE_PIXELS_MAX)
        PICTURE_REFUSE(why, "more than 2^26 pixels; scale the image down first");
    if (height * width / per_byte > n)
        PICTURE_REFUSE(why, "the header promises more pixels than so few bytes can hold");
    return OK;
}

enum status picture_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                         const char **why)
{
    if (is_jpeg(bytes, n)) return picture_jpeg_size(bytes, n, height, width, why);
    if (is_png(bytes, n)) return picture_png_size(bytes, n, height, width, why);
    PICTURE_REFUSE(why, unknown);
}

enum status picture_decode(const uint8_t *bytes, int64_t n, int32_t min_long, struct picture *p,
                           const char **why)
{
    if (is_jpeg(bytes, n)) return picture_jpeg_decode(bytes, n, min_long, p, why);
    if (is_png(bytes, n)) return picture_png_decode(bytes, n, p, why);
    PICTURE_REFUSE(why, unknown);
}

void picture_fit(int32_t h, int32_t w, int32_t side, int32_t *new_h, int32_t *new_w)
{
    const double scale = (double)side / (h > w ? h : w);

    *new_h = (int32_t)(h * scale + 0.5);
    *new_w = (int32_t)(w * scale + 0.5);
    /* a side of less than half a pixel would vanish */
    if (*new_h < 1) *new_h = 1;
    if (*new_w < 1) *new_w = 1;
}
