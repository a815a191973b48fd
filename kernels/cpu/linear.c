#include "kernels/cpu/dense.h"
#include "kernels/linear_check.h"

static struct dense dense_of(struct tensor x, struct tensor w, enum activation act)
{
    return (struct dense){ tensor_rows(x), w.dim[1], w.dim[0], act };
}

enum status linear_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    TRY(linear_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);
    dense_fwd(y.data, pre.data, x.data, w.data, b.data, dense_of(x, w, act));
    return OK;
}

enum status linear_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    TRY(linear_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const struct dense d = dense_of(x, w, act);
    float *scratch;

    STREAM_SCRATCH(s, scratch, dense_bwd_scratch(d) * (int64_t)sizeof *scratch);
    dense_bwd(dx, dw, db, dy.data, x.data, w.data, y.data, pre.data, d, scratch);
    return OK;
}
