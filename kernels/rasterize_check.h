/* The shape check of rasterize.h, shared by all backends. Reads the geometry, which is on the
 * host and there while planning too; no other data is touched. */
#ifndef KERNELS_RASTERIZE_CHECK_H
#define KERNELS_RASTERIZE_CHECK_H

#include "kernels/rasterize.h"

#ifdef __CUDACC__
#define RASTERIZE_FN static __host__ __device__ inline
#else
#define RASTERIZE_FN static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { RASTERIZE_H, RASTERIZE_W, RASTERIZE_NH, RASTERIZE_NW, RASTERIZE_S, RASTERIZE_GEOMETRY };
enum { RASTERIZE_PIXEL = 65536 }; /* spans are counted in 1/65536 of an original pixel */

/* OK only when every span is at least 1 and neither an edge nor a sum of areas passes int64. */
enum status rasterize_check(struct tensor gt, struct tensor runs, struct tensor first,
                            struct tensor geometry) MUST_CHECK;

/* First 1/65536 pixel of cell i, of R cells over a frame of S, where `size` original pixels were
 * scaled to `scaled`. */
RASTERIZE_FN int64_t rasterize_edge(int64_t i, int64_t R, int64_t S, int64_t size, int64_t scaled)
{
    return i * S * size * RASTERIZE_PIXEL / (R * scaled);
}

#ifdef __cplusplus
}
#endif
#endif
