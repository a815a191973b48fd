/* Linear layers by cuBLASLt. It counts columns where we count rows: our (n,k) by rows is its (k,n), and
 * y = x wᵀ is yᵀ = w xᵀ.
 *
 * Of its epilogues only the bias is used. Its GELU is the tanh form, ours the exact one; its ReLU is
 * max(v,0), which need not keep a NaN; and its gradients of a bias neither add nor see dy through an
 * activation, while one pass of ours does both. So: product and bias by the library, activation by
 * an own kernel. Its bias has the type of y: ours is rounded to bf16, and with GELU, y is made of
 * pre as rounded; own products round neither. */
#include "kernels/base/log.h"
#include "kernels/linear_check.h"

#include "kernels/cuda/dense.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/runtime.h"

#include <cublasLt.h>

#define BLAS(call)                                                                                 \
    do {                                                                                           \
        const cublasStatus_t blas_s_ = (call);                                                     \
        if (blas_s_ != CUBLAS_STATUS_SUCCESS)                                                      \
            FAIL(E_DEVICE, "%s: %s", #call, cublasLtGetStatusString(blas_s_));                     \
    } while (0)

/* c (m,n) = op(a) (m,k) op(b) (k,n), by columns without gaps; turned: op is the transposition */
struct blas_shape {
    int64_t m, n, k;
    bool a_turned, b_turned, has_bias;
    cudaDataType_t c_type; /* a and b are bf16 */
};

/* How it is computed. Holds nothing that would have to be given back. */
struct blas_plan {
    struct blas_shape shape;
    bool refused; /* the library has no algorithm; all below says nothing */
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    int64_t workspace; /* bytes */
};

/* A model has some tens of shapes, for each of few batch sizes. */
enum { MAX_PLANS = 1024, LIBRARY_ALIGN = 16, BLAS_THREADS = 256 };
static const uint64_t MAX_WORKSPACE = 32 << 20; /* what NVIDIA advises for H100 */

static struct blas_plan plans[MAX_PLANS];
static cublasLtHandle_t handle; /* of the one device of this process, until it ends */

static bool same_shape(const struct blas_shape *a, const struct blas_shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->a_turned == b->a_turned &&
           a->b_turned == b->b_turned && a->has_bias == b->has_bias && a->c_type == b->c_type;
}

static enum status describe(struct blas_plan *p)
{
    const struct blas_shape *z = &p->shape;
    const cublasOperation_t a_op = z->a_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t b_op = z->b_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue =
        z->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const uint64_t m = (uint64_t)z->m, n = (uint64_t)z->n, k = (uint64_t)z->k;

    BLAS(cublasLtMatmulDescInit(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    BLAS(cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_TRANSA, &a_op,
                                        sizeof a_op));
    BLAS(cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_TRANSB, &b_op,
                                        sizeof b_op));
    BLAS(cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                        sizeof epilogue));
    BLAS(cublasLtMatrixLayoutInit(&p->a, CUDA_R_16BF, z->a_turned ? k : m, z->a_turned ? m : k,
                                  z->a_turned ? z->k : z->m));
    BLAS(cublasLtMatrixLayoutInit(&p->b, CUDA_R_16BF, z->b_turned ? n : k, z->b_turned ? k : n,
                                  z->b_turned ? z->n : z->k));
    BLAS(cublasLtMatrixLayoutInit(&p->c, z->c_type, m, n, z->m));
    return OK;
}

/* Sums in one piece, or in pieces that meet in the workspace in order: the same bits on every run. The
 * library may have nothing of that kind for a shape. */
static enum status choose(struct blas_plan *p)
{
    const uint32_t schemes =
        CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align = LIBRARY_ALIGN;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
    };
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;

    BLAS(cublasLtMatmulPreferenceInit(&wish));
    BLAS(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &MAX_WORKSPACE, sizeof MAX_WORKSPACE));
    BLAS(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                              &schemes, sizeof schemes));
    for (cublasLtMatmulPreferenceAttributes_t which : aligned)
        BLAS(cublasLtMatmulPreferenceSetAttribute(&wish, which, &align, sizeof align));
    if (p->shape.has_bias) { /* only its alignment is looked at */
        const void *const somewhere = (const void *)(uintptr_t)LIBRARY_ALIGN;

        BLAS(cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                            &somewhere, sizeof somewhere));
    }

    const cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(
        handle, &p->product, &p->a, &p->b, &p->c, &p->c, &wish, 1, &found, &n_found);

    if (answer != CUBLAS_STATUS_SUCCESS && answer != CUBLAS_STATUS_NOT_SUPPORTED)
        FAIL(E_DEVICE, "cublasLtMatmulAlgoGetHeuristic: %s", cublasLtGetStatusString(answer));
    p->refused = answer == CUBLAS_STATUS_NOT_SUPPORTED || n_found < 1 ||
                 found.state != CUBLAS_STATUS_SUCCESS;
    if (p->refused) {
        log_warn("cuBLASLt has no algorithm for %lld x %lld sums of %lld: own products there",
                 (long long)p->shape.n, (long long)p->shape.m, (long long)p->shape.k);
        return OK;
    }
    p->algorithm = found.algo;
    p->workspace = (int64_t)found.workspaceSize;
    return OK;
}

/* The plan of a shape, made when it is asked for first: while planning. */
static enum status plan_of(struct blas_plan **p, struct blas_shape z)
{
    uint64_t at = (uint64_t)z.m * 31 + (uint64_t)z.n * 1009 + (uint64_t)z.k * 65537;

    for (int tries = 0; tries < MAX_PLANS; tries++, at++) {
        struct blas_plan *const q = &plans[at % MAX_PLANS];

        if (q->shape.m > 0 && !same_shape(&q->shape, &z)) continue;
        if (q->shape.m == 0) {
            struct blas_plan made = {};

            made.shape = z;
            if (!handle) BLAS(cublasLtCreate(&handle));
            TRY(describe(&made));
            TRY(choose(&made));
            *q = made;
        }
        *p = q;
        return OK;
    }
    FAIL(E_FAILED, "more than %d shapes of products; raise MAX_PLANS", (int)MAX_PLANS);
}

static enum status multiply(struct blas_plan *p, void *c, const void *a, const void *b, bool add,
                            const bf16 *bias, void *workspace, struct stream *s)
{
    const float one = 1, old = add ? 1 : 0;
    const uintptr_t places = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c;

    if (places % LIBRARY_ALIGN)
        FAIL(E_DEVICE, "an operand of cuBLASLt is not on %d bytes; say run.own_products=true",
             (int)LIBRARY_ALIGN);
    if (p->shape.has_bias)
        BLAS(cublasLtMatmulDescSetAttribute(&p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                            sizeof bias));
    BLAS(cublasLtMatmul(handle, &p->product, &one, a, &p->a, b, &p->b, &old, c, &p->c, c, &p->c,
                        &p->algorithm, workspace, (size_t)p->workspace, (cudaStream_t)s->queue));
    return OK;
}

/* A thread owns an element of a bias: some KB. */
__global__ static void __launch_bounds__(BLAS_THREADS) round_bias(bf16 *to, const float *b, int n)
{
    const int own = (int)blockIdx.x * BLAS_THREADS + (int)threadIdx.x;

    if (own < n) element_store(to + own, b[own]);
}

/* A thread owns four elements, n a multiple of four. Bound by memory: 4 bytes an element; fc1 of
 * ViT-H, 4096 × 5120: 84 MB, 49 µs on an A100, 20 µs on an H200. That much the exact GELU costs
 * beside a library. y may be pre. */
__global__ static void __launch_bounds__(BLAS_THREADS)
    activate(bf16 *y, const bf16 *pre, enum activation act, int64_t n)
{
    const int64_t own = 4 * ((int64_t)blockIdx.x * BLAS_THREADS + (int)threadIdx.x);
    float v[4];

    if (own >= n) return;
    element_load_lot(v, pre + own);
#pragma unroll
    for (int c = 0; c < 4; c++) v[c] = activation_value(act, v[c]);
    element_store_lot(y + own, v);
}

/* Rows of whole 16 bytes; the rest, small anyway, is left to own products. */
static bool fits(struct tensor x, struct tensor w, const struct stream *s)
{
    return !s->own_products && runtime_is_open() && w.dtype == BF16 && tensor_count(x) > 0 &&
           w.dim[0] > 0 && w.dim[0] % 8 == 0 && w.dim[1] % 8 == 0;
}

static enum status plan_fwd(struct blas_plan **p, struct tensor x, struct tensor w, bool has_bias)
{
    return plan_of(p, { w.dim[0], tensor_rows(x), w.dim[1], true, false, has_bias, CUDA_R_16BF });
}

static enum status plan_bwd(struct blas_plan **of_dx, struct blas_plan **of_dw, struct tensor x,
                            struct tensor w)
{
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];

    TRY(plan_of(of_dx, { n_in, n_rows, n_out, false, false, false, CUDA_R_16BF }));
    return plan_of(of_dw, { n_in, n_out, n_rows, false, true, false, CUDA_R_32F });
}

extern "C" enum status library_linear_fwd_takes(bool *takes, struct tensor x, struct tensor w,
                                                struct tensor b, const struct stream *s)
{
    struct blas_plan *p;

    *takes = fits(x, w, s);
    if (!*takes) return OK;
    TRY(plan_fwd(&p, x, w, !tensor_is_none(b)));
    *takes = !p->refused;
    return OK;
}

/* Both products or none. */
extern "C" enum status library_linear_bwd_takes(bool *takes, struct tensor x, struct tensor w,
                                                const struct stream *s)
{
    struct blas_plan *of_dx, *of_dw;

    *takes = fits(x, w, s);
    if (!*takes) return OK;
    TRY(plan_bwd(&of_dx, &of_dw, x, w));
    *takes = !of_dx->refused && !of_dw->refused;
    return OK;
}

extern "C" enum status library_linear_fwd(struct tensor y, struct tensor pre, struct tensor x,
                                          struct tensor w, struct tensor b, enum activation act,
                                          struct stream *s)
{
    const int64_t n_rows = tensor_rows(x), n_out = w.dim[0], n = n_rows * n_out;
    const bool has_bias = !tensor_is_none(b);
    const int64_t bias_bytes = has_bias ? dense_round(n_out * (int64_t)sizeof(bf16)) : 0;
    struct tensor sums = act == ACT_GELU ? pre : y;
    struct blas_plan *p;
    void *scratch; /* the bias, the library's workspace */

    TRY(plan_fwd(&p, x, w, has_bias));
    STREAM_SCRATCH(s, scratch, bias_bytes + p->workspace);
    if (has_bias)
        LAUNCH(round_bias, (unsigned)((n_out + BLAS_THREADS - 1) / BLAS_THREADS), BLAS_THREADS, 0,
               s, (bf16 *)scratch, (const float *)b.data, (int)n_out);
    TRY(multiply(p, sums.data, w.data, x.data, false, (const bf16 *)scratch,
                 (char *)scratch + bias_bytes, s));
    if (act == ACT_NONE) return OK;
    LAUNCH(activate, (unsigned)((n / 4 + BLAS_THREADS - 1) / BLAS_THREADS), BLAS_THREADS, 0, s,
           (bf16 *)y.data, (const bf16 *)sums.data, act, n);
    return OK;
}

extern "C" enum status library_linear_bwd(struct tensor dx, struct tensor dw, struct tensor db,
                                          struct tensor dy, struct tensor x, struct tensor w,
                                          struct tensor y, struct tensor pre, enum activation act,
                                          struct stream *s)
{
    const int64_t n_rows = tensor_rows(x), n_out = w.dim[0];
    struct blas_plan *of_dx, *of_dw;
    const bf16 *dpre;
    void *scratch;

    TRY(plan_bwd(&of_dx, &of_dw, x, w));
    const int64_t workspace = dense_max(of_dx->workspace, of_dw->workspace);

    STREAM_SCRATCH(s, scratch, dense_room_bytes<bf16>(n_rows, n_out, act, (workspace + 3) / 4));

    const dense_room<bf16> room = dense_room_at<bf16>(scratch, n_rows, n_out, act);

    TRY(dense_slope(&dpre, db, room, dy, y, pre, act, s));
    if (dx.data) TRY(multiply(of_dx, dx.data, w.data, dpre, dx.add, NULL, room.sums, s));
    if (dw.data) TRY(multiply(of_dw, dw.data, x.data, dpre, dw.add, NULL, room.sums, s));
    return OK;
}
