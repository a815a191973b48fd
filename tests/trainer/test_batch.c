/* How long a step on the device may take before the watchdog ends the run. */
#include "trainer/batch.h"

#include "tests/check.h"

int main(void)
{
    struct batch b = { .n_most = 256, .image_limit_ms = 630000 };

    CHECK(batch_limit_ms(&b) == 256 * 630000LL); /* nothing is known yet */
    b.longest_ns = 40000000000;
    CHECK(batch_limit_ms(&b) == 630000 + 400000);
    b.n_most = 1; /* never longer than at first */
    CHECK(batch_limit_ms(&b) == 630000);
    return check_done("batch");
}
