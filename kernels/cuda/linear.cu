#include "kernels/linear_check.h"

#include "kernels/cuda/dense.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/product.h"

/* x (N,I), w (O,I), y (N,O): all operands by rows, w and x or dpre turned where a product sums over
 * their rows. */

template <class T>
static enum status fwd(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                       struct tensor b, enum activation act, struct stream *s)
{
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    const by_rows in = { n_in }, of_out = { n_out };
    void *sums;

    STREAM_SCRATCH(s, sums,
                   product_scratch<T>(in, in, n_rows, n_out, n_in) * (int64_t)sizeof(float));
    return product<T>(forward_by<T>(y, pre, b, act, of_out), read_by<T>(x.data, in),
                      read_by<T>(w.data, in), n_rows, n_out, n_in, (float *)sums, s);
}

template <class T>
static enum status bwd(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                       struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                       enum activation act, struct stream *s)
{
    const int64_t n_rows = tensor_rows(x), n_in = w.dim[1], n_out = w.dim[0];
    const by_rows in = { n_in }, of_out = { n_out };
    const int64_t n_sums =
        dense_max(product_scratch<T>(of_out, turn(in), n_rows, n_in, n_out),
                  product_scratch<T>(turn(of_out), turn(in), n_out, n_in, n_rows));
    void *scratch;
    const T *dpre;

    STREAM_SCRATCH(s, scratch, dense_room_bytes<T>(n_rows, n_out, act, n_sums));

    const dense_room<T> room = dense_room_at<T>(scratch, n_rows, n_out, act);

    TRY(dense_slope(&dpre, db, room, dy, y, pre, act, s));
    if (dx.data)
        TRY(product<T>(gradient_by<T>(dx, in), read_by<T>(dpre, of_out),
                       read_by<T>(w.data, turn(in)), n_rows, n_in, n_out, room.sums, s));
    if (!dw.data) return OK;
    return product<T>(gradient_by<float>(dw, in), read_by<T>(dpre, turn(of_out)),
                      read_by<T>(x.data, turn(in)), n_out, n_in, n_rows, room.sums, s);
}

extern "C" enum status linear_fwd_cuda(struct tensor y, struct tensor pre, struct tensor x,
                                       struct tensor w, struct tensor b, enum activation act,
                                       struct stream *s)
{
    bool takes;

    TRY(linear_fwd_check(y, pre, x, w, b, act));
    TRY(library_linear_fwd_takes(&takes, x, w, b, s));
    if (takes) return library_linear_fwd(y, pre, x, w, b, act, s);
    BY_DTYPE(w, return (fwd<T>(y, pre, x, w, b, act, s)));
}

extern "C" enum status linear_bwd_cuda(struct tensor dx, struct tensor dw, struct tensor db,
                                       struct tensor dy, struct tensor x, struct tensor w,
                                       struct tensor y, struct tensor pre, enum activation act,
                                       struct stream *s)
{
    bool takes;

    TRY(linear_bwd_check(dx, dw, db, dy, x, w, y, pre, act));
    TRY(library_linear_bwd_takes(&takes, x, w, s));
    if (takes) return library_linear_bwd(dx, dw, db, dy, x, w, y, pre, act, s);
    BY_DTYPE(w, return (bwd<T>(dx, dw, db, dy, x, w, y, pre, act, s)));
}
