#include "kernels/optimizer_check.h"

enum status grad_norm_check(struct tensor squares, struct tensor g)
{
    TENSOR_EXPECT("grad_norm", squares, F64, 1);
    TENSOR_EXPECT("grad_norm", g, F32, -1);
    return OK;
}

enum status adamw_check(struct tensor w, struct tensor m, struct tensor v, struct tensor w16,
                        struct tensor g, struct tensor squares, const struct adamw_segment *segment,
                        int n_segments, const struct adamw_options *o)
{
    const char *const op = "adamw";
    int64_t begin = 0;

    TENSOR_EXPECT(op, w, F32, -1);
    TENSOR_EXPECT(op, m, F32, w.dim[0]);
    TENSOR_EXPECT(op, v, F32, w.dim[0]);
    if (!tensor_is_none(w16)) TENSOR_EXPECT(op, w16, BF16, w.dim[0]);
    TENSOR_EXPECT(op, g, F32, w.dim[0]);
    if (!tensor_is_none(squares)) TENSOR_EXPECT(op, squares, F64, -1);
    if (o->clip > 0 && (tensor_is_none(squares) || squares.dim[0] < 1))
        FAIL(E_SHAPE, "%s: clipping to %g needs the gradient's squares", op, (double)o->clip);
    if (o->step < 1) FAIL(E_SHAPE, "%s: step %lld; the first is 1", op, (long long)o->step);
    for (int i = 0; i < n_segments; i++) {
        if (segment[i].end < begin)
            FAIL(E_SHAPE, "%s: segment %d ends at %lld, before its start %lld", op, i,
                 (long long)segment[i].end, (long long)begin);
        begin = segment[i].end;
    }
    if (begin != w.dim[0])
        FAIL(E_SHAPE, "%s: %d segments cover %lld of %lld elements", op, n_segments,
             (long long)begin, (long long)w.dim[0]);
    return OK;
}
