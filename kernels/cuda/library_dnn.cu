/* The 3×3 convolution and its dx by cuDNN: channels last, sums in f32. Not dw: the library writes it
 * in the type of x, and gradients of parameters are F32. */
#include "kernels/base/log.h"
#include "kernels/conv_check.h"

#include "kernels/cuda/kernel_rows.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/runtime.h"

#include <cudnn.h>

#define DNN(call)                                                                                  \
    do {                                                                                           \
        const cudnnStatus_t dnn_s_ = (call);                                                       \
        if (dnn_s_ != CUDNN_STATUS_SUCCESS)                                                        \
            FAIL(E_DEVICE, "%s: %s", #call, cudnnGetErrorString(dnn_s_));                          \
    } while (0)

/* The library has nothing of that kind; no failure. */
static bool is_refusal(cudnnStatus_t s)
{
#ifdef CUDNN_STATUS_CATEGORY /* since cuDNN 9 it says why */
    return CUDNN_STATUS_CATEGORY(s) == CUDNN_STATUS_NOT_SUPPORTED;
#else
    return s == CUDNN_STATUS_NOT_SUPPORTED;
#endif
}

struct dnn_shape {
    int64_t n, h, w, n_in, n_out; /* of the forward convolution */
    bool backward;                /* dx from dy */
};

/* The descriptors live as long as the process. */
struct dnn_plan {
    struct dnn_shape shape;
    bool refused; /* the library has no algorithm of one order */
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t convolution;
    cudnnConvolutionFwdAlgo_t forward;
    cudnnConvolutionBwdDataAlgo_t backward;
    int64_t workspace; /* bytes */
};

/* A model has one such layer, for each of few batch sizes. */
enum { MAX_PLANS = 32, MAX_ALGORITHMS = 16, LIBRARY_ALIGN = 16 };
static const size_t MAX_WORKSPACE = 256 << 20;

static struct dnn_plan plans[MAX_PLANS];
static int n_plans;
static cudnnHandle_t handle; /* of the one device of this process, until it ends */

static enum status describe(struct dnn_plan *p)
{
    const struct dnn_shape *z = &p->shape;
    const int n = (int)z->n, h = (int)z->h, w = (int)z->w, c = (int)z->n_in, k = (int)z->n_out;

    DNN(cudnnCreateTensorDescriptor(&p->x));
    DNN(cudnnCreateTensorDescriptor(&p->y));
    DNN(cudnnCreateFilterDescriptor(&p->w));
    DNN(cudnnCreateConvolutionDescriptor(&p->convolution));
    DNN(cudnnSetTensor4dDescriptor(p->x, CUDNN_TENSOR_NHWC, CUDNN_DATA_BFLOAT16, n, c, h, w));
    DNN(cudnnSetTensor4dDescriptor(p->y, CUDNN_TENSOR_NHWC, CUDNN_DATA_BFLOAT16, n, k, h, w));
    DNN(cudnnSetFilter4dDescriptor(p->w, CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_NHWC, k, c, 3, 3));
    DNN(cudnnSetConvolution2dDescriptor(p->convolution, 1, 1, 1, 1, 1, 1, CUDNN_CROSS_CORRELATION,
                                        CUDNN_DATA_FLOAT));
    DNN(cudnnSetConvolutionMathType(p->convolution, CUDNN_TENSOR_OP_MATH));
    return OK;
}

/* The fastest, as the library thinks, whose sums have one order, and the arithmetic that this was said
 * of; false: none. */
template <class PERFORMANCE, class ALGORITHM>
static bool best(ALGORITHM *algorithm, cudnnMathType_t *math, const PERFORMANCE *found, int n_found)
{
    for (int i = 0; i < n_found; i++)
        if (found[i].status == CUDNN_STATUS_SUCCESS &&
            found[i].determinism == CUDNN_DETERMINISTIC && found[i].memory <= MAX_WORKSPACE) {
            *algorithm = found[i].algo;
            *math = found[i].mathType;
            return true;
        }
    return false;
}

static enum status choose(struct dnn_plan *p)
{
    cudnnConvolutionFwdAlgoPerf_t forward[MAX_ALGORITHMS];
    cudnnConvolutionBwdDataAlgoPerf_t backward[MAX_ALGORITHMS];
    cudnnMathType_t math = CUDNN_TENSOR_OP_MATH;
    cudnnStatus_t answer;
    size_t bytes = 0;
    int n = 0;
    bool any;

    if (p->shape.backward) {
        answer = cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, p->w, p->y, p->convolution,
                                                             p->x, MAX_ALGORITHMS, &n, backward);
        any = answer == CUDNN_STATUS_SUCCESS && best(&p->backward, &math, backward, n);
    } else {
        answer = cudnnGetConvolutionForwardAlgorithm_v7(handle, p->x, p->w, p->convolution, p->y,
                                                        MAX_ALGORITHMS, &n, forward);
        any = answer == CUDNN_STATUS_SUCCESS && best(&p->forward, &math, forward, n);
    }
    if (answer != CUDNN_STATUS_SUCCESS && !is_refusal(answer))
        FAIL(E_DEVICE, "cuDNN's algorithms of a convolution: %s", cudnnGetErrorString(answer));
    p->refused = !any;
    if (p->refused) {
        log_warn("cuDNN has no algorithm of one order for %s3x3 convolution of %lld x %lld pixels, "
                 "%lld to %lld channels: own products there",
                 p->shape.backward ? "dx of a " : "a ", (long long)p->shape.h,
                 (long long)p->shape.w, (long long)p->shape.n_in, (long long)p->shape.n_out);
        return OK;
    }
    DNN(cudnnSetConvolutionMathType(p->convolution, math));
    if (p->shape.backward)
        DNN(cudnnGetConvolutionBackwardDataWorkspaceSize(handle, p->w, p->y, p->convolution, p->x,
                                                         p->backward, &bytes));
    else
        DNN(cudnnGetConvolutionForwardWorkspaceSize(handle, p->x, p->w, p->convolution, p->y,
                                                    p->forward, &bytes));
    p->workspace = (int64_t)bytes;
    return OK;
}

static bool same_shape(const struct dnn_shape *a, const struct dnn_shape *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w && a->n_in == b->n_in &&
           a->n_out == b->n_out && a->backward == b->backward;
}

/* The plan of a shape, made when it is asked for first: while planning. */
static enum status plan_of(const struct dnn_plan **p, struct dnn_shape z)
{
    for (int i = 0; i < n_plans; i++)
        if (same_shape(&plans[i].shape, &z)) {
            *p = &plans[i];
            return OK;
        }
    if (n_plans == MAX_PLANS)
        FAIL(E_FAILED, "more than %d shapes of convolutions; raise MAX_PLANS", (int)MAX_PLANS);
    struct dnn_plan made = {};

    made.shape = z;
    if (!handle) DNN(cudnnCreate(&handle));
    TRY(describe(&made));
    TRY(choose(&made));
    plans[n_plans] = made;
    *p = &plans[n_plans++];
    return OK;
}

static enum status check_aligned(const void *a, const void *b)
{
    if (((uintptr_t)a | (uintptr_t)b) % LIBRARY_ALIGN)
        FAIL(E_DEVICE, "an operand of cuDNN is not on %d bytes; say run.own_products=true",
             (int)LIBRARY_ALIGN);
    return OK;
}

/* x: or dy, of as many pixels */
static enum status plan_for(const struct dnn_plan **p, struct tensor x, struct tensor w,
                            bool backward)
{
    return plan_of(p, { x.dim[0], x.dim[1], x.dim[2], w.dim[1], w.dim[0], backward });
}

/* Channels of whole 16 bytes; sizes that the library counts in int. */
extern "C" enum status library_conv3x3_takes(bool *takes, struct tensor x, struct tensor w,
                                             bool backward, const struct stream *s)
{
    const int64_t n = tensor_count(x);
    const struct dnn_plan *p;

    *takes = !s->own_products && runtime_is_open() && w.dtype == BF16 && n > 0 && n <= INT32_MAX &&
             w.dim[0] > 0 && n / w.dim[1] * w.dim[0] <= INT32_MAX && w.dim[0] % 8 == 0 &&
             w.dim[1] % 8 == 0;
    if (!*takes) return OK;
    TRY(plan_for(&p, x, w, backward));
    *takes = !p->refused;
    return OK;
}

extern "C" enum status library_conv3x3_fwd(struct tensor y, struct tensor x, struct tensor w,
                                           struct stream *s)
{
    const float one = 1, none = 0;
    const struct dnn_plan *p;
    const bf16 *rows;
    void *scratch; /* the weights by rows, the library's workspace */

    TRY(plan_for(&p, x, w, false));
    STREAM_SCRATCH(s, scratch, lay_bytes(w) + p->workspace);
    TRY(check_aligned(x.data, y.data));
    TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
    DNN(cudnnSetStream(handle, (cudaStream_t)s->queue));
    DNN(cudnnConvolutionForward(handle, &one, p->x, x.data, p->w, rows, p->convolution, p->forward,
                                (char *)scratch + lay_bytes(w), (size_t)p->workspace, &none, p->y,
                                y.data));
    return OK;
}

extern "C" enum status library_conv3x3_dx(struct tensor dx, struct tensor dy, struct tensor w,
                                          struct stream *s)
{
    const float one = 1, old = dx.add ? 1 : 0;
    const struct dnn_plan *p;
    const bf16 *rows;
    void *scratch;

    TRY(plan_for(&p, dy, w, true));
    STREAM_SCRATCH(s, scratch, lay_bytes(w) + p->workspace);
    if (!dx.data) return OK;
    TRY(check_aligned(dx.data, dy.data));
    TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
    DNN(cudnnSetStream(handle, (cudaStream_t)s->queue));
    DNN(cudnnConvolutionBackwardData(handle, &one, p->w, rows, p->y, dy.data, p->convolution,
                                     p->backward, (char *)scratch + lay_bytes(w),
                                     (size_t)p->workspace, &old, p->x, dx.data));
    return OK;
}
