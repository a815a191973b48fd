/* One block of memory, taken once, carved into pieces that live as long as the arena.
 * Every take from the system is counted, so that a test can show the step loop takes none. */
#ifndef KERNELS_BASE_ARENA_H
#define KERNELS_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ARENA_ALIGN = 64 }; /* bytes; a cache line, and enough for AVX-512 */

struct arena {
    char *base; /* owned */
    int64_t bytes, used;
};

/* Zero-filled. bytes = 0 is allowed. */
enum status arena_create(struct arena *a, int64_t bytes) MUST_CHECK;
void arena_destroy(struct arena *a);

/* A piece of bytes, aligned; E_MEMORY when the arena is full. */
enum status arena_take(struct arena *a, int64_t bytes, void **p) MUST_CHECK;

int64_t arena_round(int64_t bytes); /* up to a multiple of ARENA_ALIGN */

/* How often any arena has asked the system for memory since the program started. */
int64_t arena_n_takes(void);

#ifdef __cplusplus
}
#endif
#endif
