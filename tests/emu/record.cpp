/* Launches counted, or kept to be run later, instead of run; and what was run, for comparison. */
#include "tests/emu/machine.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/ops.h"

static bool counting;
static std::map<std::string, int64_t> counts; /* its strings stay where they are */

/* One thing the device has to do. */
struct task {
    enum { LAUNCH, PUT, COPY, ZERO, CALL, AFTER } kind;
    const void *queue; /* AFTER: waits for all that joined the other one before */
    emu::launch launch;
    void *dst;
    const void *src;
    int64_t bytes;
    bool (*call)(const void *argument);
    std::vector<unsigned char>
        held; /* the launch's packed arguments, the call's, or what was put */
};

static bool recording, tracing;
static std::vector<task> tasks;   /* being recorded */
static std::vector<task> to_play; /* recorded, not yet replayed */
static bool kept;
static std::vector<emu_item> items;

namespace emu
{

bool record_launch(const launch &l)
{
    if (counting) counts[l.name]++;
    if (counting || !recording) return counting;
    const unsigned char *packed = (const unsigned char *)l.packed;
    tasks.push_back({ task::LAUNCH,
                      l.queue,
                      l,
                      nullptr,
                      nullptr,
                      0,
                      nullptr,
                      { packed, packed + l.packed_bytes } });
    return true;
}

void trace_launch(const launch &l)
{
    emu_item item = {};

    if (!tracing) return;
    snprintf(item.text, sizeof item.text, "%.60s (%u,%u,%u) of (%u,%u,%u), %zu bytes", l.name,
             l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z, l.shared_bytes);
    item.bits = XXH3_64bits(l.packed, l.packed_bytes);
    items.push_back(item);
}

} // namespace emu

void emu_trace(bool on)
{
    if (on) items.clear();
    tracing = on;
}

int64_t emu_traced(const struct emu_item **list)
{
    *list = items.data();
    return (int64_t)items.size();
}

bool emu_records(void)
{
    return recording;
}

void emu_record_begin(void)
{
    recording = true;
    tasks.clear();
}

bool emu_record_end(bool keep)
{
    if (!recording) return false;
    recording = false;
    kept = keep;
    if (keep) to_play.swap(tasks);
    return true;
}

static void trace_verb(const task &t)
{
    static const char *const verbs[] = { "launch", "put", "copy", "zero", "call", "after" };
    const uint64_t where[3] = { (uint64_t)(uintptr_t)t.dst, (uint64_t)(uintptr_t)t.src,
                                XXH3_64bits(t.held.data(), t.held.size()) };
    emu_item item = {};

    if (!tracing) return;
    snprintf(item.text, sizeof item.text, "%s of %lld bytes", verbs[t.kind], (long long)t.bytes);
    item.bits = XXH3_64bits(where, sizeof where);
    items.push_back(item);
}

static bool play(task &t)
{
    bool good = true;

    if (t.kind == task::AFTER) return true;
    if (t.kind == task::LAUNCH) {
        t.launch.packed = t.held.data();
        return emu::run(t.launch);
    }
    emu_unlock();
    if (t.kind == task::PUT) memcpy(t.dst, t.held.data(), t.held.size());
    if (t.kind == task::COPY) memmove(t.dst, t.src, (size_t)t.bytes);
    if (t.kind == task::ZERO) memset(t.dst, 0, (size_t)t.bytes);
    if (t.kind == task::CALL) good = t.call(t.held.data());
    emu_lock();
    trace_verb(t);
    return good;
}

static bool keep_or_play(task t)
{
    if (counting || t.bytes == 0) return true;
    if (!recording) return play(t);
    tasks.push_back(std::move(t));
    return true;
}

void *emu_queue(void)
{
    return nullptr;
}

void *emu_side(void)
{
    static char side;

    return &side;
}

void emu_put(void *dev, const void *host, int64_t bytes, const void *queue)
{
    const unsigned char *from = (const unsigned char *)host;

    if (counting) return; /* host may be less than it says */
    keep_or_play({ task::PUT, queue, {}, dev, nullptr, bytes, nullptr, { from, from + bytes } });
}

void emu_copy(void *dst, const void *src, int64_t bytes, const void *queue)
{
    keep_or_play({ task::COPY, queue, {}, dst, src, bytes, nullptr, {} });
}

void emu_zero(void *dev, int64_t bytes, const void *queue)
{
    keep_or_play({ task::ZERO, queue, {}, dev, nullptr, bytes, nullptr, {} });
}

bool emu_call(bool (*call)(const void *), const void *argument, int64_t bytes, const void *queue)
{
    const unsigned char *from = (const unsigned char *)argument;

    return keep_or_play(
        { task::CALL, queue, {}, nullptr, nullptr, bytes, call, { from, from + bytes } });
}

bool emu_after(const void *queue, const void *other)
{
    if (queue == other) return false;
    return keep_or_play({ task::AFTER, queue, {}, nullptr, nullptr, 1, nullptr, {} });
}

/* As far ahead on one of the queues as it may go, then on the other, and so on: what lacks an `after`
 * comes too early or too late. */
static bool play_ahead(bool side)
{
    std::vector<size_t> of[2];
    size_t done[2] = {};

    for (size_t i = 0; i < to_play.size(); i++) of[to_play[i].queue == emu_side()].push_back(i);
    while (done[0] < of[0].size() || done[1] < of[1].size()) {
        for (int k = 0; k < 2; k++) {
            const int q = side ? 1 - k : k, other = 1 - q;

            if (done[q] == of[q].size()) continue;
            task &t = to_play[of[q][done[q]]];
            if (t.kind == task::AFTER && done[other] < of[other].size() &&
                of[other][done[other]] < of[q][done[q]])
                continue;
            if (!play(t)) return false;
            done[q]++;
            break;
        }
    }
    return true;
}

bool emu_replay(void)
{
    if (!kept || recording) return false;
    const char *side = getenv("EMU_SIDE");

    kept = false;
    if (side) return play_ahead(!strcmp(side, "first"));
    for (task &t : to_play)
        if (!play(t)) return false;
    return true;
}

void emu_count(bool on)
{
    if (on)
        for (auto &c : counts) c.second = 0; /* names told before stay valid */
    counting = on;
}

bool emu_counts(void)
{
    return counting;
}

int64_t emu_launches(struct launch_count *list, int64_t room)
{
    int64_t n = 0;

    for (const auto &c : counts) {
        if (c.second == 0) continue;
        if (n < room) list[n] = { c.first.c_str(), c.second };
        n++;
    }
    return n;
}
