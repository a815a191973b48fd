#include "kernels/rasterize.h"

enum status rasterize_cpu(struct tensor gt, struct tensor runs, struct tensor first,
                          struct tensor geometry, struct stream *s)
{
    return rasterize_ref(gt, runs, first, geometry, s);
}
