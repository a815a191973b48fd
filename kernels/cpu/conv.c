#include "kernels/conv.h"

enum status patch_conv_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                               struct tensor b, enum activation act, struct stream *s)
{
    return patch_conv_fwd_ref(y, pre, x, w, b, act, s);
}

enum status patch_conv_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db,
                               struct tensor dy, struct tensor x, struct tensor w, struct tensor y,
                               struct tensor pre, enum activation act, struct stream *s)
{
    return patch_conv_bwd_ref(dx, dw, db, dy, x, w, y, pre, act, s);
}

enum status conv3x3_fwd_cpu(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    return conv3x3_fwd_ref(y, x, w, s);
}

enum status conv3x3_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                            struct tensor w, struct stream *s)
{
    return conv3x3_bwd_ref(dx, dw, dy, x, w, s);
}

enum status upconv_fwd_cpu(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                           struct tensor b, enum activation act, struct stream *s)
{
    return upconv_fwd_ref(y, pre, x, w, b, act, s);
}

enum status upconv_bwd_cpu(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                           struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                           enum activation act, struct stream *s)
{
    return upconv_bwd_ref(dx, dw, db, dy, x, w, y, pre, act, s);
}
