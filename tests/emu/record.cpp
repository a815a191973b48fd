/* Launches counted, or kept to be run later, instead of run; the two queues and who waits for whom; and what
 * was run, for comparison. */
#include "tests/emu/machine.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/ops.h"

static bool counting;
static std::map<std::string, int64_t> counts; /* its strings stay where they are */

/* One thing the device has to do. */
struct task {
    enum { LAUNCH, PUT, COPY, ZERO, CALL, AFTER, REPLAY } kind;
    bool side; /* whose */
    emu::launch launch;
    void *dst;
    const void *src;
    int64_t bytes;
    bool (*call)(const void *argument);
    std::vector<unsigned char>
        held; /* the launch's packed arguments, the call's, or what was put */
    int64_t
        behind; /* AFTER: so many of the other queue's must be over; recorded, of this recording */
    std::vector<task> step; /* REPLAY: what was recorded */
};

/* Of the queue, and of its side. */
static struct queue {
    std::deque<task> waiting; /* joined, not done */
    int64_t joined, done;
} queues[2];

static bool recording, tracing;
static bool forked, unjoined;   /* of the recording: the side is part of it; and is to be joined */
static std::vector<task> tasks; /* being recorded */
static std::vector<task> to_play; /* recorded, not yet replayed */
static bool kept, playing;
static std::vector<emu_item> items;

static bool is_side(const void *queue)
{
    return queue == emu_side();
}

/* Which of the two is never ahead of the other: EMU_SIDE says where the side runs. */
static bool lags(bool side)
{
    const char *where = getenv("EMU_SIDE");

    return where && !strcmp(where, side ? "last" : "first");
}

static bool join(task t);

namespace emu
{

bool record_launch(const launch &l)
{
    const unsigned char *packed = (const unsigned char *)l.packed;

    if (counting) counts[l.name]++;
    if (counting || playing) return counting;
    join({ task::LAUNCH,
           is_side(l.queue),
           l,
           nullptr,
           nullptr,
           0,
           nullptr,
           { packed, packed + l.packed_bytes },
           0,
           {} });
    return true;
}

void trace_launch(const launch &l)
{
    emu_item item = {};

    if (!tracing) return;
    snprintf(item.text, sizeof item.text, "%.60s (%u,%u,%u) of (%u,%u,%u), %zu bytes", l.name,
             l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z, l.shared_bytes);
    item.side = is_side(l.queue);
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
    forked = unjoined = kept = false;
    tasks.clear();
}

const char *emu_record_end(bool keep)
{
    if (!recording) return "no step is being recorded";
    recording = false;
    kept = keep && !unjoined;
    if (kept) to_play.swap(tasks);
    return keep && unjoined ? "the queue does not come after the side before the recording ends"
                            : nullptr;
}

static void trace_verb(const task &t)
{
    static const char *const verbs[] = { "launch", "put", "copy", "zero", "call" };
    const uint64_t where[3] = { (uint64_t)(uintptr_t)t.dst, (uint64_t)(uintptr_t)t.src,
                                XXH3_64bits(t.held.data(), t.held.size()) };
    emu_item item = {};

    if (!tracing) return;
    snprintf(item.text, sizeof item.text, "%s of %lld bytes", verbs[t.kind], (long long)t.bytes);
    item.bits = XXH3_64bits(where, sizeof where);
    item.side = t.side;
    items.push_back(item);
}

static bool play_step(std::vector<task> &step);

static bool play(task &t)
{
    bool good = true;

    if (t.kind == task::AFTER) return true;
    if (t.kind == task::REPLAY) return play_step(t.step);
    if (t.kind == task::LAUNCH) {
        t.launch.packed = t.held.data();
        playing = true;
        good = emu::run(t.launch);
        playing = false;
        return good;
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

/* The first n that have joined a queue, and what of the other they come after. */
static bool play_until(bool side, int64_t n)
{
    queue &q = queues[side];

    while (q.done < n) {
        task t = std::move(q.waiting.front());

        q.waiting.pop_front();
        q.done++;
        if (t.kind == task::AFTER && !play_until(!side, t.behind)) return false;
        if (!play(t)) return false;
    }
    return true;
}

/* Recorded, but for what joins the side before it is part of the recording. */
static bool join(task t)
{
    const bool side = t.side;

    if (recording && (!side || forked)) {
        tasks.push_back(std::move(t));
        return true;
    }
    queues[side].waiting.push_back(std::move(t));
    queues[side].joined++;
    return lags(side) || play_until(side, queues[side].joined);
}

static bool join_unless_counting(task t)
{
    return counting || t.bytes == 0 || join(std::move(t));
}

bool emu_wait(const void *queue)
{
    const bool side = is_side(queue);

    return play_until(side, queues[side].joined);
}

bool emu_wait_all(void)
{
    return emu_wait(emu_queue()) && emu_wait(emu_side());
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
    join_unless_counting({ task::PUT,
                           is_side(queue),
                           {},
                           dev,
                           nullptr,
                           bytes,
                           nullptr,
                           { from, from + bytes },
                           0,
                           {} });
}

void emu_copy(void *dst, const void *src, int64_t bytes, const void *queue)
{
    join_unless_counting({ task::COPY, is_side(queue), {}, dst, src, bytes, nullptr, {}, 0, {} });
}

void emu_zero(void *dev, int64_t bytes, const void *queue)
{
    join_unless_counting(
        { task::ZERO, is_side(queue), {}, dev, nullptr, bytes, nullptr, {}, 0, {} });
}

bool emu_call(bool (*call)(const void *), const void *argument, int64_t bytes, const void *queue)
{
    const unsigned char *from = (const unsigned char *)argument;

    return join_unless_counting({ task::CALL,
                                  is_side(queue),
                                  {},
                                  nullptr,
                                  nullptr,
                                  bytes,
                                  call,
                                  { from, from + bytes },
                                  0,
                                  {} });
}

/* As CUDA: the side is part of a recording from where it comes after the queue, and must be joined from then on. */
const char *emu_after(const void *queue, const void *other)
{
    const bool side = is_side(queue);
    int64_t behind = 0;

    if (queue == other) return "a queue is to come after itself";
    if (recording && !side && !forked) return "what is recorded is to come after what is not";
    if (counting) return nullptr;
    if (recording) {
        forked = true;
        unjoined = side;
        for (const task &t : tasks) behind += t.side != side;
    } else {
        behind = queues[!side].joined;
    }
    return join({ task::AFTER, side, {}, nullptr, nullptr, 1, nullptr, {}, behind, {} })
               ? nullptr
               : "what is to be over before has failed";
}

/* As far ahead on one of the queues as it may go, then on the other, and so on: what lacks an `after`
 * comes too early or too late. */
static bool play_ahead(std::vector<task> &step, bool side)
{
    std::vector<size_t> of[2];
    int64_t done[2] = {};

    for (size_t i = 0; i < step.size(); i++) of[step[i].side].push_back(i);
    while (done[0] < (int64_t)of[0].size() || done[1] < (int64_t)of[1].size()) {
        for (int k = 0; k < 2; k++) {
            const bool q = side == (k == 0);

            if (done[q] == (int64_t)of[q].size()) continue;
            task &t = step[of[q][(size_t)done[q]]];
            if (t.kind == task::AFTER && done[!q] < t.behind) continue;
            if (!play(t)) return false;
            done[q]++;
            break;
        }
    }
    return true;
}

static bool play_step(std::vector<task> &step)
{
    if (lags(false) || lags(true)) return play_ahead(step, lags(false));
    for (task &t : step)
        if (!play(t)) return false;
    return true;
}

bool emu_replay(void)
{
    if (!kept || recording) return false;
    kept = false;
    return join(
        { task::REPLAY, false, {}, nullptr, nullptr, 1, nullptr, {}, 0, std::move(to_play) });
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
