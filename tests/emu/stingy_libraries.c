/* As much of cuBLASLt and cuDNN as kernels/cuda/library_*.cu ask for, by loops, on the emulated device's memory: for
 * the tests of ops, so that what is handed to a library, and what is done where it refuses, is seen without a GPU. Of the
 * shapes they are asked about they refuse some, in each of the ways a library has; the program fails when one was never
 * seen. */
#include <cublasLt.h>
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/bf16.h"
#include "kernels/cuda/runtime.h"
#include "tests/emu/device_memory.h"

enum answer { TAKEN, NOTHING_FOUND, NOT_SUPPORTED, NOTHING_USABLE, N_ANSWERS };

/* What a library says to one new shape after the other, over and over. A linear layer asks for its forward product, dx
 * and dw, a convolution for itself and its dx: each is refused while the others are taken. */
static const enum answer of_blas[] = { TAKEN, TAKEN, TAKEN, NOTHING_FOUND,
                                       TAKEN, TAKEN, TAKEN, NOT_SUPPORTED,
                                       TAKEN, TAKEN, TAKEN, NOTHING_USABLE };
static const enum answer of_dnn[] = { TAKEN, NOTHING_FOUND,  NOT_SUPPORTED,
                                      TAKEN, NOTHING_USABLE, TAKEN };

static int n_of[N_ANSWERS];

static void judge(void)
{
    for (int i = 0; i < N_ANSWERS; i++)
        if (n_of[i] == 0) {
            printf("answer %d of a library was never given: this tested too little\n", i);
            fflush(stdout);
            _exit(1);
        }
}

static enum answer next_answer(const enum answer *of, int n)
{
    static int n_asked;
    const enum answer a = of[n_asked % n];

    if (n_asked++ == 0) atexit(judge);
    n_of[a]++;
    return a;
}

/* What taken shapes are computed by, and their workspace, which is written over. */
enum { ALGORITHM = 5, WORKSPACE = 4096 };

bool runtime_is_open(void)
{
    return true;
}

static double element(const void *p, bool f32, int64_t i)
{
    return (double)(f32 ? ((const float *)p)[i] : bf16_to_float(((const uint16_t *)p)[i]));
}

static void put_element(void *p, bool f32, int64_t i, double v)
{
    if (f32)
        ((float *)p)[i] = (float)v;
    else
        ((uint16_t *)p)[i] = bf16_from_float((float)v);
}

/* ---- cuBLASLt: what stands in its opaque descriptors --------------------------------------------- */
struct product {
    cublasOperation_t a, b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};

struct matrix {
    int64_t rows, columns, pitch;
    cudaDataType_t type;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    static int some;

    *h = (cublasLtHandle_t)(void *)&some;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS ? "success" : "no success";
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t bytes,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    (void)bytes, (void)compute, (void)scale;
    *(struct product *)(void *)d = (struct product){ .a = CUBLAS_OP_N, .b = CUBLAS_OP_N };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t what, const void *v,
                                              size_t bytes)
{
    struct product *p = (void *)d;

    (void)bytes;
    if (what == CUBLASLT_MATMUL_DESC_TRANSA)
        p->a = *(const cublasOperation_t *)v;
    else if (what == CUBLASLT_MATMUL_DESC_TRANSB)
        p->b = *(const cublasOperation_t *)v;
    else if (what == CUBLASLT_MATMUL_DESC_EPILOGUE)
        p->epilogue = *(const cublasLtEpilogue_t *)v;
    else if (what == CUBLASLT_MATMUL_DESC_BIAS_POINTER)
        p->bias = *(const void *const *)v;
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t bytes,
                                                 cudaDataType type, uint64_t rows, uint64_t columns,
                                                 int64_t pitch)
{
    (void)bytes;
    *(struct matrix *)(void *)l = (struct matrix){ (int64_t)rows, (int64_t)columns, pitch, type };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t w, size_t bytes)
{
    (void)w, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t w,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *v, size_t bytes)
{
    (void)w, (void)what, (void)v, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t to,
                                              cublasLtMatmulPreference_t wish, int room,
                                              cublasLtMatmulHeuristicResult_t found[], int *n)
{
    const enum answer answer = next_answer(of_blas, sizeof of_blas / sizeof *of_blas);

    (void)h, (void)d, (void)a, (void)b, (void)c, (void)to, (void)wish, (void)room;
    *n = answer == NOTHING_FOUND ? 0 : 1;
    found->algo.data[0] = answer == TAKEN ? ALGORITHM : 0;
    found->workspaceSize = WORKSPACE;
    found->state = answer == NOTHING_USABLE ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
    return answer == NOT_SUPPORTED ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_at, const void *b,
                              cublasLtMatrixLayout_t b_at, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_at, void *to, cublasLtMatrixLayout_t to_at,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t bytes,
                              cudaStream_t s)
{
    const struct product *p = (const void *)d;
    const struct matrix *x = (const void *)a_at, *y = (const void *)b_at, *z = (const void *)to_at;
    const bool x_turned = p->a == CUBLAS_OP_T, y_turned = p->b == CUBLAS_OP_T;
    const int64_t depth = x_turned ? x->rows : x->columns;
    const bool f32 = z->type == CUDA_R_32F, biased = p->epilogue == CUBLASLT_EPILOGUE_BIAS;
    const double old = (double)*(const float *)beta;

    (void)h, (void)c_at, (void)s;
    if (*(const float *)alpha != 1 || c != to || algorithm->data[0] != ALGORITHM ||
        bytes != WORKSPACE)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (emu_counts()) return CUBLAS_STATUS_SUCCESS;
    emu_unlock();
    memset(workspace, 0xFF, bytes);
    for (int64_t j = 0; j < z->columns; j++)
        for (int64_t i = 0; i < z->rows; i++) {
            double sum = biased ? element(p->bias, false, i) : 0;

            for (int64_t l = 0; l < depth; l++)
                sum += element(a, false, x_turned ? i * x->pitch + l : l * x->pitch + i) *
                       element(b, false, y_turned ? l * y->pitch + j : j * y->pitch + l);
            if (old != 0) sum += old * element(to, f32, j * z->pitch + i);
            put_element(to, f32, j * z->pitch + i, sum);
        }
    emu_lock();
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- cuDNN: a 3×3 convolution with a border of zeros, channels last -------------------------------- */
struct cudnnTensorStruct {
    int n, c, h, w; /* of a filter: n outputs */
};
struct cudnnFilterStruct {
    int n, c;
};

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    static int some;

    *h = (cudnnHandle_t)(void *)&some;
    return CUDNN_STATUS_SUCCESS;
}

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    return s == CUDNN_STATUS_SUCCESS ? "success" : "no success";
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    (void)h, (void)s;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *t)
{
    *t = calloc(1, sizeof **t);
    return *t ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *f)
{
    *f = calloc(1, sizeof **f);
    return *f ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *c)
{
    static int some;

    *c = (cudnnConvolutionDescriptor_t)(void *)&some;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t t, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w)
{
    if (format != CUDNN_TENSOR_NHWC || type != CUDNN_DATA_BFLOAT16)
        return CUDNN_STATUS_INVALID_VALUE;
    *t = (struct cudnnTensorStruct){ n, c, h, w };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t f, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int n, int c, int h, int w)
{
    if (format != CUDNN_TENSOR_NHWC || type != CUDNN_DATA_BFLOAT16 || h != 3 || w != 3)
        return CUDNN_STATUS_INVALID_VALUE;
    *f = (struct cudnnFilterStruct){ n, c };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t c, int pad_h, int pad_w,
                                              int u, int v, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute)
{
    const bool known = pad_h == 1 && pad_w == 1 && u == 1 && v == 1 && dilation_h == 1 &&
                       dilation_w == 1 && mode == CUDNN_CROSS_CORRELATION &&
                       compute == CUDNN_DATA_FLOAT;

    (void)c;
    return known ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INVALID_VALUE;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t c, cudnnMathType_t t)
{
    (void)c, (void)t;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y, const int room, int *n,
    cudnnConvolutionFwdAlgoPerf_t *found)
{
    const enum answer answer = next_answer(of_dnn, sizeof of_dnn / sizeof *of_dnn);

    (void)h, (void)x, (void)w, (void)c, (void)y, (void)room;
    *n = answer == NOTHING_FOUND ? 0 : 1;
    *found = (cudnnConvolutionFwdAlgoPerf_t){
        .algo = (cudnnConvolutionFwdAlgo_t)(answer == TAKEN ? ALGORITHM : 0),
        .status = CUDNN_STATUS_SUCCESS,
        .determinism = answer == NOTHING_USABLE ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC
    };
    return answer == NOT_SUPPORTED ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t h, const cudnnFilterDescriptor_t w, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t dx, const int room, int *n,
    cudnnConvolutionBwdDataAlgoPerf_t *found)
{
    const enum answer answer = next_answer(of_dnn, sizeof of_dnn / sizeof *of_dnn);

    (void)h, (void)w, (void)dy, (void)c, (void)dx, (void)room;
    *n = answer == NOTHING_FOUND ? 0 : 1;
    *found = (cudnnConvolutionBwdDataAlgoPerf_t){
        .algo = (cudnnConvolutionBwdDataAlgo_t)(answer == TAKEN ? ALGORITHM : 0),
        .status = CUDNN_STATUS_SUCCESS,
        .determinism = answer == NOTHING_USABLE ? CUDNN_NON_DETERMINISTIC : CUDNN_DETERMINISTIC
    };
    return answer == NOT_SUPPORTED ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y,
    cudnnConvolutionFwdAlgo_t algorithm, size_t *bytes)
{
    (void)h, (void)x, (void)w, (void)c, (void)y, (void)algorithm;
    *bytes = WORKSPACE;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
    cudnnHandle_t h, const cudnnFilterDescriptor_t w, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t dx,
    cudnnConvolutionBwdDataAlgo_t algorithm, size_t *bytes)
{
    (void)h, (void)w, (void)dy, (void)c, (void)dx, (void)algorithm;
    *bytes = WORKSPACE;
    return CUDNN_STATUS_SUCCESS;
}

/* Σ over the neighbours of pixel (y,x) of `from`, and its channels, for channel c of `to`. turned: from dy to dx. */
static double around(const struct cudnnTensorStruct *at, const void *from, const void *filter,
                     const struct cudnnFilterStruct *f, bool turned, int image, int y, int x, int c)
{
    const int n_from = turned ? f->n : f->c;
    double sum = 0;

    for (int i = 0; i < 9; i++) {
        const int dy = turned ? 1 - i / 3 : i / 3 - 1, dx = turned ? 1 - i % 3 : i % 3 - 1;
        const int64_t pixel = ((int64_t)image * at->h + y + dy) * at->w + x + dx;

        if (y + dy < 0 || y + dy >= at->h || x + dx < 0 || x + dx >= at->w) continue;
        for (int k = 0; k < n_from; k++) {
            const int64_t out = turned ? k : c, in = turned ? c : k;

            sum += element(from, false, pixel * n_from + k) *
                   element(filter, false, (out * 9 + i) * f->c + in);
        }
    }
    return sum;
}

static void convolve(void *workspace, void *to, const struct cudnnTensorStruct *to_at,
                     const void *from, const void *filter, const struct cudnnFilterStruct *f,
                     bool turned, double old)
{
    if (emu_counts()) return;
    emu_unlock();
    memset(workspace, 0xFF, WORKSPACE);
    for (int n = 0; n < to_at->n; n++)
        for (int y = 0; y < to_at->h; y++)
            for (int x = 0; x < to_at->w; x++)
                for (int c = 0; c < to_at->c; c++) {
                    const int64_t i = (((int64_t)n * to_at->h + y) * to_at->w + x) * to_at->c + c;
                    const double sum = around(to_at, from, filter, f, turned, n, y, x, c);

                    put_element(to, false, i, old != 0 ? sum + old * element(to, false, i) : sum);
                }
    emu_lock();
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void *alpha,
                                      const cudnnTensorDescriptor_t x_at, const void *x,
                                      const cudnnFilterDescriptor_t w_at, const void *w,
                                      const cudnnConvolutionDescriptor_t c,
                                      cudnnConvolutionFwdAlgo_t algorithm, void *workspace,
                                      size_t bytes, const void *beta,
                                      const cudnnTensorDescriptor_t y_at, void *y)
{
    (void)h, (void)x_at, (void)c;
    if (*(const float *)alpha != 1 || (int)algorithm != ALGORITHM || bytes != WORKSPACE)
        return CUDNN_STATUS_INVALID_VALUE;
    convolve(workspace, y, y_at, x, w, w_at, false, (double)*(const float *)beta);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void *alpha,
                                           const cudnnFilterDescriptor_t w_at, const void *w,
                                           const cudnnTensorDescriptor_t dy_at, const void *dy,
                                           const cudnnConvolutionDescriptor_t c,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void *workspace,
                                           size_t bytes, const void *beta,
                                           const cudnnTensorDescriptor_t dx_at, void *dx)
{
    (void)h, (void)dy_at, (void)c;
    if (*(const float *)alpha != 1 || (int)algorithm != ALGORITHM || bytes != WORKSPACE)
        return CUDNN_STATUS_INVALID_VALUE;
    convolve(workspace, dx, dx_at, dy, w, w_at, true, (double)*(const float *)beta);
    return CUDNN_STATUS_SUCCESS;
}
