/* The emulated machine: what the files of the emulator share. One machine, one host thread.
 *
 *   launch.cpp      blocks one after another, and what a launch may ask for
 *   fiber.cpp       threads of a block: stacks, switching, who runs next
 *   barrier.cpp     barriers of the block, and the order they make between warps
 *   collective.cpp  shuffles, ballots, ldmatrix, mma
 *   async_copy.cpp  cp.async: lands when waited for
 *   record.cpp      launches counted or kept instead of run
 *   heap.cpp        device memory       shared.cpp  shared memory, static and dynamic
 *   shadow.cpp      who touched what: races, unwritten and outside accesses
 *   hooks.cpp       where the compiler's instrumentation calls in
 *   report.cpp      what is said, with source lines       profile.cpp  bank conflicts, sectors */
#ifndef TESTS_EMU_MACHINE_H
#define TESTS_EMU_MACHINE_H

#include <string>
#include <vector>

#include "tests/emu/device_memory.h"
#include "tests/emu/emu.h"

namespace emu
{

enum { LANES = 32, MAX_WARPS = 32, MAX_THREADS = LANES * MAX_WARPS, N_BARRIERS = 16 };
constexpr size_t PAGE = 4096, STACK_BYTES = 128 << 10;
constexpr size_t SHARED_LIMIT = 163 << 10; /* of sm_80, the smaller one */

/* A remembered access. who is launch:20 block:20 warp:5 lane:5 flags:14. */
struct record {
    uint64_t who;
    uint32_t clock; /* of its warp */
    uint32_t pc;
};
enum : uint64_t { MASK_READ = 1, MASK_WRITE = 2, MASK_ATOMIC = 4, MASK_PENDING = 8 };
enum : uint64_t { MASK_LOW = 16, MASK_HIGH = 32, MASK_BYTES = 48 }; /* of the two, which */
enum { LAUNCH_SHIFT = 44, BLOCK_SHIFT = 24, WARP_SHIFT = 19, LANE_SHIFT = 14 };

/* The shadow of two bytes of memory. */
struct unit {
    record writer, reader[2];
};

struct pending_copy {
    char *dst;
    const char *src;
    int source_bytes, group;
    bool landed;
};

struct fiber {
    void *stack_pointer;
    char *stack_low, *stack_high;
    unsigned number, warp, lane; /* in the block */
    uint3 index;
    uint64_t who;
    bool done;
    const char *waits_for; /* where it is parked, or NULL */
    place waits_at;
    int barrier_count;
    std::vector<pending_copy> copies;
    size_t first_copy;
    int copy_group;
};

/* A collective that some lanes have reached. */
struct gathering {
    unsigned mask, arrived;
    collective kind;
    place at;
    void *operands[LANES];
};

struct warp_state {
    gathering open[4]; /* of disjoint masks */
    unsigned alive;
};

struct barrier_state {
    int n, expected, count;
    place at;
    std::vector<fiber *> waiting;
};

struct machine {
    launch now; /* name NULL between launches */
    uint64_t launch_number, block_number;
    uint3 block;
    int n_threads, n_warps, n_alive;
    bool gave_up;  /* on this block */
    bool acquired; /* see acquire_blocks */
    bool checked;
    unsigned seed;
    fiber *running; /* NULL: host code */
    fiber host;
    fiber fibers[MAX_THREADS];
    warp_state warps[MAX_WARPS];
    barrier_state barriers[N_BARRIERS];
    uint32_t clocks[MAX_WARPS][MAX_WARPS]; /* vector clocks, a row a warp */
};
extern machine m;

/* start-up, on first use: memory, shared variables, signals */
void machine_start(void);
void *map_memory(size_t bytes, bool accessible);

/* fiber.cpp */
void fiber_start(fiber *f, unsigned number);
void fibers_clear(void);
void fibers_run(void); /* until nobody can go on */
void make_ready(fiber *f);
void give_way(void); /* to whoever is next; returns when made ready again */
void give_up_block [[noreturn]] (void);
uint32_t random_bits(void);

/* barrier.cpp */
void barriers_clear(void);
void barrier_thread_left(void);

/* async_copy.cpp */
void copies_check_landed(const fiber *f);

/* heap.cpp */
void heap_start(void);
struct buffer {
    uintptr_t base;
    size_t bytes;
    unit *shadow;     /* NULL in a fast build */
    uint8_t *written; /* one for two bytes */
    std::string name;
    bool given_back;
    bool reserved; /* addresses only: taken while launches were counted */
};
bool heap_holds(uintptr_t a);
buffer *heap_buffer(uintptr_t a);  /* whose pages these are, or NULL */
buffer *heap_nearest(uintptr_t a); /* for messages */

/* shared.cpp */
struct shared_variable {
    uintptr_t low, high;
    int kernel; /* whose it is; 0: anybody's */
    std::string name;
};
void shared_start(void);
void shared_enter_block(void); /* poisons all that the kernel has */
void shared_enter_launch(const launch &l);
bool shared_is_dynamic(uintptr_t a); /* in the arena or its guard page */
bool shared_is_static(uintptr_t a);
bool shared_inside(uintptr_t a,
                   size_t bytes); /* of one of the kernel's variables, or of what was asked for */
unit *shared_unit(uintptr_t a);
std::string shared_name(uintptr_t a);

/* shadow.cpp */
void check_access(fiber *f, uintptr_t a, unsigned bytes, access kind, uint32_t pc);

/* record.cpp */
bool record_launch(const launch &l); /* true: that is all there is to do */
void trace_launch(const launch &l);

/* report.cpp */
void report(emu_report kind, uint64_t key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
std::string source_of(uint32_t pc); /* a return address */
std::string thread_of(uint64_t who);
std::string memory_at(uintptr_t a);

/* profile.cpp */
void profile_enter_block(void);
void profile_add(const fiber *f, uintptr_t a, unsigned bytes, access kind, uint32_t pc,
                 bool shared);
void profile_leave_block(void);

inline uint32_t caller_pc(void *return_address)
{
    return (uint32_t)(uintptr_t)return_address;
}

} // namespace emu
#endif
