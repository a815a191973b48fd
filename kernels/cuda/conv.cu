#include "kernels/conv_check.h"

#include "kernels/cuda/dense.h"
#include "kernels/cuda/kernel_rows.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/product.h"

/* In all products j or k counts a kernel's elements and channels as (a,b,c): neighbours in an
 * activation's memory, which is the greater part of what is read. The weights, kept with a and b
 * innermost, are laid out so in scratch first: once, where every block of the product would gather
 * them element by element. */

static int64_t pixels(struct tensor t)
{
    return t.dim[0] * t.dim[1] * t.dim[2];
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

/* Of dy: what its slope and sums need behind the weights. */
template <class T>
static int64_t room_bytes(struct tensor w, struct tensor dy, enum activation act, int64_t n_sums)
{
    return lay_bytes(w) + dense_room_bytes<T>(pixels(dy), dy.dim[3], act, n_sums);
}

template <class T>
static dense_room<T> room_behind(void *scratch, struct tensor w, struct tensor dy,
                                 enum activation act)
{
    return dense_room_at<T>((char *)scratch + lay_bytes(w), pixels(dy), dy.dim[3], act);
}

/* T: of y and w. TX: of x or dx, which may be float beside bf16. */
template <class T, class TX>
static enum status patch_fwd(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act, struct stream *s)
{
    const int64_t n_out = w.dim[0], n_patch = w.dim[1] * area(w);
    const by_patches in = patches_of(x, w.dim[2]);
    const by_rows row = { n_patch };
    const T *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch,
                   lay_bytes(w) + product_scratch<T>(in, row, pixels(y), n_out, n_patch) *
                                      (int64_t)sizeof(float));
    TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
    return product<T>(forward_by<T>(y, pre, b, act, by_rows{ n_out }), read_by<TX>(x.data, in),
                      read_by<T>(rows, row), pixels(y), n_out, n_patch,
                      (float *)((char *)scratch + lay_bytes(w)), s);
}

template <class T, class TX>
static enum status patch_dx(struct tensor dx, const T *dpre, const T *rows, struct tensor w,
                            int64_t n_cells, float *sums, struct stream *s)
{
    const int64_t n_out = w.dim[0], n_patch = w.dim[1] * area(w);

    return product<T>(gradient_by<TX>(dx, patches_of(dx, w.dim[2])),
                      read_by<T>(dpre, by_rows{ n_out }),
                      read_by<T>(rows, turn(by_rows{ n_patch })), n_cells, n_patch, n_out, sums, s);
}

template <class T, class TX>
static enum status patch_dw(struct tensor dw, const T *dpre, struct tensor x, struct tensor w,
                            int64_t n_cells, float *sums, struct stream *s)
{
    const int64_t n_out = w.dim[0], n_patch = w.dim[1] * area(w);

    return product<T>(
        gradient_by<float>(dw, kernel_by_first(w)), read_by<T>(dpre, turn(by_rows{ n_out })),
        read_by<TX>(x.data, turn(patches_of(x, w.dim[2]))), n_out, n_patch, n_cells, sums, s);
}

template <class T>
static enum status patch_bwd(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act, struct stream *s)
{
    const int64_t n_cells = pixels(dy), n_out = w.dim[0], n_patch = w.dim[1] * area(w);
    const by_patches in = patches_of(x, w.dim[2]);
    const by_rows of_out = { n_out }, row = { n_patch };
    const int64_t n_sums =
        dense_max(product_scratch<T>(of_out, turn(row), n_cells, n_patch, n_out),
                  product_scratch<T>(turn(of_out), turn(in), n_out, n_patch, n_cells));
    const T *dpre, *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch, room_bytes<T>(w, dy, act, n_sums));

    const dense_room<T> room = room_behind<T>(scratch, w, dy, act);

    TRY(dense_slope(&dpre, db, room, dy, y, pre, act, s));
    if (dx.data) {
        TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
        TRY(dx.dtype == F32 ? (patch_dx<T, float>(dx, dpre, rows, w, n_cells, room.sums, s))
                            : (patch_dx<T, T>(dx, dpre, rows, w, n_cells, room.sums, s)));
    }
    if (!dw.data) return OK;
    return x.dtype == F32 ? patch_dw<T, float>(dw, dpre, x, w, n_cells, room.sums, s)
                          : patch_dw<T, T>(dw, dpre, x, w, n_cells, room.sums, s);
}

extern "C" enum status patch_conv_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                           struct tensor w, struct tensor b, enum activation act,
                                           struct stream *s)
{
    TRY(patch_conv_fwd_check(y, pre, x, w, b, act));
    BY_DTYPE(w, return x.dtype == F32 ? (patch_fwd<T, float>(y, pre, x, w, b, act, s))
                                      : (patch_fwd<T, T>(y, pre, x, w, b, act, s)));
}

extern "C" enum status patch_conv_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                           struct tensor dy, struct tensor x, struct tensor w,
                                           struct tensor y, struct tensor pre, enum activation act,
                                           struct stream *s)
{
    TRY(patch_conv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    BY_DTYPE(w, return (patch_bwd<T>(dx, dw, db, dy, x, w, y, pre, act, s)));
}

template <class T>
static enum status same_fwd(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    const int64_t n_out = w.dim[0], n_patch = w.dim[1] * area(w);
    const by_neighbours in = neighbours_of(x, 1);
    const by_rows row = { n_patch };
    const T *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch,
                   lay_bytes(w) + product_scratch<T>(in, row, pixels(y), n_out, n_patch) *
                                      (int64_t)sizeof(float));
    TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
    return product<T>(forward_by<T>(y, tensor_none(), tensor_none(), ACT_NONE, by_rows{ n_out }),
                      read_by<T>(x.data, in), read_by<T>(rows, row), pixels(y), n_out, n_patch,
                      (float *)((char *)scratch + lay_bytes(w)), s);
}

/* dx is the convolution of dy with the kernel turned about its middle, and its channels exchanged. */
template <class T>
static enum status same_bwd(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                            struct tensor w, struct stream *s)
{
    const int64_t n_pixels = pixels(dy), n_out = w.dim[0], n_in = w.dim[1];
    const int64_t n_patch = n_in * area(w), n_turned = n_out * area(w);
    const by_rows in = { n_in }, of_out = { n_out }, row = { n_turned };
    const by_neighbours around_x = neighbours_of(x, 1), around_y = neighbours_of(dy, -1);
    const int64_t n_sums =
        dense_max(product_scratch<T>(around_y, row, n_pixels, n_in, n_turned),
                  product_scratch<T>(turn(of_out), turn(around_x), n_out, n_patch, n_pixels));
    const T *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch, lay_bytes(w) + n_sums * (int64_t)sizeof(float));

    float *const sums = (float *)((char *)scratch + lay_bytes(w));

    if (dx.data) {
        TRY(laid_out(&rows, scratch, w, kernel_by_second(w), s));
        TRY(product<T>(gradient_by<T>(dx, in), read_by<T>(dy.data, around_y), read_by<T>(rows, row),
                       n_pixels, n_in, n_turned, sums, s));
    }
    if (!dw.data) return OK;
    return product<T>(gradient_by<float>(dw, kernel_by_first(w)), read_by<T>(dy.data, turn(of_out)),
                      read_by<T>(x.data, turn(around_x)), n_out, n_patch, n_pixels, sums, s);
}

extern "C" enum status conv3x3_fwd_cuda(struct tensor y, struct tensor x, struct tensor w,
                                        struct stream *s)
{
    bool takes;

    TRY(conv3x3_fwd_check(y, x, w));
    TRY(library_conv3x3_takes(&takes, x, w, false, s));
    if (takes) return library_conv3x3_fwd(y, x, w, s);
    BY_DTYPE(w, return (same_fwd<T>(y, x, w, s)));
}

extern "C" enum status conv3x3_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor dy,
                                        struct tensor x, struct tensor w, struct stream *s)
{
    bool takes;

    TRY(conv3x3_bwd_check(dx, dw, dy, x, w));
    TRY(library_conv3x3_takes(&takes, x, w, true, s));
    if (takes) {
        TRY(library_conv3x3_dx(dx, dy, w, s));
        dx = tensor_none(); /* dw is of own products: in F32 */
    }
    BY_DTYPE(w, return (same_bwd<T>(dx, dw, dy, x, w, s)));
}

template <class T>
static enum status up_fwd(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                          struct tensor b, enum activation act, struct stream *s)
{
    const int64_t n_in = w.dim[0], n_patch = w.dim[1] * area(w);
    const by_rows in = { n_in }, row = { n_patch };
    const T *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch,
                   lay_bytes(w) + product_scratch<T>(in, turn(row), pixels(x), n_patch, n_in) *
                                      (int64_t)sizeof(float));
    TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
    return product<T>(forward_by<T>(y, pre, b, act, patches_of(y, 2)), read_by<T>(x.data, in),
                      read_by<T>(rows, turn(row)), pixels(x), n_patch, n_in,
                      (float *)((char *)scratch + lay_bytes(w)), s);
}

template <class T>
static enum status up_bwd(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                          struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                          enum activation act, struct stream *s)
{
    const int64_t n_cells = pixels(x), n_in = w.dim[0], n_patch = w.dim[1] * area(w);
    const by_patches out = patches_of(dy, 2);
    const by_rows of_in = { n_in }, row = { n_patch };
    const int64_t n_sums =
        dense_max(product_scratch<T>(out, row, n_cells, n_in, n_patch),
                  product_scratch<T>(turn(of_in), turn(out), n_in, n_patch, n_cells));
    const T *dpre, *rows;
    void *scratch;

    STREAM_SCRATCH(s, scratch, room_bytes<T>(w, dy, act, n_sums));

    const dense_room<T> room = room_behind<T>(scratch, w, dy, act);

    TRY(dense_slope(&dpre, db, room, dy, y, pre, act, s));
    if (dx.data) {
        TRY(laid_out(&rows, scratch, w, kernel_by_first(w), s));
        TRY(product<T>(gradient_by<T>(dx, of_in), read_by<T>(dpre, out), read_by<T>(rows, row),
                       n_cells, n_in, n_patch, room.sums, s));
    }
    if (!dw.data) return OK;
    return product<T>(gradient_by<float>(dw, kernel_by_first(w)), read_by<T>(x.data, turn(of_in)),
                      read_by<T>(dpre, turn(out)), n_in, n_patch, n_cells, room.sums, s);
}

extern "C" enum status upconv_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                       struct tensor w, struct tensor b, enum activation act,
                                       struct stream *s)
{
    TRY(upconv_fwd_check(y, pre, x, w, b, act));
    BY_DTYPE(w, return (up_fwd<T>(y, pre, x, w, b, act, s)));
}

extern "C" enum status upconv_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                       struct tensor dy, struct tensor x, struct tensor w,
                                       struct tensor y, struct tensor pre, enum activation act,
                                       struct stream *s)
{
    TRY(upconv_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    BY_DTYPE(w, return (up_bwd<T>(dx, dw, db, dy, x, w, y, pre, act, s)));
}
