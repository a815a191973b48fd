#include "kernels/ops.h"

#include "kernels/plugin.h"

#include <string.h>

/* There in the executables that contain tests/emu, NULL in all others. */
extern const struct ops ops_emu __attribute__((weak));

static const struct ops *const backends[] = { &ops_ref, &ops_cpu, &ops_emu };

const struct ops *ops_find(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (backends[i] && strcmp(backends[i]->name, name) == 0) return backends[i];
    return strcmp(name, "cuda") == 0 ? plugin_ops() : NULL;
}

int ops_missing(const struct ops *be, const char **first)
{
    int n = 0;

#define OPS_COUNT_MISSING(name)                                                                    \
    if (!be->name) {                                                                               \
        if (first && n == 0) *first = #name;                                                       \
        n++;                                                                                       \
    }
    OPS_LIST(OPS_COUNT_MISSING)
#undef OPS_COUNT_MISSING
    return n;
}
