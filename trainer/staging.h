/* Device memory, for host code to look at. Where the two are one, nothing is copied. */
#ifndef TRAINER_STAGING_H
#define TRAINER_STAGING_H

#include "kernels/ops.h"

/* *host: the bytes behind dev, complete. room: where they are copied to; unused, and may be NULL, when
 * the device's memory is the host's. */
enum status staging_read(const struct ops *ops, struct stream *s, const void *dev, int64_t bytes,
                         void *room, const void **host) MUST_CHECK;

/* *room: bytes for staging_read, zero; NULL when the device's memory is the host's, which needs none.
 * The caller's to free. */
enum status staging_room(const struct ops *ops, int64_t bytes, void **room) MUST_CHECK;

#endif
