#include "kernels/residual_layernorm_check.h"

#include "kernels/cuda/norm_rows.h"

extern "C" enum status residual_layernorm_fwd_cuda(struct tensor sum, struct tensor y,
                                                   struct tensor mean, struct tensor rstd,
                                                   struct tensor x, struct tensor b,
                                                   struct tensor scale, struct tensor gamma,
                                                   struct tensor beta, float eps, struct stream *s)
{
    TRY(residual_layernorm_fwd_check(sum, y, mean, rstd, x, b, scale, gamma, beta));
    STREAM_NO_SCRATCH(s);

    BY_DTYPES(sum, y,
              const norm_fwd<S, T> p = { (T *)y.data, (float *)mean.data, (float *)rstd.data,
                                         (const S *)x.data, (const float *)gamma.data,
                                         (const float *)beta.data, eps, false, (S *)sum.data,
                                         (const T *)b.data, (const float *)scale.data };
              return norm_fwd_launch(p, tensor_rows(sum), tensor_cols(sum), s));
}

extern "C" enum status residual_layernorm_bwd_cuda(struct tensor dx, struct tensor db,
                                                   struct tensor dgamma, struct tensor dbeta,
                                                   struct tensor dsum, struct tensor dy,
                                                   struct tensor sum, struct tensor gamma,
                                                   struct tensor mean, struct tensor rstd,
                                                   struct tensor scale, struct stream *s)
{
    TRY(residual_layernorm_bwd_check(dx, db, dgamma, dbeta, dsum, dy, sum, gamma, mean, rstd,
                                     scale));
    const int64_t n_rows = tensor_rows(sum), n_c = tensor_cols(sum);
    void *scratch; /* the chunks' sums, f32 */

    STREAM_SCRATCH(s, scratch, norm_bwd_scratch(n_rows, n_c));

    BY_DTYPES(sum, dy,
              const norm_bwd<S, T> p = { (S *)dx.data, (T *)db.data, dx.add, db.add,
                                         (const S *)dsum.data, (const T *)dy.data,
                                         (const S *)sum.data, (const float *)gamma.data, NULL,
                                         (const float *)mean.data, (const float *)rstd.data,
                                         (const float *)scale.data, false };
              return norm_bwd_launch(p, dgamma, dbeta, (float *)scratch, n_rows, n_c, s));
}
