/* The linear layer on plain row-major matrices: linear itself, and every convolution once its
 * input lies in rows. x (rows, n_in), y pre dy (rows, n_out), w (n_out, n_in), b (n_out) or NULL.
 */
#ifndef KERNELS_CPU_DENSE_H
#define KERNELS_CPU_DENSE_H

#include "kernels/linear.h"

struct dense {
    int64_t rows, n_in, n_out;
    enum activation act;
};

void dense_fwd(float *y, float *pre, const float *x, const float *w, const float *b,
               struct dense d);

/* Floats of scratch dense_bwd needs. */
int64_t dense_bwd_scratch(struct dense d);

/* The shapes of dx, dw and db are not looked at, only data and add. */
void dense_bwd(struct tensor dx, struct tensor dw, struct tensor db, const float *dy,
               const float *x, const float *w, const float *y, const float *pre, struct dense d,
               float *scratch);

/* dpre = dy · act'(pre or y) over n elements, on the calling thread. */
void dense_slope(float *dpre, const float *dy, const float *y, const float *pre,
                 enum activation act, int64_t n);

/* y = act(pre), pre = x + b over one row of n, on the calling thread; x may be y, b NULL. */
void dense_activate(float *y, float *pre, const float *x, const float *b, enum activation act,
                    int64_t n);

#endif
