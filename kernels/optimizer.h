/* Gradient norm and AdamW (Loshchilov & Hutter, 2019) over flat buffers of all parameters.
 *
 * grad_norm: squares = Σ g², in double, in blocks of GRAD_NORM_BLOCK elements and an order of theirs
 *   that follows from n, hence independent of the number of threads; a NaN or infinity anywhere makes
 *   it non-finite.
 *   g (n) f32; squares (1) f64, on the device: a step need not wait for it.
 *
 * adamw: for element i of segment s, with g = grad_scale · g[i] and t = step
 *   m = β1 m + (1−β1) g      v = β2 v + (1−β2) g²
 *   w −= lr·lr_scale[s] · ( (m/(1−β1^t)) / (√(v/(1−β2^t)) + eps) + decay[s] · w )
 *   w16[i] = w[i] to the nearest bf16: what matrix products read; or none
 *   w m v g (n) f32, w16 (n) bf16; the segments tile [0,n): segment s is [end[s−1], end[s]); frozen ones are
 *   left alone. segment and o are on the host.
 *   With squares (k) f64: nothing is written unless all of them are finite; and with clip > 0, g is
 *   first scaled by min(1, clip/norm), norm = grad_scale · √squares[0]. none: neither. */
#ifndef KERNELS_OPTIMIZER_H
#define KERNELS_OPTIMIZER_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GRAD_NORM_BLOCK = 65536 };

struct adamw_segment {
    int64_t end;    /* first element behind the segment */
    float lr_scale; /* layer-wise decay */
    float decay;    /* weight decay, 0 for biases, norms and positions */
    bool frozen;    /* left alone */
};

struct adamw_options {
    float lr, beta1, beta2, eps, grad_scale;
    int64_t step; /* t, from 1 */
    float clip;   /* greatest norm, with squares; 0: none */
};

typedef enum status grad_norm_fn(struct tensor squares, struct tensor g,
                                 struct stream *s) MUST_CHECK;
typedef enum status adamw_fn(struct tensor w, struct tensor m, struct tensor v, struct tensor w16,
                             struct tensor g, struct tensor squares,
                             const struct adamw_segment *segment, int n_segments,
                             const struct adamw_options *o, struct stream *s) MUST_CHECK;
grad_norm_fn grad_norm_ref, grad_norm_cpu, grad_norm_cuda;
adamw_fn adamw_ref, adamw_cpu, adamw_cuda;

#ifdef __cplusplus
}
#endif
#endif
