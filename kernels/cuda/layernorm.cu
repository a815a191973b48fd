#include "kernels/layernorm_check.h"

#include "kernels/cuda/norm_rows.h"

extern "C" enum status layernorm_fwd_cuda(struct tensor y, struct tensor mean, struct tensor rstd,
                                          struct tensor x, struct tensor gamma, struct tensor beta,
                                          float eps, enum activation act, struct stream *s)
{
    TRY(layernorm_fwd_check(y, mean, rstd, x, gamma, beta, act));
    STREAM_NO_SCRATCH(s);

    BY_DTYPES(x, y,
              const norm_fwd<S, T> p = { (T *)y.data, (float *)mean.data, (float *)rstd.data,
                                         (const S *)x.data, (const float *)gamma.data,
                                         (const float *)beta.data, eps, act == ACT_GELU, NULL, NULL,
                                         NULL };
              return norm_fwd_launch(p, tensor_rows(x), tensor_cols(x), s));
}

extern "C" enum status layernorm_bwd_cuda(struct tensor dx, struct tensor dgamma,
                                          struct tensor dbeta, struct tensor dy, struct tensor x,
                                          struct tensor gamma, struct tensor beta,
                                          struct tensor mean, struct tensor rstd,
                                          enum activation act, struct stream *s)
{
    TRY(layernorm_bwd_check(dx, dgamma, dbeta, dy, x, gamma, beta, mean, rstd, act));
    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x);
    void *scratch; /* the chunks' sums, f32 */

    STREAM_SCRATCH(s, scratch, norm_bwd_scratch(n_rows, n_c));

    BY_DTYPES(x, dy, norm_bwd<S, T> p = {}; p.dx = (S *)dx.data; p.add_x = dx.add;
              p.dy = (const T *)dy.data; p.x = (const S *)x.data;
              p.gamma = (const float *)gamma.data; p.beta = (const float *)beta.data;
              p.mean = (const float *)mean.data; p.rstd = (const float *)rstd.data;
              p.with_gelu = act == ACT_GELU;
              return norm_bwd_launch(p, dgamma, dbeta, (float *)scratch, n_rows, n_c, s));
}
