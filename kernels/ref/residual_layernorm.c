/* The composition that the header spells out. */
#include "kernels/residual_layernorm_check.h"

#include <stddef.h>
#include <string.h>

#include "kernels/layernorm.h"
#include "kernels/residual.h"

enum status residual_layernorm_fwd_ref(struct tensor sum, struct tensor y, struct tensor mean,
                                       struct tensor rstd, struct tensor x, struct tensor b,
                                       struct tensor scale, struct tensor gamma, struct tensor beta,
                                       float eps, struct stream *s)
{
    TRY(residual_layernorm_fwd_check(sum, y, mean, rstd, x, b, scale, gamma, beta));
    TRY(residual_fwd_ref(sum, x, b, scale, tensor_none(), 0, 0, s));
    return layernorm_fwd_ref(y, mean, rstd, sum, gamma, beta, eps, ACT_NONE, s);
}

enum status residual_layernorm_bwd_ref(struct tensor dx, struct tensor db, struct tensor dgamma,
                                       struct tensor dbeta, struct tensor dsum, struct tensor dy,
                                       struct tensor sum, struct tensor gamma, struct tensor mean,
                                       struct tensor rstd, struct tensor scale, struct stream *s)
{
    TRY(residual_layernorm_bwd_check(dx, db, dgamma, dbeta, dsum, dy, sum, gamma, mean, rstd,
                                     scale));
    const struct tensor beta = gamma; /* without an activation only its shape is looked at */
    struct stream norm = stream_dry(s);
    struct tensor d = sum;
    char *scratch; /* d, then what layernorm_bwd asks for */

    d.data = NULL;
    TRY(layernorm_bwd_ref(d, dgamma, dbeta, dy, sum, gamma, beta, mean, rstd, ACT_NONE, &norm));
    const int64_t bytes = (tensor_bytes(d) + 63) / 64 * 64;

    STREAM_SCRATCH(s, scratch, bytes + norm.scratch_need);

    norm = (struct stream){ .scratch = scratch + bytes, .scratch_bytes = norm.scratch_need };
    d.data = scratch;
    d.add = dsum.data != NULL;
    if (d.add) memcpy(d.data, dsum.data, (size_t)tensor_bytes(d));
    TRY(layernorm_bwd_ref(d, dgamma, dbeta, dy, sum, gamma, beta, mean, rstd, ACT_NONE, &norm));
    return residual_bwd_ref(dx, db, d, scale, tensor_none(), 0, 0, s);
}
