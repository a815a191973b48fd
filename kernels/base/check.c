#include "kernels/base/check.h"

#include "kernels/base/log.h"

#include <stdlib.h>

static void (*stop_hook)(void);

void check_set_stop(void (*stop)(void))
{
    stop_hook = stop;
}

void check_failed(const char *file, int line, const char *cond)
{
    log_error("%s:%d: assertion failed: %s", file, line, cond);
    if (stop_hook) stop_hook();
    abort();
}
