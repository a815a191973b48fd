#include "kernels/cast.h"

/* A CPU trains in f32: this is for conversions, not for a step. */
enum status cast_cpu(struct tensor y, struct tensor x, struct stream *s)
{
    return cast_ref(y, x, s);
}
