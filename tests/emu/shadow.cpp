/* Who touched what last. Every access of a checked kernel comes here: inside? written before?
 * ordered behind the accesses it conflicts with? Order comes from barriers (vector clocks, one
 * a warp), from full __syncwarp within a warp, and from one launch to the next. */
#include "tests/emu/machine.h"

#include <algorithm>

extern "C" char __executable_start, _end;

namespace emu
{

static const char *verb(access kind)
{
    return kind == READ ? "reads" : kind == WRITE ? "writes" : "atomically updates";
}

static inline bool ordered(const record &r, const fiber *f)
{
    const uint64_t differs = r.who ^ f->who;
    const unsigned warp = r.who >> WARP_SHIFT & 31;

    if (differs >> LAUNCH_SHIFT) return true;
    if (differs >> BLOCK_SHIFT) return m.acquired;
    if (warp == f->warp && !(differs >> LANE_SHIFT & 31)) return true;
    return r.clock < m.clocks[f->warp][warp];
}

/* against: the kinds that conflict; both atomic: none. */
static inline bool conflicts(const record &r, const fiber *f, uint64_t against, uint64_t own)
{
    if (!(r.who & against) || !(r.who & own & MASK_BYTES)) return false;
    if (r.who & own & MASK_ATOMIC) return false;
    if ((r.who ^ f->who) >> LAUNCH_SHIFT) return false;
    return (r.who & MASK_PENDING) || !ordered(r, f);
}

static void report_conflict(const char *what, uintptr_t a, const record &r, const fiber *f,
                            uint32_t pc)
{
    const uint64_t key = (uint64_t)r.pc << 32 | pc;

    if (r.who & MASK_PENDING)
        report(EMU_IN_FLIGHT, key,
               "%s touches %s at %s, before the cp.async of %s at %s was waited for",
               thread_of(f->who).c_str(), memory_at(a).c_str(), source_of(pc).c_str(),
               thread_of(r.who).c_str(), source_of(r.pc).c_str());
    else
        report(EMU_RACE, key, "%s on %s: %s at %s, %s at %s, no barrier between", what,
               memory_at(a).c_str(), thread_of(f->who).c_str(), source_of(pc).c_str(),
               thread_of(r.who).c_str(), source_of(r.pc).c_str());
}

/* A thread's access to one byte does not hide its own to the other. */
static record with_bytes_of(record own, const record &before)
{
    const bool same = before.pc && !((before.who ^ own.who) >> LANE_SHIFT);

    if (same && before.clock == own.clock) own.who |= before.who & MASK_BYTES;
    return own;
}

/* own: this access as a record. */
static inline void check_unit(unit *u, const record &own, fiber *f, uintptr_t a, access kind,
                              uint32_t pc)
{
    if (kind == READ) {
        if (conflicts(u->writer, f, MASK_WRITE | MASK_ATOMIC, own.who))
            report_conflict("read after write", a, u->writer, f, pc);
        /* keep two readers that nothing orders before this one, if there are two */
        record *r = u->reader;
        if (r[0].pc == 0 || !((r[0].who ^ own.who) >> LANE_SHIFT) || ordered(r[0], f))
            r[0] = with_bytes_of(own, r[0]);
        else
            r[1] = with_bytes_of(own, r[1]);
        return;
    }
    if (conflicts(u->writer, f, MASK_WRITE | MASK_ATOMIC, own.who))
        report_conflict("write after write", a, u->writer, f, pc);
    for (const record &r : u->reader) {
        if (r.pc == 0 || !conflicts(r, f, MASK_READ, own.who)) continue;
        report_conflict("write after read", a, r, f, pc);
        break;
    }
    u->writer = with_bytes_of(own, u->writer);
    u->reader[0] = u->reader[1] = {};
}

/* Shared memory begins anew with each block. */
static void forget_other_blocks(unit *u, const fiber *f)
{
    for (record *r : { &u->writer, &u->reader[0], &u->reader[1] })
        if ((r->who ^ f->who) >> BLOCK_SHIFT) *r = {};
}

/* first: the shadow of the unit that a lies in; written: a flag a unit, NULL for shared memory. */
static void check_units(unit *first, uint8_t *written, fiber *f, uintptr_t a, unsigned bytes,
                        access kind, uint32_t pc)
{
    static const uint64_t mask[] = { MASK_READ, MASK_WRITE, MASK_ATOMIC };
    const record own = { f->who | mask[kind], m.clocks[f->warp][f->warp], pc };
    const unsigned n = (unsigned)((a & 1) + bytes + 1) / 2;
    bool unwritten = false;

    for (unsigned i = 0; i < n; i++) {
        unit *u = first + i;

        if (!written) forget_other_blocks(u, f);
        if (kind != WRITE) {
            if (written)
                unwritten |= !written[i];
            else
                unwritten |= !(u->writer.who & (MASK_WRITE | MASK_ATOMIC));
        }
        const uintptr_t low = (a & ~(uintptr_t)1) + 2 * i, high = low + 1;
        record its = own;

        if (low >= a) its.who |= MASK_LOW;
        if (high < a + bytes) its.who |= MASK_HIGH;
        check_unit(u, its, f, std::max(a, low), kind, pc);
        if (kind != READ && written) written[i] = 1;
    }
    if (unwritten)
        report(EMU_UNINIT, pc, "%s %s %s, which nobody wrote, at %s", thread_of(f->who).c_str(),
               verb(kind), memory_at(a).c_str(), source_of(pc).c_str());
}

static void outside [[noreturn]] (emu_report what, const fiber *f, uintptr_t a, unsigned bytes,
                                  access kind, uint32_t pc)
{
    report(what, pc, "%s %s %u bytes at %s%s, at %s", thread_of(f->who).c_str(), verb(kind), bytes,
           memory_at(a).c_str(), what == EMU_WILD ? ", which is not the device's" : "",
           source_of(pc).c_str());
    give_up_block();
}

static bool is_program_data(uintptr_t a)
{
    if (a - (uintptr_t)m.now.packed < m.now.packed_bytes) return true; /* kernel arguments */
    return a >= (uintptr_t)&__executable_start && a < (uintptr_t)&_end;
}

void check_access(fiber *f, uintptr_t a, unsigned bytes, access kind, uint32_t pc)
{
    const bool power_of_two = (bytes & (bytes - 1)) == 0;

    if (a - (uintptr_t)f->stack_low < STACK_BYTES) return;
    if (bytes <= 16 && power_of_two && (a & (bytes - 1)))
        report(EMU_MISALIGNED, pc, "%s %s %u bytes at %s, at %s", thread_of(f->who).c_str(),
               verb(kind), bytes, memory_at(a).c_str(), source_of(pc).c_str());
    if (shared_is_dynamic(a) || shared_is_static(a)) {
        if (!shared_inside(a, bytes)) outside(EMU_OOB, f, a, bytes, kind, pc);
        profile_add(f, a, bytes, kind, pc, true);
        check_units(shared_unit(a), nullptr, f, a, bytes, kind, pc);
        return;
    }
    if (heap_holds(a)) {
        const buffer *b = heap_buffer(a);

        if (!b || b->given_back || a < b->base || a + bytes > b->base + b->bytes)
            outside(EMU_OOB, f, a, bytes, kind, pc);
        profile_add(f, a, bytes, kind, pc, false);
        const size_t first = (a - b->base) / 2;
        check_units(b->shadow + first, b->written + first, f, a, bytes, kind, pc);
        return;
    }
    if (!is_program_data(a)) outside(EMU_WILD, f, a, bytes, kind, pc);
}

void acquire_blocks(void)
{
    m.acquired = true;
}

uint32_t peek_word(const void *p)
{
    uint32_t word;

    memcpy(&word, p, sizeof word);
    return word;
}

void poke_word(void *p, uint32_t word)
{
    memcpy(p, &word, sizeof word);
}

__attribute__((noinline)) void touch(const void *p, unsigned bytes, access kind)
{
    if (m.checked && m.running)
        check_access(m.running, (uintptr_t)p, bytes, kind, caller_pc(__builtin_return_address(0)));
}

} // namespace emu

bool emu_is_checked(void)
{
    return emu::m.checked;
}
