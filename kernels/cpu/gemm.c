#include "kernels/cpu/gemm.h"

#include <cblas.h>
#include <limits.h>

#include "kernels/base/check.h"

/* In multiplications: a block below MIN_WORK is not worth a thread. Each block copies its operands
 * once more, a tenth of the time at edges of 256, so there are N_BLOCKS of them, and more only
 * where a block is MUCH_WORK: milliseconds. */
enum { MIN_WORK = 1 << 19, MUCH_WORK = 1 << 29, MIN_EDGE = 32, N_BLOCKS = 4, EDGE_UNIT = 16 };

/* Before main: a product cut up by OpenBLAS too would depend on its number of threads, whatever the
 * environment says that is. */
__attribute__((constructor)) static void one_thread_a_call(void)
{
    openblas_set_num_threads(1);
}

void gemm_serial(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc)
{
    ASSERT(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX);
    ASSERT(lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX);
    if (m == 0 || n == 0) return;
    if (k == 0) { /* leading dimensions may be 0 here, which BLAS refuses */
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
        return;
    }
    cblas_sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
                b_transposed ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha,
                a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

struct gemm_cut gemm_cut(int64_t m, int64_t n, int64_t k)
{
    struct gemm_cut cut = { 1, 1 };

    for (;;) {
        const int64_t rows = m / cut.n_rows, cols = n / cut.n_cols;
        const int64_t longer = rows > cols ? rows : cols;
        const int64_t work = rows * cols * k;
        const bool worth = work >= 2 * MIN_WORK && longer >= 2 * MIN_EDGE;

        if (!worth || (cut.n_rows * cut.n_cols >= N_BLOCKS && work <= MUCH_WORK)) return cut;
        if (rows >= cols)
            cut.n_rows *= 2;
        else
            cut.n_cols *= 2;
    }
}

int64_t gemm_cut_at(int64_t extent, int64_t n_blocks, int64_t i)
{
    const int64_t units = (extent + EDGE_UNIT - 1) / EDGE_UNIT;
    const int64_t at = units * i / n_blocks * EDGE_UNIT;

    return at < extent ? at : extent;
}

void gemm_parallel(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k,
                   float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                   float beta, float *c, int64_t ldc)
{
    const struct gemm_cut cut = gemm_cut(m, n, k);
    const int64_t n_blocks = cut.n_rows * cut.n_cols;

    if (n_blocks == 1) {
        gemm_serial(a_transposed, b_transposed, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < n_blocks; block++) {
        const int64_t r = block / cut.n_cols, q = block % cut.n_cols;
        const int64_t i = gemm_cut_at(m, cut.n_rows, r), j = gemm_cut_at(n, cut.n_cols, q);
        const int64_t rows = gemm_cut_at(m, cut.n_rows, r + 1) - i;
        const int64_t cols = gemm_cut_at(n, cut.n_cols, q + 1) - j;

        gemm_serial(a_transposed, b_transposed, rows, cols, k, alpha,
                    a_transposed ? a + i : a + i * lda, lda, b_transposed ? b + j * ldb : b + j,
                    ldb, beta, c + i * ldc + j, ldc);
    }
}
