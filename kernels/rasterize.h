/* Run-length masks to pixels at the loss resolution.
 *
 * A mask covers h×w original pixels: column-major runs, the first run outside (COCO). The image was
 * scaled to nh×nw and padded at the right and bottom to a frame of S×S; gt has R×R cells over that
 * frame. Cell (i,j) is 1 when the mask covers at least half of the cell's area; a cell partly in
 * the padding counts with its full area.
 *   cell i spans original rows [i·S·h/(R·nh), (i+1)·S·h/(R·nh)), the mask's rows are [0,h);
 *   columns alike with w, nw. Spans are rounded down to 1/65536 pixel; sums are int64: bit-equal
 *   on every backend.
 *
 *   gt (M,R,R) u8   runs (n) i32   first (M+1) i64: mask m has runs[first[m] … first[m+1])
 *   geometry (5) i32, on the host: h w nh nw S
 *   Precondition, ensured by whoever decoded the runs: runs ≥ 0, Σ = h·w. No runs: all 0. */
#ifndef KERNELS_RASTERIZE_H
#define KERNELS_RASTERIZE_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status rasterize_fn(struct tensor gt, struct tensor runs, struct tensor first,
                                 struct tensor geometry, struct stream *s) MUST_CHECK;
rasterize_fn rasterize_ref, rasterize_cpu, rasterize_cuda;

#ifdef __cplusplus
}
#endif
#endif
