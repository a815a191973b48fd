/* Memory and stream verbs of the backends whose device memory is host memory. */
#ifndef KERNELS_CPU_HOST_H
#define KERNELS_CPU_HOST_H

#include "kernels/ops.h"

enum status host_open(void);
void *host_queue(void);
enum status host_alloc(void **p, int64_t bytes);
void host_free(void *p);
enum status host_put(void *dev, const void *host, int64_t bytes, struct stream *s);
enum status host_get(void *host, const void *dev, int64_t bytes, struct stream *s);
enum status host_zero(void *dev, int64_t bytes, struct stream *s);
enum status host_accumulate(float *dst, const float *src, int64_t n, struct stream *s);
enum status host_sync(struct stream *s);

#define HOST_VERBS                                                                                 \
    .host_memory = true, .open = host_open, .queue = host_queue, .alloc = host_alloc,              \
    .free = host_free, .put = host_put, .get = host_get, .copy = host_put, .zero = host_zero,      \
    .accumulate = host_accumulate, .sync = host_sync

#endif
