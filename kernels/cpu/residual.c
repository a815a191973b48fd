#include "kernels/residual.h"

enum status residual_fwd_cpu(struct tensor y, struct tensor x, struct tensor b, struct tensor scale,
                             struct tensor key, float p, int64_t salt, struct stream *s)
{
    return residual_fwd_ref(y, x, b, scale, key, p, salt, s);
}

enum status residual_bwd_cpu(struct tensor dx, struct tensor db, struct tensor dy,
                             struct tensor scale, struct tensor key, float p, int64_t salt,
                             struct stream *s)
{
    return residual_bwd_ref(dx, db, dy, scale, key, p, salt, s);
}

enum status add_fwd_cpu(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    return add_fwd_ref(y, a, b, s);
}

enum status add_bwd_cpu(struct tensor da, struct tensor db, struct tensor dy, struct stream *s)
{
    return add_bwd_ref(da, db, dy, s);
}
