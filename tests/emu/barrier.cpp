/* Barriers of a block. Releasing one orders all that its warps did before it (vector clocks). */
#include "tests/emu/machine.h"

#include <algorithm>

namespace emu
{

static void release(barrier_state &b)
{
    uint32_t joined[MAX_WARPS] = {};
    unsigned warps = 0;

    for (const fiber *f : b.waiting) warps |= 1u << f->warp;
    for (int w = 0; w < m.n_warps; w++) {
        if (!(warps >> w & 1)) continue;
        m.clocks[w][w]++;
        for (int k = 0; k < m.n_warps; k++) joined[k] = std::max(joined[k], m.clocks[w][k]);
    }
    for (int w = 0; w < m.n_warps; w++)
        if (warps >> w & 1) memcpy(m.clocks[w], joined, sizeof joined);
    for (fiber *f : b.waiting) {
        f->barrier_count = b.count;
        make_ready(f);
    }
    b.waiting.clear();
    b.n = 0;
}

/* expected 0: all threads of the block that have not left. */
static int wait_at(int id, int expected, int predicate, const char *what, place at)
{
    barrier_state &b = m.barriers[id];
    fiber *self = m.running;

    if (b.n == 0) {
        b.at = at;
        b.count = 0;
        b.expected = expected;
    } else if (at.line != b.at.line || strcmp(at.file, b.at.file) != 0) {
        report(EMU_DIVERGENT_BARRIER, (uint64_t)at.line << 20 | (unsigned)b.at.line,
               "%s at %s:%d while %d threads wait at %s:%d", thread_of(self->who).c_str(), at.file,
               at.line, b.n, b.at.file, b.at.line);
    }
    self->waits_for = what;
    self->waits_at = at;
    b.waiting.push_back(self);
    b.n++;
    b.count += predicate != 0;
    if (b.n == (expected ? expected : m.n_alive)) {
        if (!expected && m.n_alive != m.n_threads)
            report(EMU_DIVERGENT_BARRIER, (uint64_t)at.line, "%s %s:%d reached by %d of %d threads",
                   what, at.file, at.line, m.n_alive, m.n_threads);
        release(b);
    }
    give_way();
    return self->barrier_count;
}

void block_barrier(place at)
{
    wait_at(0, 0, 0, "__syncthreads", at);
}

int block_barrier_count(int predicate, place at)
{
    return wait_at(0, 0, predicate, "__syncthreads_count", at);
}

void named_barrier(int id, int n_threads, place at)
{
    if (id < 0 || id >= N_BARRIERS || n_threads < 1 || n_threads % LANES != 0) {
        report(EMU_DIVERGENT_BARRIER, (uint64_t)at.line,
               "bar.sync %d, %d at %s:%d: barriers are 0 to 15, threads whole warps", id, n_threads,
               at.file, at.line);
        give_up_block();
    }
    wait_at(id, n_threads, 0, "bar.sync", at);
}

/* A thread that left may be the last the others waited for. */
void barrier_thread_left(void)
{
    barrier_state &b = m.barriers[0];

    if (b.n == 0 || b.expected || b.n != m.n_alive) return;
    report(EMU_DIVERGENT_BARRIER, (uint64_t)b.at.line,
           "%d threads left the kernel while %d wait at __syncthreads %s:%d",
           m.n_threads - m.n_alive, m.n_alive, b.at.file, b.at.line);
    release(b);
}

void barriers_clear(void)
{
    for (barrier_state &b : m.barriers) {
        b.n = 0;
        b.waiting.clear();
    }
}

} // namespace emu
