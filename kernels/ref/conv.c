#include "kernels/conv_check.h"
#include "kernels/ref/activation.h"

/* Element (n,i,j,c) of a channels-last tensor. */
static int64_t at(struct tensor t, int64_t n, int64_t i, int64_t j, int64_t c)
{
    return ((n * t.dim[1] + i) * t.dim[2] + j) * t.dim[3] + c;
}

static double value(struct tensor t, int64_t i)
{
    return ((const float *)t.data)[i];
}

/* The three convolutions are one sum over (x position, w element, y position) triples. This says
 * for output pixel (i,j) and kernel element (a,b) which input pixel meets which. */
enum kind { PATCH, SAME3X3, UP };

static bool meet(enum kind kind, struct tensor x, struct tensor w, int64_t i, int64_t j, int64_t a,
                 int64_t b, int64_t *xi, int64_t *xj)
{
    if (kind == PATCH) {
        *xi = i * w.dim[2] + a;
        *xj = j * w.dim[2] + b;
        return true;
    }
    if (kind == SAME3X3) {
        *xi = i + a - 1;
        *xj = j + b - 1;
        return *xi >= 0 && *xi < x.dim[1] && *xj >= 0 && *xj < x.dim[2];
    }
    *xi = i / 2;
    *xj = j / 2;
    return i % 2 == a && j % 2 == b;
}

static int64_t w_at(enum kind kind, struct tensor w, int64_t o, int64_t c, int64_t a, int64_t b)
{
    return kind == UP ? at(w, c, o, a, b) : at(w, o, c, a, b);
}

static void forward(enum kind kind, struct tensor y, struct tensor pre, struct tensor x,
                    struct tensor w, struct tensor bias, enum activation act, int64_t n, int64_t i,
                    int64_t j, int64_t o)
{
    double sum = bias.data ? value(bias, o) : 0;
    int64_t xi, xj;

    for (int64_t a = 0; a < w.dim[2]; a++)
        for (int64_t b = 0; b < w.dim[3]; b++)
            for (int64_t c = 0; meet(kind, x, w, i, j, a, b, &xi, &xj) && c < x.dim[3]; c++)
                sum += value(x, at(x, n, xi, xj, c)) * value(w, w_at(kind, w, o, c, a, b));
    if (act == ACT_GELU) ((float *)pre.data)[at(y, n, i, j, o)] = (float)sum;
    ((float *)y.data)[at(y, n, i, j, o)] = (float)activation_value(act, sum);
}

static void forward_all(enum kind kind, struct tensor y, struct tensor pre, struct tensor x,
                        struct tensor w, struct tensor b, enum activation act)
{
    for (int64_t n = 0; n < y.dim[0]; n++)
        for (int64_t i = 0; i < y.dim[1]; i++)
            for (int64_t j = 0; j < y.dim[2]; j++)
                for (int64_t o = 0; o < y.dim[3]; o++)
                    forward(kind, y, pre, x, w, b, act, n, i, j, o);
}

/* Adds what output element (n,i,j,o), whose gradient is g, gives to each input and weight. */
static void backward(enum kind kind, double *dx_sum, double *dw_sum, double g, struct tensor x,
                     struct tensor w, int64_t n, int64_t i, int64_t j, int64_t o)
{
    int64_t xi, xj;

    for (int64_t a = 0; a < w.dim[2]; a++)
        for (int64_t b = 0; b < w.dim[3]; b++)
            for (int64_t c = 0; meet(kind, x, w, i, j, a, b, &xi, &xj) && c < x.dim[3]; c++) {
                const int64_t x_index = at(x, n, xi, xj, c), w_index = w_at(kind, w, o, c, a, b);

                dx_sum[x_index] += g * value(w, w_index);
                dw_sum[w_index] += g * value(x, x_index);
            }
}

static enum status backward_all(enum kind kind, struct tensor dx, struct tensor dw,
                                struct tensor db, struct tensor dy, struct tensor x,
                                struct tensor w, struct tensor y, struct tensor pre,
                                enum activation act, struct stream *s)
{
    const int64_t n_x = tensor_count(x), n_w = tensor_count(w), n_out = dy.dim[3];
    const int64_t n_sums = n_x + n_w + n_out;
    double *dx_sum;

    STREAM_SCRATCH(s, dx_sum, n_sums * (int64_t)sizeof *dx_sum);

    double *dw_sum = dx_sum + n_x, *db_sum = dw_sum + n_w;

    for (int64_t i = 0; i < n_sums; i++) dx_sum[i] = 0;
    for (int64_t n = 0; n < dy.dim[0]; n++)
        for (int64_t i = 0; i < dy.dim[1]; i++)
            for (int64_t j = 0; j < dy.dim[2]; j++)
                for (int64_t o = 0; o < n_out; o++) {
                    const int64_t index = at(dy, n, i, j, o);
                    const double g = value(dy, index) * activation_slope(act, pre, y, index);

                    db_sum[o] += g;
                    backward(kind, dx_sum, dw_sum, g, x, w, n, i, j, o);
                }
    gradient_put_all(dx, dx_sum);
    gradient_put_all(dw, dw_sum);
    gradient_put_all(db, db_sum);
    return OK;
}

enum status patch_conv_fwd_ref(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                               struct tensor b, enum activation act, struct stream *s)
{
    TRY(patch_conv_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);
    forward_all(PATCH, y, pre, x, w, b, act);
    return OK;
}

enum status patch_conv_bwd_ref(struct tensor dx, struct tensor dw, struct tensor db,
                               struct tensor dy, struct tensor x, struct tensor w, struct tensor y,
                               struct tensor pre, enum activation act, struct stream *s)
{
    TRY(patch_conv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    return backward_all(PATCH, dx, dw, db, dy, x, w, y, pre, act, s);
}

enum status conv3x3_fwd_ref(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    TRY(conv3x3_fwd_check(y, x, w));
    STREAM_NO_SCRATCH(s);
    forward_all(SAME3X3, y, tensor_none(), x, w, tensor_none(), ACT_NONE);
    return OK;
}

enum status conv3x3_bwd_ref(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                            struct tensor w, struct stream *s)
{
    TRY(conv3x3_bwd_check(dx, dw, dy, x, w));
    return backward_all(SAME3X3, dx, dw, tensor_none(), dy, x, w, tensor_none(), tensor_none(),
                        ACT_NONE, s);
}

enum status upconv_fwd_ref(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    TRY(upconv_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);
    forward_all(UP, y, pre, x, w, b, act);
    return OK;
}

enum status upconv_bwd_ref(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    TRY(upconv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    return backward_all(UP, dx, dw, db, dy, x, w, y, pre, act, s);
}
