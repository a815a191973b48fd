/* The shape check every backend of cast runs first. It touches no data. */
#ifndef KERNELS_CAST_CHECK_H
#define KERNELS_CAST_CHECK_H

#include "kernels/cast.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status cast_check(struct tensor y, struct tensor x) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
