/* Sums over the rows of a matrix, in two levels of float so that the error stays small. */
#ifndef KERNELS_CPU_COLUMN_SUM_H
#define KERNELS_CPU_COLUMN_SUM_H

#include <stdbool.h>
#include <stdint.h>

/* out[c] = Σr x[r · ld + c], on the calling thread. */
void column_sum(float *out, const float *x, int64_t ld, int64_t rows, int64_t cols);

/* out[c] = Σb partial[b · ld + c] in the order of b, added to out or not. */
void column_sum_finish(float *out, bool add, const float *partial, int64_t ld, int64_t n_blocks,
                       int64_t cols);

#endif
