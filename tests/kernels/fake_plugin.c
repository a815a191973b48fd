/* Modules that are not what the program wants, for test_plugin.c: which one it plays says FAKE. Being
 * opened at all leaves a mark: the file that FAKE_PLUGIN_MARK in the environment names. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plugin.h"

static struct plugin_table table = { .abi = PLUGIN_ABI_HERE };
static const struct plugin_host *host;

static const char *no_gpu(void)
{
    host->log(0, "the module speaks");
    return "the fake has no GPU";
}

static const char *device(uint64_t *id)
{
    *id = 1;
    return "a fake GPU";
}

static enum status open_fails(void)
{
    host->fail((int)E_DEVICE, __FILE__, __LINE__, "the fake does not open");
    return E_DEVICE;
}

static enum status opens(void)
{
    return OK;
}

static const char *has_gpu(void)
{
    return NULL;
}

__attribute__((constructor)) static void leave_mark(void)
{
    const char *path = getenv("FAKE_PLUGIN_MARK");
    FILE *f = path ? fopen(path, "we") : NULL;

    if (f) fclose(f);
}

plugin_entry samforge_cuda_plugin __attribute__((visibility("default")));

const struct plugin_table *samforge_cuda_plugin(const struct plugin_host *of)
{
    static struct plugin_host copy;

    copy = *of;
    host = &copy;
    table.reason = no_gpu;
    table.device = device;
    table.ops.name = "cuda";
    table.ops.open = open_fails;
    switch (FAKE) {
    case 1: /* an earlier contract */
        table.abi.number--;
        break;
    case 2: /* a struct of another size */
        table.abi.sizes[1] += 8;
        break;
    case 3: /* the ops in another order */
        table.abi.names = "linear_bwd linear_fwd ";
        break;
    case 4: /* a GPU, without kernels */
        table.reason = has_gpu;
        break;
    case 5: /* a GPU; kernels that are there, and cannot be called */
        table.reason = has_gpu;
        table.ops.open = opens;
        memset((char *)&table.ops + offsetof(struct ops, linear_fwd), 1,
               sizeof table.ops - offsetof(struct ops, linear_fwd));
        break;
    default: /* no GPU */
        break;
    }
    return &table;
}
