/* What the files behind picture.h share: one codec a file, and the two ways of resampling. */
#ifndef DATA_PIPELINE_PICTURE_CODEC_H
#define DATA_PIPELINE_PICTURE_CODEC_H

#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/picture.h"

/* E_CORRUPT with a static reason, nothing logged: the caller knows which file it was. */
#define PICTURE_REFUSE(why, reason)                                                                \
    do {                                                                                           \
        *(why) = (reason);                                                                         \
        return E_CORRUPT;                                                                          \
    } while (0)

/* Whether height×width is within the caps of picture.h and within what n bytes can hold at
 * per_byte pixels a byte at most; *why says what is wrong. */
enum status picture_plausible(int64_t height, int64_t width, int64_t n, int64_t per_byte,
                              const char **why) MUST_CHECK;

enum status picture_jpeg_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                              const char **why) MUST_CHECK;
enum status picture_jpeg_decode(const uint8_t *bytes, int64_t n, int32_t min_long,
                                struct picture *p, const char **why) MUST_CHECK;
enum status picture_png_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                             const char **why) MUST_CHECK;
enum status picture_png_decode(const uint8_t *bytes, int64_t n, struct picture *p,
                               const char **why) MUST_CHECK;

/* picture_resize with or without vector instructions: the same bits, so that tests can compare. */
enum status picture_resize_with(struct picture *dst, const struct picture *src, int32_t new_h,
                                int32_t new_w, bool vectors) MUST_CHECK;
bool picture_has_vectors(void); /* whether this CPU has them */

#endif
