/* exp_f32 against libm's, in the units of the last place of the exact value. */
#include <math.h>
#include <stdio.h>

#include "kernels/cpu/exp.h"
#include "tests/check.h"

/* The error of exp_f32(x) in ulp. */
static double ulps(float x)
{
    const double exact = exp((double)x);
    const float nearest = (float)exact;
    const double unit = (double)nextafterf(nearest, INFINITY) - nearest;

    return fabs(exp_f32(x) - exact) / unit;
}

int main(void)
{
    double worst = 0;

    for (int64_t i = 0; i <= 2000000; i++) {
        const float x = (float)(-86.9 + (86.9 + 88.7) * (double)i / 2000000);
        const double e = ulps(x);

        if (!(e <= worst)) worst = e;
    }
    for (float x = 1; x > 1e-9f; x *= 0.9f) {
        if (!(ulps(x) <= worst)) worst = ulps(x);
        if (!(ulps(-x) <= worst)) worst = ulps(-x);
    }
    CHECK(worst <= 2);

    CHECK(exp_f32(0) == 1);
    CHECK(exp_f32(-0.0f) == 1);
    CHECK(exp_f32(-87) == 0);
    CHECK(exp_f32(-104) == 0);
    CHECK(exp_f32(-1e30f) == 0);
    CHECK(exp_f32(-INFINITY) == 0);
    CHECK(exp_f32(88.72f) < INFINITY);
    CHECK(exp_f32(88.73f) == INFINITY);
    CHECK(exp_f32(1e30f) == INFINITY);
    CHECK(exp_f32(INFINITY) == INFINITY);
    CHECK(isnan(exp_f32(NAN)));
    return check_done("exp");
}
