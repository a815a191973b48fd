/* The emulated device has no library for products: its ops compute them themselves. */
#include "kernels/cuda/library.h"

bool library_linear_takes(struct tensor x, struct tensor w, const struct stream *s)
{
    (void)x, (void)w, (void)s;
    return false;
}

enum status library_linear_fwd(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                               struct tensor b, enum activation act, struct stream *s)
{
    (void)y, (void)pre, (void)x, (void)w, (void)b, (void)act, (void)s;
    FAIL(E_NO_DEVICE, "a linear layer was handed to a library, but the emulator has none");
}

enum status library_linear_bwd(struct tensor dx, struct tensor dw, struct tensor db,
                               struct tensor dy, struct tensor x, struct tensor w, struct tensor y,
                               struct tensor pre, enum activation act, struct stream *s)
{
    (void)dx, (void)dw, (void)db, (void)dy, (void)x, (void)w, (void)y, (void)pre, (void)act;
    (void)s;
    FAIL(E_NO_DEVICE, "a linear layer was handed to a library, but the emulator has none");
}

bool library_conv3x3_takes(struct tensor x, struct tensor w, const struct stream *s)
{
    (void)x, (void)w, (void)s;
    return false;
}

enum status library_conv3x3_fwd(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    (void)y, (void)x, (void)w, (void)s;
    FAIL(E_NO_DEVICE, "a convolution was handed to a library, but the emulator has none");
}

enum status library_conv3x3_dx(struct tensor dx, struct tensor dy, struct tensor w,
                               struct stream *s)
{
    (void)dx, (void)dy, (void)w, (void)s;
    FAIL(E_NO_DEVICE, "a convolution was handed to a library, but the emulator has none");
}
