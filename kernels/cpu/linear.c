#include "kernels/linear.h"

enum status linear_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    return linear_fwd_ref(y, pre, x, w, b, act, s);
}

enum status linear_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    return linear_bwd_ref(dx, dw, db, dy, x, w, y, pre, act, s);
}
