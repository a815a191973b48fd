#include "kernels/linear_check.h"
#include "kernels/ref/activation.h"

enum status linear_fwd_ref(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    TRY(linear_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);

    const float *x_data = x.data, *w_data = w.data, *b_data = b.data;
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    float *y_data = y.data, *pre_data = pre.data;

    for (int64_t n = 0; n < n_rows; n++)
        for (int64_t o = 0; o < n_out; o++) {
            double sum = 0;

            for (int64_t i = 0; i < n_in; i++)
                sum += (double)x_data[n * n_in + i] * w_data[o * n_in + i];
            if (b_data) sum += b_data[o];
            if (act == ACT_GELU) pre_data[n * n_out + o] = (float)sum;
            y_data[n * n_out + o] = (float)activation_value(act, sum);
        }
    return OK;
}

/* dpre[n,o] = dy[n,o] · act'(…) */
static double slope_times_dy(struct tensor dy, struct tensor y, struct tensor pre,
                             enum activation act, int64_t i)
{
    return ((const float *)dy.data)[i] * activation_slope(act, pre, y, i);
}

enum status linear_bwd_ref(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    TRY(linear_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    double *dpre;

    STREAM_SCRATCH(s, dpre, n_rows * n_out * (int64_t)sizeof *dpre);

    const float *x_data = x.data, *w_data = w.data;

    for (int64_t i = 0; i < n_rows * n_out; i++) dpre[i] = slope_times_dy(dy, y, pre, act, i);
    for (int64_t n = 0; dx.data && n < n_rows; n++)
        for (int64_t i = 0; i < n_in; i++) {
            double sum = 0;

            for (int64_t o = 0; o < n_out; o++) sum += dpre[n * n_out + o] * w_data[o * n_in + i];
            gradient_put(dx, n * n_in + i, sum);
        }
    for (int64_t o = 0; dw.data && o < n_out; o++)
        for (int64_t i = 0; i < n_in; i++) {
            double sum = 0;

            for (int64_t n = 0; n < n_rows; n++) sum += dpre[n * n_out + o] * x_data[n * n_in + i];
            gradient_put(dw, o * n_in + i, sum);
        }
    for (int64_t o = 0; db.data && o < n_out; o++) {
        double sum = 0;

        for (int64_t n = 0; n < n_rows; n++) sum += dpre[n * n_out + o];
        gradient_put(db, o, sum);
    }
    return OK;
}
