#include <math.h>

#include "tests/kernels/op.h"

static const double mean[3] = { 123.675, 116.28, 103.53 }, std[3] = { 58.395, 57.12, 57.375 };

static int64_t clamped(int32_t v, int64_t side)
{
    return v < 0 ? 0 : v > side ? side : v;
}

/* Against the header's formula in double: 2^-24 of each of two roundings of at most 2.7. */
static void normalizes(const struct ops *be, enum dtype dtype, int64_t side,
                       const int32_t (*sizes)[2], int64_t n)
{
    struct tensor x = OP_ZEROS(dtype, n, side, side, 3), size = OP_ZEROS(I32, n, 2);
    struct tensor y = OP_FILLED(9, 9, 0, n, side, side, 3);
    struct tensor one = op_copy(y), levels = OP_FILLED(1, 127.5f, 127.5f, n, side, side, 3);
    const float *level = levels.data, *got = y.data;
    int64_t n_wrong = 0;

    memcpy(size.data, sizes, (size_t)tensor_bytes(size));
    for (int64_t i = 0; i < tensor_count(x); i++) {
        if (dtype == U8)
            ((uint8_t *)x.data)[i] = (uint8_t)level[i];
        else
            ((float *)x.data)[i] = level[i];
    }
    omp_set_num_threads(2);
    OP_RUN(be->image_normalize(y, x, size, s));
    for (int64_t i = 0; i < tensor_count(x); i++) {
        const int64_t c = i % 3, j = i / 3 % side, row = i / 3 / side % side,
                      m = i / 3 / side / side;
        const bool in = row < clamped(sizes[m][0], side) && j < clamped(sizes[m][1], side);
        const double v = dtype == U8 ? floor((double)level[i]) : (double)level[i];
        const double want = in ? (v - mean[c]) / std[c] : 0;

        n_wrong += !(fabs(got[i] - want) <= (in ? 1e-6 : 0));
    }
    CHECK(n_wrong == 0);
    omp_set_num_threads(1);
    OP_RUN(be->image_normalize(one, x, size, s));
    CHECK_SAME_BITS(one.data, y.data, tensor_bytes(y));
    OP_PLAN(be->image_normalize(op_no_data(y), op_no_data(x), op_no_data(size), s));
}

static void shapes_are_checked(const struct ops *be)
{
    struct tensor x = OP_ZEROS(U8, 2, 4, 4, 3), y = OP_ZEROS(F32, 2, 4, 4, 3);
    struct tensor size = OP_ZEROS(I32, 2, 2), grey = OP_ZEROS(F32, 2, 4, 4, 1);
    struct tensor oblong = OP_ZEROS(F32, 2, 4, 5, 3);

    OP_SHAPE_ERROR(be->image_normalize(x, x, size, s));
    OP_SHAPE_ERROR(be->image_normalize(grey, grey, size, s));
    OP_SHAPE_ERROR(be->image_normalize(oblong, oblong, size, s));
    OP_SHAPE_ERROR(be->image_normalize(y, oblong, size, s));
    OP_SHAPE_ERROR(be->image_normalize(y, OP_ZEROS(I32, 2, 4, 4, 3), size, s));
    OP_SHAPE_ERROR(be->image_normalize(y, x, OP_ZEROS(I32, 2, 3), s));
    OP_SHAPE_ERROR(be->image_normalize(y, x, OP_ZEROS(F32, 2, 2), s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const int32_t sizes[][2] = { { 37, 20 }, { 1, 37 }, { 0, 9 },
                                        { 99, 99 }, { 5, -2 }, { -3, -1 } };

    normalizes(be, U8, 37, sizes, 6);
    normalizes(be, F32, 37, sizes, 6);
    normalizes(be, U8, 1, sizes, 1);
    normalizes(be, U8, 3, sizes, 1);                          /* a row is fours and one */
    for (int dtype_is_u8 = 0; dtype_is_u8 < 2; dtype_is_u8++) /* whole vectors; rows beyond 1024 */
        normalizes(be, dtype_is_u8 ? U8 : F32, 344, (const int32_t[][2]){ { 340, 343 } }, 1);
    normalizes(be, F32, 16, sizes, 0);
    shapes_are_checked(be);
    return check_done("test_image");
}
