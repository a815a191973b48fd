#include "kernels/posenc_check.h"

#include "kernels/cuda/element.h"

enum { THREADS = 128 };

/* sin and cos of a number of turns: whole quarters are taken off in double, and what is left, up to
 * π/4, goes into the series, which there end below 2^-28. (sinf's own reduction of any argument
 * needs local memory.) */
DEVICE float2 wave(double turns)
{
    const double quarters = rint(4 * turns);
    const float x = (float)((turns - 0.25 * quarters) * 6.28318530717958648), xx = x * x;
    const float sine =
        x + x * xx * (-1.0f / 6 + xx * (1.0f / 120 + xx * (-1.0f / 5040 + xx * (1.0f / 362880))));
    const float cosine =
        1 + xx * (-0.5f + xx * (1.0f / 24 +
                                xx * (-1.0f / 720 + xx * (1.0f / 40320 + xx * (-1.0f / 3628800)))));
    const int quarter = (int)((int64_t)quarters & 3);
    const float s = quarter & 1 ? cosine : sine, c = quarter & 1 ? sine : cosine;

    return make_float2(quarter & 2 ? -s : s, quarter == 1 || quarter == 2 ? -c : c);
}

/* Features i and C/2 + i of position (x,y). */
DEVICE float2 feature(double x, double y, const float *gaussian, int i, int pairs)
{
    return wave((2 * x - 1) * gaussian[i] + (2 * y - 1) * gaussian[pairs + i]);
}

/* A block owns a position, a thread every 128th pair of its features: one set of turns is their
 * sine and their cosine. gaussian is read once a position, from L1; pe is written once.
 * Bound by arithmetic, 30 operations a feature, 6 of them double: 20 µs on A100 for 64×64×256,
 * once a step. A table of angles by rows and columns would not do: sines of sums are wanted. */
__global__ static void __launch_bounds__(THREADS)
    grid_features(float *pe, const float *gaussian, int h, int w, int pairs)
{
    const int row = (int)blockIdx.x / w, col = (int)blockIdx.x % w;
    const double x = (col + 0.5) / w, y = (row + 0.5) / h;
    float *const out = pe + (int64_t)blockIdx.x * 2 * pairs;

    for (int i = (int)threadIdx.x; i < pairs; i += THREADS) {
        const float2 v = feature(x, y, gaussian, i, pairs);

        out[i] = v.x;
        out[pairs + i] = v.y;
    }
}

extern "C" enum status posenc_grid_cuda(struct tensor pe, struct tensor gaussian, struct stream *s)
{
    TRY(posenc_grid_check(pe, gaussian));
    STREAM_NO_SCRATCH(s);

    if (tensor_count(pe) == 0) return OK;
    LAUNCH(grid_features, (unsigned)(pe.dim[0] * pe.dim[1]), THREADS, 0, s, (float *)pe.data,
           (const float *)gaussian.data, (int)pe.dim[0], (int)pe.dim[1], (int)(pe.dim[2] / 2));
    return OK;
}

struct points {
    const float *coords;
    const int32_t *labels, *n_points;
    int n_p;
};

/* What tokens are made of, by places: the iou token, the mask tokens, the table. */
enum { IOU_TOKEN, MASK_TOKENS, TABLE, PLACES = TABLE + POSENC_TABLE, NO_PLACE };

struct learned {
    const float *at[PLACES];
};

/* A block owns a token, a thread every 128th pair of its channels. What is learned is read from L2
 * once a token, tokens are written once. Bound by the launch: 64 masks of 16 tokens are 1 MiB.
 * One token a block, because its kind decides what it is made of: no two ways in one block. */
template <class T>
__global__ static void __launch_bounds__(THREADS)
    make_tokens(T *tokens, const points in, const float *gaussian, const learned from, int n_k,
                int pairs, double frame)
{
    const int n_t = 1 + n_k + in.n_p, t = (int)(blockIdx.x % (unsigned)n_t), p = t - 1 - n_k;
    const int64_t m = blockIdx.x / (unsigned)n_t, at = m * in.n_p + p;
    T *const out = tokens + (int64_t)blockIdx.x * 2 * pairs;
    const float *base = NULL;
    int place = t == 0 ? (int)IOU_TOKEN : (int)MASK_TOKENS;
    bool placed = false;
    double x = 0, y = 0;

    if (p >= 0) {
        const bool used = p < in.n_points[m];
        const int label = used ? in.labels[at] : -1;

        place = used ? TABLE + label + 1 : (int)NO_PLACE;
        placed = label >= 0;
        x = placed ? (in.coords[2 * at] + 0.5) / frame : 0;
        y = placed ? (in.coords[2 * at + 1] + 0.5) / frame : 0;
    }
#pragma unroll
    for (int i = 0; i < PLACES; i++)
        if (i == place) base = from.at[i];
    if (place == MASK_TOKENS) base += (int64_t)(t - 1) * 2 * pairs;
    for (int i = (int)threadIdx.x; i < pairs; i += THREADS) {
        const float2 v = placed ? feature(x, y, gaussian, i, pairs) : make_float2(0, 0);

        element_store(out + i, base ? base[i] + v.x : 0);
        element_store(out + pairs + i, base ? base[pairs + i] + v.y : 0);
    }
}

extern "C" enum status prompt_tokens_fwd_cuda(struct tensor tokens, struct tensor coords,
                                              struct tensor labels, struct tensor n_points,
                                              struct tensor gaussian, struct tensor iou_token,
                                              struct tensor mask_tokens,
                                              const struct tensor table[POSENC_TABLE], int frame,
                                              struct stream *s)
{
    prompt_tokens_shape g;

    TRY(prompt_tokens_fwd_check(&g, tokens, coords, labels, n_points, gaussian, iou_token,
                                mask_tokens, table, frame));
    STREAM_NO_SCRATCH(s);

    const points in = { (const float *)coords.data, (const int32_t *)labels.data,
                        (const int32_t *)n_points.data, (int)g.p };
    learned from = { { (const float *)iou_token.data, (const float *)mask_tokens.data } };

    for (int i = 0; i < POSENC_TABLE; i++) from.at[TABLE + i] = (const float *)table[i].data;
    if (tensor_count(tokens) == 0) return OK;
    BY_DTYPE(tokens,
             LAUNCH(make_tokens<T>, (unsigned)(g.m * g.t), THREADS, 0, s, (T *)tokens.data, in,
                    (const float *)gaussian.data, from, (int)g.k, (int)(g.c / 2), (double)frame));
    return OK;
}

enum { COLUMNS = 32, STRIPES = 8 };

/* Where the gradients go, by places. NULL: not wanted. */
struct gradients {
    float *to[PLACES];
    unsigned adds; /* bit by bit */
};

/* A block owns 32 channels of one learned token, a warp every eighth mask; the warps' sums meet in
 * shared memory, in order. dtokens is read once in all, 128 bytes a warp; labels once a block.
 * Bound by the launch and by latency: 64 masks of 16 tokens are 1 MiB, eight masks a warp. */
template <class T>
__global__ static void __launch_bounds__(COLUMNS *STRIPES)
    sum_tokens(const gradients all, const T *dtokens, const int32_t *labels,
               const int32_t *n_points, int64_t n_m, int n_k, int n_p, int n_c)
{
    __shared__ float part[STRIPES][COLUMNS];
    const int column = (int)threadIdx.x % COLUMNS, stripe = (int)threadIdx.x / COLUMNS;
    const int row = (int)blockIdx.x, entry = row - 1 - n_k, n_t = 1 + n_k + n_p;
    const int c = (int)blockIdx.y * COLUMNS + column;
    const int place = row == 0 ? (int)IOU_TOKEN : entry < 0 ? (int)MASK_TOKENS : TABLE + entry;
    const bool add = all.adds >> place & 1;
    float *out = NULL;
    float sum = 0;

#pragma unroll
    for (int i = 0; i < PLACES; i++)
        if (i == place) out = all.to[i];
    if (!out) return;
    if (place == MASK_TOKENS) out += (int64_t)(row - 1) * n_c;
    for (int64_t m = stripe; m < n_m && c < n_c; m += STRIPES) {
        const T *const from = dtokens + m * n_t * n_c + c;
        const int n = entry < 0 ? 0 : n_points[m];

        if (entry < 0) sum += element_load(from + (int64_t)row * n_c);
        for (int p = 0; p < n; p++)
            if (labels[m * n_p + p] + 1 == entry)
                sum += element_load(from + (int64_t)(1 + n_k + p) * n_c);
    }
    part[stripe][column] = sum;
    __syncthreads();
    if (stripe > 0 || c >= n_c) return;
    sum = 0;
    for (int k = 0; k < STRIPES; k++) sum += part[k][column];
    element_gradient(out + c, add, sum);
}

extern "C" enum status prompt_tokens_bwd_cuda(struct tensor diou_token, struct tensor dmask_tokens,
                                              const struct tensor dtable[POSENC_TABLE],
                                              struct tensor dtokens, struct tensor labels,
                                              struct tensor n_points, struct stream *s)
{
    prompt_tokens_shape g;

    TRY(prompt_tokens_bwd_check(&g, diou_token, dmask_tokens, dtable, dtokens, labels, n_points));
    STREAM_NO_SCRATCH(s);

    const struct tensor *const token[] = { &diou_token, &dmask_tokens };
    gradients all = {};
    const dim3 grid((unsigned)(1 + g.k + POSENC_TABLE), (unsigned)((g.c + COLUMNS - 1) / COLUMNS));

    for (int i = 0; i < PLACES; i++) {
        const struct tensor *const t = i < TABLE ? token[i] : &dtable[i - TABLE];

        all.to[i] = (float *)t->data;
        all.adds |= (unsigned)t->add << i;
    }
    if (g.c == 0) return OK;
    BY_DTYPE(dtokens, LAUNCH(sum_tokens<T>, grid, COLUMNS * STRIPES, 0, s, all,
                             (const T *)dtokens.data, (const int32_t *)labels.data,
                             (const int32_t *)n_points.data, g.m, (int)g.k, (int)g.p, (int)g.c));
    return OK;
}
