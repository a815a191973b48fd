/* The emulated device as a backend: the verbs on its memory, and the CUDA kernels. ops_find knows it in executables that contain this file. A test prepares the emulator by
 * check_set_memory; EMU_SEED in the environment is the schedule. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "kernels/cuda/accumulate.h"
#include "kernels/cuda/exchange.h"
#include "kernels/ops.h"
#include "tests/emu/device_memory.h"

static enum status emu_open(void)
{
    const char *seed = getenv("EMU_SEED");

    emu_set_seed(seed ? (unsigned)strtoul(seed, NULL, 10) : 0);
#ifdef EMU_STRICT
    emu_set_strict();
#endif
    return OK;
}

static enum status not_recording(const char *what)
{
    if (emu_records()) FAIL(E_DEVICE, "%s while a step is being recorded", what);
    return OK;
}

static enum status emu_alloc(void **p, int64_t bytes)
{
    TRY(not_recording("memory is taken"));
    *p = emu_take(bytes, "alloc", true);
    return OK;
}

static enum status check_range(const char *verb, const void *p, int64_t bytes, bool write)
{
    if (!emu_range(p, bytes, write))
        FAIL(E_DEVICE, "%s: %lld bytes at %p are not in one buffer of the device", verb,
             (long long)bytes, p);
    return OK;
}

static enum status checked_put(void *dev, const void *host, int64_t bytes, struct stream *s)
{
    TRY(check_range("put", dev, bytes, true));
    emu_put(dev, host, bytes, s->queue);
    return OK;
}

static enum status wait_for(struct stream *s)
{
    if (!emu_wait(s->queue)) FAIL(E_DEVICE, "the device failed in what was queued before");
    return OK;
}

static void checked_free(void *p)
{
    if (p && !emu_wait_all()) log_warn("the device failed in what was queued before");
    emu_give(p);
}

static enum status emu_get(void *host, const void *dev, int64_t bytes, struct stream *s)
{
    TRY(not_recording("the device is waited for"));
    TRY(check_range("get", dev, bytes, false));
    TRY(wait_for(s));
    if (emu_counts() && bytes > 0) memset(host, 0, (size_t)bytes);
    if (emu_counts()) return OK;
    if (bytes > 0 && !emu_read(host, dev, bytes))
        FAIL(E_DEVICE, "get: %lld bytes", (long long)bytes);
    return OK;
}

static enum status checked_copy(void *dst, const void *src, int64_t bytes, struct stream *s)
{
    TRY(check_range("copy to", dst, bytes, true));
    TRY(check_range("copy from", src, bytes, false));
    emu_copy(dst, src, bytes, s->queue);
    return OK;
}

static enum status checked_zero(void *dev, int64_t bytes, struct stream *s)
{
    TRY(check_range("zero", dev, bytes, true));
    emu_zero(dev, bytes, s->queue);
    return OK;
}

static enum status emu_accumulate(float *dst, const float *src, int64_t n, struct stream *s)
{
    TRY(check_range("accumulate to", dst, n * (int64_t)sizeof *dst, true));
    TRY(check_range("accumulate from", src, n * (int64_t)sizeof *src, false));
    return accumulate_cuda(dst, src, n, s);
}

static enum status checked_after(struct stream *s, struct stream *other)
{
    const char *why_not = emu_after(s->queue, other->queue);

    if (why_not) FAIL(E_DEVICE, "%s", why_not);
    return OK;
}

static enum status emu_sync(struct stream *s)
{
    TRY(not_recording("the device is waited for"));
    return wait_for(s);
}

static enum status emu_begin(struct stream *s)
{
    (void)s;
    TRY(not_recording("another recording is begun"));
    emu_record_begin();
    return OK;
}

static enum status emu_end(bool keep, struct stream *s)
{
    const char *why_not = emu_record_end(keep);

    (void)s;
    if (why_not) FAIL(E_DEVICE, "%s", why_not);
    return OK;
}

static enum status emu_play(struct stream *s)
{
    (void)s;
    if (!emu_replay()) FAIL(E_DEVICE, "no recorded step is left to run, or it cannot run");
    return OK;
}

static enum status emu_count_launches(bool on)
{
    emu_count(on);
    return OK;
}

#define OPS_EMU(name) .name = name##_cuda,
const struct ops ops_emu = { .name = "emu",
                             .bf16 = true,
                             .fused = true,
                             .open = emu_open,
                             .queue = emu_queue,
                             .side = emu_side,
                             .after = checked_after,
#ifdef WITH_NCCL
                             .exchange_id = exchange_id,
                             .exchange_join = exchange_join,
                             .exchange = exchange,
                             .exchange_leave = exchange_leave,
#endif
                             .alloc = emu_alloc,
                             .free = checked_free,
                             .put = checked_put,
                             .get = emu_get,
                             .copy = checked_copy,
                             .zero = checked_zero,
                             .accumulate = emu_accumulate,
                             .sync = emu_sync,
                             .record_begin = emu_begin,
                             .record_end = emu_end,
                             .replay = emu_play,
                             .count = emu_count_launches,
                             .launches = emu_launches,
                             OPS_LIST(OPS_EMU) };
