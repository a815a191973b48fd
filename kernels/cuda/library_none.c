/* What library.h is where a library is not there, and on the emulator: nothing is taken, ops compute their products
 * themselves. Weak: library_blas.cu and library_dnn.cu, where they are built, stand in their place. */
#include "kernels/cuda/library.h"

__attribute__((weak)) enum status library_linear_fwd_takes(bool *takes, struct tensor x,
                                                           struct tensor w, struct tensor b,
                                                           const struct stream *s)
{
    (void)x, (void)w, (void)b, (void)s;
    *takes = false;
    return OK;
}

__attribute__((weak)) enum status library_linear_bwd_takes(bool *takes, struct tensor x,
                                                           struct tensor w, const struct stream *s)
{
    (void)x, (void)w, (void)s;
    *takes = false;
    return OK;
}

__attribute__((weak)) enum status library_linear_fwd(struct tensor y, struct tensor pre,
                                                     struct tensor x, struct tensor w,
                                                     struct tensor b, enum activation act,
                                                     struct stream *s)
{
    (void)y, (void)pre, (void)x, (void)w, (void)b, (void)act, (void)s;
    FAIL(E_NO_DEVICE, "a linear layer was handed to a library, but this build has none");
}

__attribute__((weak)) enum status library_linear_bwd(struct tensor dx, struct tensor dw,
                                                     struct tensor db, struct tensor dy,
                                                     struct tensor x, struct tensor w,
                                                     struct tensor y, struct tensor pre,
                                                     enum activation act, struct stream *s)
{
    (void)dx, (void)dw, (void)db, (void)dy, (void)x, (void)w, (void)y, (void)pre, (void)act;
    (void)s;
    FAIL(E_NO_DEVICE, "a linear layer was handed to a library, but this build has none");
}

__attribute__((weak)) enum status library_conv3x3_takes(bool *takes, struct tensor x,
                                                        struct tensor w, bool backward,
                                                        const struct stream *s)
{
    (void)x, (void)w, (void)backward, (void)s;
    *takes = false;
    return OK;
}

__attribute__((weak)) enum status library_conv3x3_fwd(struct tensor y, struct tensor x,
                                                      struct tensor w, struct stream *s)
{
    (void)y, (void)x, (void)w, (void)s;
    FAIL(E_NO_DEVICE, "a convolution was handed to a library, but this build has none");
}

__attribute__((weak)) enum status library_conv3x3_dx(struct tensor dx, struct tensor dy,
                                                     struct tensor w, struct stream *s)
{
    (void)dx, (void)dy, (void)w, (void)s;
    FAIL(E_NO_DEVICE, "a convolution was handed to a library, but this build has none");
}
