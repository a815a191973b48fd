/* The shape check every backend of image runs first. It touches no data. */
#ifndef KERNELS_IMAGE_CHECK_H
#define KERNELS_IMAGE_CHECK_H

#include "kernels/image.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of the RGB channels, in levels of 0 to 255: the statistics SAM normalizes with. */
#define IMAGE_MEAN                                                                                 \
    {                                                                                              \
        123.675f, 116.28f, 103.53f                                                                 \
    }
#define IMAGE_STD                                                                                  \
    {                                                                                              \
        58.395f, 57.12f, 57.375f                                                                   \
    }

enum status image_normalize_check(struct tensor y, struct tensor x, struct tensor size) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
