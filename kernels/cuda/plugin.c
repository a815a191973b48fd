/* The module: its one exported function, the table, and the host's functions under the names by
 * which everything compiled into the module calls them. */
#include "kernels/plugin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/log.h"
#include "kernels/cuda/accumulate.h"
#include "kernels/cuda/exchange.h"
#include "kernels/cuda/runtime.h"

static struct plugin_host host;

enum status status_fail(enum status s, const char *file, int line, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    host.fail((int)s, file, line, text);
    return s;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    host.log((int)level, text);
}

void check_failed(const char *file, int line, const char *condition)
{
    host.check_failed(file, line, condition);
    abort(); /* it does not return */
}

static const char *reason(void)
{
    return runtime_choose(host.local_rank);
}

#define OPS_CUDA(name) .name = name##_cuda,
static const struct plugin_table table = {
    .abi = PLUGIN_ABI_HERE,
    .reason = reason,
    .device = runtime_device,
    .shared_alloc = runtime_shared_alloc,
    .shared_free = runtime_shared_free,
    .ops = { .name = "cuda",
             .bf16 = true,
             .fused = true,
             .host_memory = false,
             .open = runtime_open,
             .queue = runtime_queue,
             .side = runtime_side,
             .after = runtime_after,
#ifdef WITH_NCCL
             .exchange_id = exchange_id,
             .exchange_join = exchange_join,
             .exchange = exchange,
             .exchange_leave = exchange_leave,
#endif
             .alloc = runtime_alloc,
             .free = runtime_free,
             .put = runtime_put,
             .get = runtime_get,
             .copy = runtime_copy,
             .zero = runtime_zero,
             .accumulate = accumulate_cuda,
             .sync = runtime_sync,
             .usage = runtime_usage,
#ifndef LAUNCH_CHECKED /* waiting behind each launch is what recording cannot do */
             .record_begin = runtime_record_begin,
             .record_end = runtime_record_end,
             .replay = runtime_replay,
#endif
             OPS_LIST(OPS_CUDA) },
};

plugin_entry samforge_cuda_plugin __attribute__((visibility("default")));

const struct plugin_table *samforge_cuda_plugin(const struct plugin_host *of)
{
    host = *of;
    return &table;
}
