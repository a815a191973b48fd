/* The memory and stream verbs of the CUDA backend, by CUDA's runtime, for one host thread. One GPU a
 * process, two streams that never wait for the legacy default one. */
#ifndef KERNELS_CUDA_RUNTIME_H
#define KERNELS_CUDA_RUNTIME_H

#include "kernels/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Chooses the GPU: the local rank's, modulo those this process sees. NULL, or why there is none. */
const char *runtime_choose(int local_rank);
const char *runtime_device(uint64_t *id);

enum status runtime_open(void) MUST_CHECK;
bool runtime_is_open(void); /* without a GPU, programs can still be planned: with own products */
void *runtime_queue(void);
void *runtime_side(void);
enum status runtime_after(struct stream *s, struct stream *other) MUST_CHECK;
enum status runtime_alloc(void **p, int64_t bytes) MUST_CHECK;
void runtime_free(void *p);
enum status runtime_put(void *dev, const void *host, int64_t bytes, struct stream *s) MUST_CHECK;
enum status runtime_get(void *host, const void *dev, int64_t bytes, struct stream *s) MUST_CHECK;
enum status runtime_copy(void *dst, const void *src, int64_t bytes, struct stream *s) MUST_CHECK;
enum status runtime_zero(void *dev, int64_t bytes, struct stream *s) MUST_CHECK;
enum status runtime_sync(struct stream *s) MUST_CHECK;
enum status runtime_record_begin(struct stream *s) MUST_CHECK;
enum status runtime_record_end(bool keep, struct stream *s) MUST_CHECK;
enum status runtime_replay(struct stream *s) MUST_CHECK;
/* check: asked while sync and get wait, whose failure ends the wait; NULL: nobody. */
void runtime_watch(enum status (*check)(void));
enum status runtime_usage(struct device_usage *u) MUST_CHECK;

void *runtime_shared_alloc(int64_t bytes);
void runtime_shared_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
