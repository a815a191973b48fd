#include "kernels/conv_check.h"

#include "kernels/cuda/dense.h"
#include "kernels/cuda/gemm.h"

/* In all products j or k counts a kernel's elements and channels as (a,b,c): neighbours in an
 * activation's memory, which is the greater part of what is read. */

static int64_t pixels(struct tensor t)
{
    return t.dim[0] * t.dim[1] * t.dim[2];
}

static int64_t area(struct tensor w)
{
    return w.dim[2] * w.dim[3];
}

/* w (P,Q,a,b), rows p */
static by_kernel kernel_by_first(struct tensor w)
{
    return by_kernel{ w.dim[1] * area(w), area(w), (int)w.dim[1] };
}

/* w (P,Q,a,b), rows q */
static by_kernel kernel_by_second(struct tensor w)
{
    return by_kernel{ area(w), w.dim[1] * area(w), (int)w.dim[0] };
}

/* x as patches below the cells of y's grid */
static by_patches patches_of(struct tensor x, int64_t side)
{
    return by_patches{ (int)(x.dim[2] / side), (int)side, (int)x.dim[3] };
}

static by_neighbours neighbours_of(struct tensor x, int sign)
{
    return by_neighbours{ (int)x.dim[1], (int)x.dim[2], (int)x.dim[3], sign };
}

/* What a backward pass keeps in scratch: dpre; behind it the sums of dw or db, in turn. */
struct room {
    float *dpre, *sums;
};

static enum status take_room(struct room *room, struct tensor dy, enum activation act,
                             int64_t n_long, struct stream *s)
{
    const int64_t n_slope = act == ACT_NONE ? 0 : tensor_count(dy);
    const int64_t n_bias = dense_bias_scratch(pixels(dy), dy.dim[3]);
    void *scratch;

    STREAM_SCRATCH(s, scratch,
                   (n_slope + (n_bias > n_long ? n_bias : n_long)) * (int64_t)sizeof(float));
    room->dpre = (float *)scratch;
    room->sums = room->dpre + n_slope;
    return OK;
}

extern "C" enum status patch_conv_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                           struct tensor w, struct tensor b, enum activation act,
                                           struct stream *s)
{
    TRY(patch_conv_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_out = w.dim[0];
    const forward_output<by_rows> out = {
        (float *)y.data, (float *)pre.data, (const float *)b.data, (int)n_out, act, { n_out }
    };

    return gemm(out, read_by(x, patches_of(x, w.dim[2])), read_by(w, kernel_by_first(w)), pixels(y),
                n_out, w.dim[1] * area(w), s);
}

extern "C" enum status patch_conv_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                           struct tensor dy, struct tensor x, struct tensor w,
                                           struct tensor y, struct tensor pre, enum activation act,
                                           struct stream *s)
{
    TRY(patch_conv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const int64_t n_cells = pixels(dy), n_out = w.dim[0], n_patch = w.dim[1] * area(w);
    struct room room;
    const float *dpre;

    TRY(take_room(&room, dy, act, gemm_long_scratch(n_out, n_patch, n_cells), s));
    STREAM_NO_SCRATCH(s);
    TRY(dense_slope(&dpre, room.dpre, dy, y, pre, act, s));

    const by_patches in = patches_of(x, w.dim[2]);
    const by_kernel kernel = kernel_by_first(w);
    const by_rows of_out = { n_out };
    const operand<by_rows> g = { dpre, of_out };
    const operand<turned<by_rows>> g_turned = { dpre, turn(of_out) };

    if (dx.data)
        TRY(gemm(gradient_by(dx, in), g, read_by(w, turn(kernel)), n_cells, n_patch, n_out, s));
    if (dw.data)
        TRY(gemm_long(gradient_by(dw, kernel), g_turned, read_by(x, turn(in)), n_out, n_patch,
                      n_cells, room.sums, s));
    return dense_bias(db, dpre, n_cells, n_out, room.sums, s);
}

extern "C" enum status conv3x3_fwd_cuda(struct tensor y, struct tensor x, struct tensor w,
                                        struct stream *s)
{
    TRY(conv3x3_fwd_check(y, x, w));
    STREAM_NO_SCRATCH(s);

    const int64_t n_out = w.dim[0];
    const forward_output<by_rows> out = { (float *)y.data, NULL, NULL, 1, ACT_NONE, { n_out } };

    return gemm(out, read_by(x, neighbours_of(x, 1)), read_by(w, kernel_by_first(w)), pixels(y),
                n_out, w.dim[1] * area(w), s);
}

extern "C" enum status conv3x3_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor dy,
                                        struct tensor x, struct tensor w, struct stream *s)
{
    TRY(conv3x3_bwd_check(dx, dw, dy, x, w));
    const int64_t n_pixels = pixels(dy), n_out = w.dim[0], n_in = w.dim[1];
    void *scratch;

    STREAM_SCRATCH(s, scratch,
                   gemm_long_scratch(n_out, n_in * area(w), n_pixels) * (int64_t)sizeof(float));

    const by_rows in = { n_in }, of_out = { n_out };

    if (dx.data)
        TRY(gemm(gradient_by(dx, in), read_by(dy, neighbours_of(dy, -1)),
                 read_by(w, kernel_by_second(w)), n_pixels, n_in, n_out * area(w), s));
    if (!dw.data) return OK;
    return gemm_long(gradient_by(dw, kernel_by_first(w)), read_by(dy, turn(of_out)),
                     read_by(x, turn(neighbours_of(x, 1))), n_out, n_in * area(w), n_pixels,
                     (float *)scratch, s);
}

extern "C" enum status upconv_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                       struct tensor w, struct tensor b, enum activation act,
                                       struct stream *s)
{
    TRY(upconv_fwd_check(y, pre, x, w, b, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_in = w.dim[0], n_out = w.dim[1];
    const forward_output<by_patches> out = {
        (float *)y.data, (float *)pre.data, (const float *)b.data, (int)n_out, act, patches_of(y, 2)
    };

    return gemm(out, read_by(x, by_rows{ n_in }), read_by(w, turn(kernel_by_first(w))), pixels(x),
                n_out * area(w), n_in, s);
}

extern "C" enum status upconv_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                       struct tensor dy, struct tensor x, struct tensor w,
                                       struct tensor y, struct tensor pre, enum activation act,
                                       struct stream *s)
{
    TRY(upconv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    const int64_t n_cells = pixels(x), n_in = w.dim[0], n_patch = w.dim[1] * area(w);
    struct room room;
    const float *dpre;

    TRY(take_room(&room, dy, act, gemm_long_scratch(n_in, n_patch, n_cells), s));
    STREAM_NO_SCRATCH(s);
    TRY(dense_slope(&dpre, room.dpre, dy, y, pre, act, s));

    const by_patches out = patches_of(dy, 2);
    const by_kernel kernel = kernel_by_first(w);
    const by_rows of_in = { n_in };
    const operand<by_patches> g = { dpre, out };
    const operand<turned<by_patches>> g_turned = { dpre, turn(out) };

    if (dx.data)
        TRY(gemm(gradient_by(dx, of_in), g, read_by(w, kernel), n_cells, n_in, n_patch, s));
    if (dw.data)
        TRY(gemm_long(gradient_by(dw, kernel), read_by(x, turn(of_in)), g_turned, n_in, n_patch,
                      n_cells, room.sums, s));
    return dense_bias(db, dpre, pixels(dy), w.dim[1], room.sums, s);
}
