#include "kernels/linear_check.h"

#include "kernels/cuda/dense.h"
#include "kernels/cuda/gemm.h"

extern "C" enum status linear_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                       struct tensor w, struct tensor b, enum activation act,
                                       struct stream *s)
{
    TRY(linear_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_in = w.dim[1], n_out = w.dim[0];
    const forward_output<by_rows> out = {
        (float *)y.data, (float *)pre.data, (const float *)b.data, (int)n_out, act, { n_out }
    };

    return gemm(out, read_by(x, by_rows{ n_in }), read_by(w, by_rows{ n_in }), tensor_rows(x),
                n_out, n_in, s);
}

extern "C" enum status linear_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                       struct tensor dy, struct tensor x, struct tensor w,
                                       struct tensor y, struct tensor pre, enum activation act,
                                       struct stream *s)
{
    TRY(linear_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    const int64_t n_slope = act == ACT_NONE ? 0 : n_rows * n_out;
    const int64_t n_bias = dense_bias_scratch(n_rows, n_out);
    const int64_t n_long = gemm_long_scratch(n_out, n_in, n_rows);
    void *scratch; /* dpre; then the sums of db or dw */
    const float *dpre;

    STREAM_SCRATCH(s, scratch,
                   (n_slope + (n_bias > n_long ? n_bias : n_long)) * (int64_t)sizeof(float));

    float *const sums = (float *)scratch + n_slope;
    const by_rows in = { n_in }, of_out = { n_out };

    TRY(dense_slope(&dpre, (float *)scratch, dy, y, pre, act, s));
    const operand<by_rows> g = { dpre, of_out };
    const operand<turned<by_rows>> g_turned = { dpre, turn(of_out) };

    if (dx.data) TRY(gemm(gradient_by(dx, in), g, read_by(w, turn(in)), n_rows, n_in, n_out, s));
    if (dw.data)
        TRY(gemm_long(gradient_by(dw, in), g_turned, read_by(x, turn(in)), n_out, n_in, n_rows,
                      sums, s));
    return dense_bias(db, dpre, n_rows, n_out, sums, s);
}
