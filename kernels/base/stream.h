/* Where an op runs, and the scratch memory it may use while it runs.
 *
 * Every op has three acts: check shapes, ask for scratch, work. A *planning* stream ends the op
 * after the second, so that one dry pass over a program checks every shape and finds the greatest
 * scratch need before any memory is taken. Scratch belongs to the op until it returns. */
#ifndef KERNELS_BASE_STREAM_H
#define KERNELS_BASE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/check.h"
#include "kernels/base/status.h"

struct stream {
    bool planning;
    int64_t scratch_need; /* the greatest request seen while planning, bytes */
    void *scratch;        /* not owned */
    int64_t scratch_bytes;
    void *queue;       /* the backend's own: a CUDA stream; NULL on a CPU */
    bool own_products; /* on a GPU: no product by a library, all by the kernels of this project */
};

/* For an op made of ops. s to plan their scratch on, apart from its own; and what is left of s behind the
 * first `taken` bytes of its scratch. */
static inline struct stream stream_dry(const struct stream *s)
{
    struct stream dry = *s;

    dry.planning = true;
    dry.scratch_need = 0;
    return dry;
}

static inline struct stream stream_behind(const struct stream *s, int64_t taken)
{
    struct stream rest = *s;

    rest.scratch = (char *)s->scratch + taken;
    rest.scratch_bytes = s->scratch_bytes - taken;
    return rest;
}

/* The second act: p gets scratch for `bytes`, or the op ends here when planning. */
#define STREAM_SCRATCH(s, p, bytes)                                                                \
    do {                                                                                           \
        const int64_t scratch_bytes_ = (bytes);                                                    \
        if ((s)->planning) {                                                                       \
            if ((s)->scratch_need < scratch_bytes_) (s)->scratch_need = scratch_bytes_;            \
            return OK;                                                                             \
        }                                                                                          \
        ASSERT(scratch_bytes_ <= (s)->scratch_bytes);                                              \
        (p) = (s)->scratch;                                                                        \
    } while (0)

/* The same for an op that needs none. */
#define STREAM_NO_SCRATCH(s)                                                                       \
    do {                                                                                           \
        if ((s)->planning) return OK;                                                              \
    } while (0)
#endif
