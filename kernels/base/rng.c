#include "kernels/base/rng.h"

#include <math.h>

double rng_normal(struct rng_key key, uint64_t index)
{
    const struct rng_block b = rng_philox(key, index);
    const double u = ((double)b.v[0] + 1.0) / 4294967296.0; /* (0,1]: the logarithm is finite */
    const double v = (double)b.v[1] / 4294967296.0;

    return sqrt(-2.0 * log(u)) * cos(2.0 * M_PI * v);
}
