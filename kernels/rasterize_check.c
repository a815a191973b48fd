#include "kernels/rasterize_check.h"

enum status rasterize_check(struct tensor gt, struct tensor runs, struct tensor first,
                            struct tensor geometry)
{
    const char *const op = "rasterize";
    const int32_t *g = geometry.data;
    int64_t R, h, w, nh, nw, S;
    double tall, wide;

    TENSOR_EXPECT(op, gt, U8, -1, -1, -1);
    R = gt.dim[1];
    TENSOR_EXPECT(op, gt, U8, gt.dim[0], R, R);
    TENSOR_EXPECT(op, runs, I32, -1);
    TENSOR_EXPECT(op, first, I64, gt.dim[0] + 1);
    TENSOR_EXPECT(op, geometry, I32, RASTERIZE_GEOMETRY);
    if (!g) FAIL(E_SHAPE, "%s: no geometry; it is a value on the host", op);
    h = g[RASTERIZE_H];
    w = g[RASTERIZE_W];
    nh = g[RASTERIZE_NH];
    nw = g[RASTERIZE_NW];
    S = g[RASTERIZE_S];
    if (R < 1 || h < 1 || w < 1 || nh < 1 || nw < 1 || nh > S || nw > S)
        FAIL(E_SHAPE, "%s: image of %lld×%lld scaled to %lld×%lld in a frame of %lld, %lld cells",
             op, (long long)h, (long long)w, (long long)nh, (long long)nw, (long long)S,
             (long long)R);
    tall = (double)S * (double)h * RASTERIZE_PIXEL / ((double)R * (double)nh);
    wide = (double)S * (double)w * RASTERIZE_PIXEL / ((double)R * (double)nw);
    if (tall < 1 || wide < 1 || (tall + 1) * (wide + 1) > 0x1p61 ||
        (double)R * (double)S * (double)h * RASTERIZE_PIXEL > 0x1p62 ||
        (double)R * (double)S * (double)w * RASTERIZE_PIXEL > 0x1p62 ||
        (double)h * (double)w > 0x1p62)
        FAIL(E_SHAPE,
             "%s: image of %lld×%lld scaled to %lld×%lld in a frame of %lld with %lld cells does "
             "not fit 64-bit areas",
             op, (long long)h, (long long)w, (long long)nh, (long long)nw, (long long)S,
             (long long)R);
    return OK;
}
