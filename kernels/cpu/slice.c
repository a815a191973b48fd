#include "kernels/slice_check.h"

#include <string.h>

static size_t bytes(int64_t floats)
{
    return (size_t)floats * sizeof(float);
}

enum status slice_fwd_cpu(struct tensor y, struct tensor x, int64_t first, struct stream *s)
{
    TRY(slice_fwd_check(y, x, first));
    STREAM_NO_SCRATCH(s);

    const int64_t n_c = x.dim[2], part = y.dim[1] * n_c, whole = x.dim[1] * n_c;

    if (part == 0) return OK;
    for (int64_t m = 0; m < y.dim[0]; m++)
        memcpy((float *)y.data + m * part, (const float *)x.data + m * whole + first * n_c,
               bytes(part));
    return OK;
}

enum status slice_bwd_cpu(struct tensor dx, struct tensor dy, int64_t first, struct stream *s)
{
    TRY(slice_bwd_check(dx, dy, first));
    STREAM_NO_SCRATCH(s);
    if (!dx.data) return OK;

    const int64_t n_c = dx.dim[2], part = dy.dim[1] * n_c, whole = dx.dim[1] * n_c;

    for (int64_t m = 0; m < dx.dim[0]; m++) {
        const float *from = (const float *)dy.data + m * part;
        float *row = (float *)dx.data + m * whole, *to = row + first * n_c;

        if (!dx.add) memset(row, 0, bytes(whole));
        for (int64_t i = 0; i < part; i++) to[i] = dx.add ? to[i] + from[i] : from[i];
    }
    return OK;
}
