#include <math.h>

#include "tests/kernels/op.h"

/* Values whose rounding is known, then a float of every exponent and both signs. */
static const struct {
    float x;
    uint16_t bits;
} known[] = {
    { 0, 0 },
    { -0.0f, 0x8000 },
    { 1, 0x3F80 },
    { 0x1.01p0f, 0x3F80 },      /* halfway, to the even one below */
    { 0x1.03p0f, 0x3F82 },      /* halfway, to the even one above */
    { 0x1.010002p0f, 0x3F81 },  /* just above halfway */
    { -0x1.fffffep0f, 0xC000 }, /* carries into the exponent */
    { 0x1.fffffep127f, 0x7F80 },
    { INFINITY, 0x7F80 },
    { -INFINITY, 0xFF80 },
};
enum { N_KNOWN = sizeof known / sizeof *known };

static void rounds(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, N_KNOWN), y = OP_ZEROS(BF16, N_KNOWN);

    for (int i = 0; i < N_KNOWN; i++) ((float *)x.data)[i] = known[i].x;
    OP_RUN(be->cast(y, x, s));
    for (int i = 0; i < N_KNOWN; i++) {
        if (((uint16_t *)y.data)[i] != known[i].bits)
            fprintf(stderr, "%a becomes %04x\n", (double)known[i].x, ((uint16_t *)y.data)[i]);
        CHECK(((uint16_t *)y.data)[i] == known[i].bits);
    }
    ((float *)x.data)[3] = NAN;
    OP_RUN(be->cast(y, x, s));
    CHECK(isnan(bf16_to_float(((uint16_t *)y.data)[3])));
}

/* Every bf16 widens and comes back as it was; sizes that are multiples of nothing. */
static void comes_back(const struct ops *be, int64_t n)
{
    struct tensor x = OP_ZEROS(BF16, n), wide = OP_ZEROS(F32, n), back = OP_ZEROS(BF16, n);
    struct tensor copy = OP_ZEROS(BF16, n), wide_copy = OP_ZEROS(F32, n);

    for (int64_t i = 0; i < n; i++) {
        const uint16_t bits = (uint16_t)(i * 7919);
        const bool is_nan = (bits & 0x7F80) == 0x7F80 && (bits & 0x7F);

        ((uint16_t *)x.data)[i] = is_nan ? 0x4049 : bits;
    }
    OP_RUN(be->cast(wide, x, s));
    OP_RUN(be->cast(back, wide, s));
    OP_RUN(be->cast(copy, x, s));
    OP_RUN(be->cast(wide_copy, wide, s));
    CHECK_SAME_BITS(back.data, x.data, n * 2);
    CHECK_SAME_BITS(copy.data, x.data, n * 2);
    CHECK_SAME_BITS(wide_copy.data, wide.data, n * 4);
    for (int64_t i = 0; i < n; i++)
        CHECK(((float *)wide.data)[i] == bf16_to_float(((uint16_t *)x.data)[i]));
}

static void shapes_are_checked(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 4), y = OP_ZEROS(BF16, 5), bytes = OP_ZEROS(U8, 4);

    OP_SHAPE_ERROR(be->cast(y, x, s));
    OP_SHAPE_ERROR(be->cast(bytes, x, s));
    OP_SHAPE_ERROR(be->cast(x, bytes, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    rounds(be);
    comes_back(be, 65536);
    for (int64_t n = 0; n < 10; n++) comes_back(be, n);
    comes_back(be, 1027);
    shapes_are_checked(be);
    return check_done("test_cast");
}
