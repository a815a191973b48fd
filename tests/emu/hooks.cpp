/* Where compiled kernels call in: gcc's instrumentation for ThreadSanitizer and for alignment and
 * bounds, without their libraries. Every access to memory that is not a register-like local of the
 * unmodified kernel arrives here with its address, size and place in the code. */
#include "tests/emu/machine.h"

using namespace emu;

static void arrive(const void *p, size_t bytes, access kind, void *return_address)
{
    const uintptr_t a = (uintptr_t)p;
    const uint32_t pc = caller_pc(return_address);

    if (m.running)
        check_access(m.running, a, (unsigned)bytes, kind, pc);
    else if (heap_holds(a))
        report(EMU_HOST_DEREF, pc, "host code touches %s at %s", memory_at(a).c_str(),
               source_of(pc).c_str());
}

#define ARRIVE(p, bytes, kind) arrive((p), (bytes), (kind), __builtin_return_address(0))

extern "C" {

void __tsan_init(void)
{
    m.checked = true;
}

void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}

#define HOOK(name, bytes, kind)                                                                    \
    void __tsan_##name##bytes(void *p)                                                             \
    {                                                                                              \
        ARRIVE(p, bytes, kind);                                                                    \
    }
#define HOOKS(bytes)                                                                               \
    HOOK(read, bytes, READ)                                                                        \
    HOOK(write, bytes, WRITE)                                                                      \
    HOOK(unaligned_read, bytes, READ)                                                              \
    HOOK(unaligned_write, bytes, WRITE)                                                            \
    HOOK(volatile_read, bytes, READ)                                                               \
    HOOK(volatile_write, bytes, WRITE)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *p, size_t n)
{
    ARRIVE(p, n, READ);
}

void __tsan_write_range(void *p, size_t n)
{
    ARRIVE(p, n, WRITE);
}

void *__tsan_memcpy(void *dst, const void *src, size_t n)
{
    ARRIVE(src, n, READ);
    ARRIVE(dst, n, WRITE);
    return memcpy(dst, src, n);
}

void *__tsan_memmove(void *dst, const void *src, size_t n)
{
    ARRIVE(src, n, READ);
    ARRIVE(dst, n, WRITE);
    return memmove(dst, src, n);
}

void *__tsan_memset(void *dst, int c, size_t n)
{
    ARRIVE(dst, n, WRITE);
    return memset(dst, c, n);
}

/* What gcc hands to the handlers of -fsanitize=alignment,bounds. */
struct source_location {
    const char *file;
    uint32_t line, column;
};

void __ubsan_handle_type_mismatch_v1(source_location *at, uintptr_t p)
{
    if (!m.running) return;
    report(EMU_MISALIGNED, at->line, "%s: a misaligned pointer to %s at %s:%u",
           thread_of(m.running->who).c_str(), memory_at(p).c_str(), at->file, at->line);
    give_up_block();
}

void __ubsan_handle_out_of_bounds(source_location *at, uintptr_t index)
{
    if (!m.running) return;
    report(EMU_BAD_INDEX, at->line, "%s: index %lld is outside its array at %s:%u",
           thread_of(m.running->who).c_str(), (long long)index, at->file, at->line);
    give_up_block();
}
}
