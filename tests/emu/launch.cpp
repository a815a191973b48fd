/* Launches: the blocks one after another, each from a clean start, in the seed's order. */
#include "tests/emu/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

namespace emu
{

machine m;

enum { MAX_BLOCKS = 1 << 20, MAX_GRID_YZ = 65535, MAX_ARGUMENTS = 4096 };

/* Says which thread touched what, and goes on in give_up_block on a clean stack. */
static void on_fault(int, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint32_t pc = (uint32_t)g[REG_RIP] + 1; /* source_of wants the one behind */
    const uintptr_t a = (uintptr_t)info->si_addr;

    if (!m.running) {
        fprintf(stderr, "emu: host code touches %s at %s\n", memory_at(a).c_str(),
                source_of(pc).c_str());
        _exit(1);
    }
    const bool overflow = a - (uintptr_t)(m.running->stack_low - PAGE) < PAGE;
    report(EMU_FAULT, pc, "%s touches %s at %s", thread_of(m.running->who).c_str(),
           overflow ? "the end of its stack" : memory_at(a).c_str(), source_of(pc).c_str());
    g[REG_RIP] = (greg_t)(uintptr_t)give_up_block;
    g[REG_RSP] = (greg_t)(((uintptr_t)m.running->stack_high - 1024) & ~(uintptr_t)15) - 8;
}

void machine_start(void)
{
    static char signal_stack[64 << 10];
    static bool started;
    stack_t stack = {};
    struct sigaction action = {};

    if (started) return;
    started = true;
    heap_start();
    shared_start();
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaltstack(&stack, nullptr) != 0 || sigaction(SIGSEGV, &action, nullptr) != 0 ||
        sigaction(SIGBUS, &action, nullptr) != 0) {
        perror("emu: signals");
        exit(1);
    }
}

static bool launch_is_possible(const launch &l)
{
    const size_t threads = (size_t)l.block.x * l.block.y * l.block.z;
    const size_t blocks = (size_t)l.grid.x * l.grid.y * l.grid.z;

    if (threads >= 1 && threads <= MAX_THREADS && threads % LANES == 0 && l.block.z <= 64 &&
        blocks >= 1 && blocks < MAX_BLOCKS && l.grid.y <= MAX_GRID_YZ && l.grid.z <= MAX_GRID_YZ &&
        l.shared_bytes <= SHARED_LIMIT && l.packed_bytes <= MAX_ARGUMENTS)
        return true;
    m.now = l;
    report(EMU_LAUNCH, 0,
           "%zu blocks of %zu threads (whole warps), %zu bytes of shared memory, %zu of arguments",
           blocks, threads, l.shared_bytes, l.packed_bytes);
    m.now = {};
    return false;
}

static void report_deadlock(void)
{
    std::map<std::string, int> places;
    std::string text;

    for (int t = 0; t < m.n_threads; t++) {
        const fiber *f = &m.fibers[t];

        if (f->done || !f->waits_for) continue;
        places[std::string(f->waits_for) + " " + f->waits_at.file + ":" +
               std::to_string(f->waits_at.line)]++;
    }
    for (const auto &p : places)
        text += (text.empty() ? "" : "; ") + std::to_string(p.second) + " at " + p.first;
    report(EMU_DEADLOCK, 0, "%d of %d threads are never released: %s", m.n_alive, m.n_threads,
           text.c_str());
}

static void run_block(size_t number)
{
    const dim3 grid = m.now.grid;

    m.block_number = number;
    m.block = { (unsigned)(number % grid.x), (unsigned)(number / grid.x % grid.y),
                (unsigned)(number / grid.x / grid.y) };
    m.gave_up = m.acquired = false;
    m.n_alive = m.n_threads;
    shared_enter_block();
    memset(m.clocks, 0, sizeof m.clocks);
    for (int w = 0; w < MAX_WARPS; w++) m.clocks[w][w] = 1;
    memset(m.warps, 0, sizeof m.warps);
    barriers_clear();
    fibers_clear();
    for (int t = 0; t < m.n_threads; t++) fiber_start(&m.fibers[t], (unsigned)t);
    profile_enter_block();
    fibers_run();
    profile_leave_block();
    if (m.n_alive > 0 && !m.gave_up) report_deadlock();
}

bool run(const launch &l)
{
    machine_start();
    if (!launch_is_possible(l)) return false;
    if (record_launch(l)) return true;
    trace_launch(l);
    m.now = l;
    m.launch_number++;
    m.n_threads = (int)(l.block.x * l.block.y * l.block.z);
    m.n_warps = m.n_threads / LANES;
    shared_enter_launch(l);

    std::vector<size_t> order((size_t)l.grid.x * l.grid.y * l.grid.z);
    std::iota(order.begin(), order.end(), 0);
    if (m.seed == 1) std::reverse(order.begin(), order.end());
    for (size_t i = order.size(); m.seed >= 2 && i > 1; i--)
        std::swap(order[i - 1], order[random_bits() % i]);
    emu_unlock();
    for (size_t number : order) run_block(number);
    emu_lock();
    m.now = {};
    return true;
}

} // namespace emu
