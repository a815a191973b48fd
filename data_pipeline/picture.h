/* Pixels in and out of files: JPEG (libjpeg-turbo), PNG (libpng); and the resampling SAM's
 * preprocessing uses. Encoded bytes are hostile: header first, pixels capped, also by what so many
 * bytes can hold, warnings of truncation are errors. Memory is bounded by the input's length.
 * All pictures are RGB, 8 bits, rows from the top, no row padding. Alpha is dropped, grey becomes
 * RGB, CMYK is refused. The orientation tag of a JPEG is ignored: masks lie in stored pixels. */
#ifndef DATA_PIPELINE_PICTURE_H
#define DATA_PIPELINE_PICTURE_H

#include <stdint.h>

#include "kernels/base/status.h"

#define PICTURE_PIXELS_MAX ((int64_t)1 << 26)
enum { PICTURE_SIDE_MAX = 65500 }; /* the limit of JPEG */

struct picture {
    uint8_t *rgb; /* owned; (height, width, 3) */
    int32_t height, width;
    int64_t room; /* bytes allocated, so that a picture can be used again without allocating */
};
void picture_destroy(struct picture *p);

/* Makes room for height×width; contents undefined. */
enum status picture_reserve(struct picture *p, int32_t height, int32_t width) MUST_CHECK;

/* Sniffs the magic. On failure E_CORRUPT with the reason in *why (static), nothing logged. */
enum status picture_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                         const char **why) MUST_CHECK;

/* min_long > 0: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as its long side stays ≥ min_long.
 * That is not bit-equal to decoding in full and resizing, but cheaper. */
enum status picture_decode(const uint8_t *bytes, int64_t n, int32_t min_long, struct picture *p,
                           const char **why) MUST_CHECK;

/* A PNG as a mask: (h·w) bytes, 1 where any colour channel is not 0 (a palette counts by its
 * colours), whatever its depth. mask: malloc'd, owned by the caller. */
enum status picture_decode_mask(const uint8_t *bytes, int64_t n, uint8_t **mask, int32_t *height,
                                int32_t *width, const char **why) MUST_CHECK;

/* quality 1…100; chroma halved both ways (4:2:0). *bytes: malloc'd, owned by the caller. */
enum status picture_encode_jpeg(const struct picture *p, int quality, uint8_t **bytes,
                                int64_t *n) MUST_CHECK;
enum status picture_write_png(const char *path, const struct picture *p) MUST_CHECK;
enum status picture_write_mask_png(const char *path, const uint8_t *mask, int32_t height,
                                   int32_t width) MUST_CHECK;

/* The long side becomes `side`: (h,w) → (int(h·s+½), int(w·s+½)), s = side/max(h,w), in double as
 * the reference does. */
void picture_fit(int32_t h, int32_t w, int32_t side, int32_t *new_h, int32_t *new_w);

/* Bilinear with antialiasing on 8 bits: bit-equal to Pillow's Image.resize(BILINEAR). dst gets room
 * for new_h×new_w; it is not src. */
enum status picture_resize(struct picture *dst, const struct picture *src, int32_t new_h,
                           int32_t new_w) MUST_CHECK;

#endif
