/* Matrix products of the CPU backend, on OpenBLAS with one thread a call.
 * The result of an element depends on the shapes only, never on the number of threads: parallel
 * products are cut into blocks fixed by the shape, and no sum is split. Row-major throughout. */
#ifndef KERNELS_CPU_GEMM_H
#define KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stdint.h>

/* c (m,n) = op(a) op(b) + beta · c, op(a) (m,k), op(b) (k,n); on the calling thread, so that a
 * parallel region may call it. beta 0 does not read c. Any of m, n, k may be 0. */
void gemm_serial(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc);

/* The same on all threads; not from inside a parallel region. */
void gemm_parallel(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k,
                   float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                   float beta, float *c, int64_t ldc);

/* How a product is cut: n_rows × n_cols blocks, for an op with work of its own on each block. */
struct gemm_cut {
    int64_t n_rows, n_cols;
};
struct gemm_cut gemm_cut(int64_t m, int64_t n, int64_t k);

/* Where block i of n_blocks begins in an extent; block n_blocks begins at its end. */
int64_t gemm_cut_at(int64_t extent, int64_t n_blocks, int64_t i);

#endif
