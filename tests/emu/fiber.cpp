/* The threads of a block as fibers: a stack each, switched by hand, in the order of the seed. */
#include "tests/emu/machine.h"

#include <algorithm>
#include <cstdlib>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "fibers are switched by x86-64 code"
#endif

extern "C" void emu_switch(void **save_to, void *stack_pointer);
/* Callee-saved registers of the System V ABI stay on the old stack, those on the new one return. */
asm(".text\n"
    ".globl emu_switch\n"
    ".type emu_switch,@function\n"
    "emu_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp,(%rdi)\n"
    "    mov %rsi,%rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size emu_switch,.-emu_switch\n");

namespace emu
{

static std::vector<fiber *> ready;
static size_t first_ready; /* those before it have run */
static uint64_t random_state = 1;

uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

void make_ready(fiber *f)
{
    f->waits_for = nullptr;
    ready.push_back(f);
}

static fiber *next_fiber(void)
{
    const size_t n = ready.size() - first_ready;
    fiber *f;

    if (n == 0) return &m.host;
    if (m.seed == 0) {
        f = ready[first_ready++];
        if (first_ready == ready.size()) {
            ready.clear();
            first_ready = 0;
        }
        return f;
    }
    if (m.seed >= 2) std::swap(ready.back(), ready[first_ready + random_bits() % n]);
    f = ready.back();
    ready.pop_back();
    return f;
}

static void switch_to(fiber *f)
{
    fiber *from = m.running;

    if (f == from) return;
    m.running = f;
    emu_switch(&from->stack_pointer, f->stack_pointer);
}

void give_way(void)
{
    switch_to(next_fiber());
}

void give_up_block(void)
{
    m.gave_up = true;
    switch_to(&m.host); /* the others are never resumed */
    abort();
}

static void fiber_main(void)
{
    m.now.call(m.now.packed);

    fiber *f = m.running;
    copies_check_landed(f);
    f->done = true;
    m.n_alive--;
    m.warps[f->warp].alive &= ~(1u << f->lane);
    barrier_thread_left();
    give_way();
    abort();
}

void fiber_start(fiber *f, unsigned number)
{
    const dim3 dim = m.now.block;

    if (!f->stack_low) {
        char *pages = (char *)map_memory(STACK_BYTES + PAGE, true);

        mprotect(pages, PAGE, PROT_NONE);
        f->stack_low = pages + PAGE;
        f->stack_high = f->stack_low + STACK_BYTES;
    }
    /* tops at different cache sets; fiber_main is "returned to" with the stack as after a call */
    const uintptr_t top = (uintptr_t)f->stack_high - 64 - (number * 7 % 32) * 128;
    void **sp = (void **)(top & ~(uintptr_t)15);

    *--sp = nullptr;
    *--sp = (void *)fiber_main;
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    f->stack_pointer = sp;
    f->number = number;
    f->warp = number / LANES;
    f->lane = number % LANES;
    f->index = { number % dim.x, number / dim.x % dim.y, number / dim.x / dim.y };
    f->who = m.launch_number << LAUNCH_SHIFT | m.block_number << BLOCK_SHIFT |
             (uint64_t)f->warp << WARP_SHIFT | (uint64_t)f->lane << LANE_SHIFT;
    f->done = false;
    f->copies.clear();
    f->first_copy = 0;
    f->copy_group = 0;
    m.warps[f->warp].alive |= 1u << f->lane;
    make_ready(f);
}

void fibers_clear(void)
{
    ready.clear();
    first_ready = 0;
}

void fibers_run(void)
{
    if (m.seed == 1) std::reverse(ready.begin(), ready.end());
    m.running = &m.host;
    give_way();
    m.running = nullptr;
}

} // namespace emu

void emu_set_seed(unsigned seed)
{
    emu::m.seed = seed;
    emu::random_state = seed * 0x9E3779B97F4A7C15u + 0x1234567;
    emu::random_bits();
}

uint3 emu_thread(void)
{
    return emu::m.running->index;
}

uint3 emu_block(void)
{
    return emu::m.block;
}

dim3 emu_block_dim(void)
{
    return emu::m.now.block;
}

dim3 emu_grid_dim(void)
{
    return emu::m.now.grid;
}
