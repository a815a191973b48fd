/* cp.async. A copy lands when its group is waited for: as late as a GPU may, which shows a missing
 * wait in the numbers too. In a fast build other seeds land some at once: that shows a refill that
 * came too early. In a checked build the shadow knows either way. */
#include "tests/emu/machine.h"

namespace emu
{

enum { COPY_BYTES = 16 };

static void land(const fiber *f, pending_copy *c)
{
    if (c->landed) return;
    memcpy(c->dst, c->src, (size_t)c->source_bytes);
    memset(c->dst + c->source_bytes, 0, (size_t)(COPY_BYTES - c->source_bytes));
    c->landed = true;
    if (!m.checked) return;
    for (int i = 0; i < COPY_BYTES; i += 2) {
        record *w = &shared_unit((uintptr_t)c->dst + (size_t)i)->writer;

        w->who &= ~MASK_PENDING;
        w->clock = m.clocks[f->warp][f->warp];
    }
}

static void check_operands(uintptr_t dst, uintptr_t src, int source_bytes, uint32_t pc, place at)
{
    if (((dst | src) & (COPY_BYTES - 1)) || source_bytes < 0 || source_bytes > COPY_BYTES) {
        report(EMU_MISALIGNED, pc, "cp.async of %d of 16 bytes, %s to %s, at %s:%d", source_bytes,
               memory_at(src).c_str(), memory_at(dst).c_str(), at.file, at.line);
        give_up_block();
    }
    const buffer *b = heap_buffer(src);
    const bool readable = source_bytes == 0 || (b && !b->given_back && src >= b->base &&
                                                src + (size_t)source_bytes <= b->base + b->bytes);
    if (!readable || !shared_inside(dst, COPY_BYTES)) {
        report(EMU_OOB, pc, "cp.async of %d bytes, %s to %s, at %s:%d", source_bytes,
               memory_at(src).c_str(), memory_at(dst).c_str(), at.file, at.line);
        give_up_block();
    }
}

void async_copy(void *dst, const void *src, int source_bytes, place at)
{
    fiber *self = m.running;
    const uint32_t pc = caller_pc(__builtin_return_address(0));

    check_operands((uintptr_t)dst, (uintptr_t)src, source_bytes, pc, at);
    if (m.checked) {
        if (source_bytes) check_access(self, (uintptr_t)src, (unsigned)source_bytes, READ, pc);
        check_access(self, (uintptr_t)dst, COPY_BYTES, WRITE, pc);
        for (size_t i = 0; i < COPY_BYTES; i += 2)
            shared_unit((uintptr_t)dst + i)->writer.who |= MASK_PENDING;
    }
    pending_copy c = { (char *)dst, (const char *)src, source_bytes, self->copy_group, false };

    if (!m.checked && (m.seed == 1 || (m.seed >= 2 && (random_bits() & 1)))) land(self, &c);
    self->copies.push_back(c);
}

void async_commit(void)
{
    m.running->copy_group++;
}

void async_wait(int groups_left)
{
    fiber *f = m.running;

    while (f->first_copy < f->copies.size() &&
           f->copies[f->first_copy].group < f->copy_group - groups_left)
        land(f, &f->copies[f->first_copy++]);
    if (f->first_copy == f->copies.size()) {
        f->copies.clear();
        f->first_copy = 0;
    }
}

void copies_check_landed(const fiber *f)
{
    if (f->first_copy < f->copies.size())
        report(EMU_NOT_WAITED, 0, "%s ends with %zu of its cp.async not waited for",
               thread_of(f->who).c_str(), f->copies.size() - f->first_copy);
}

} // namespace emu
