/* Device memory: one range of addresses, never used twice. A buffer ends within 256 bytes of a page
 * that faults, starts behind another, and what is left of its pages holds a pattern. */
#include "tests/emu/machine.h"

#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

namespace emu
{

constexpr size_t HEAP_BYTES = 1ull << 36, ALIGN = 256;
static const unsigned char PATTERN = 0xA5, POISON = 0xFF; /* NaN in f32 and bf16 */

static char *heap;
static size_t used;
static uint32_t *buffer_of_page; /* from 1; 0: none */
static std::vector<buffer> buffers;
static bool strict;
static int n_unlocked;

void *map_memory(size_t bytes, bool accessible)
{
    void *p = mmap(nullptr, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("emu: mmap");
        exit(1);
    }
    return p;
}

void heap_start(void)
{
    heap = (char *)map_memory(HEAP_BYTES, false);
    buffer_of_page = (uint32_t *)map_memory(HEAP_BYTES / PAGE * sizeof *buffer_of_page, true);
}

bool heap_holds(uintptr_t a)
{
    return heap && a - (uintptr_t)heap < HEAP_BYTES;
}

buffer *heap_buffer(uintptr_t a)
{
    if (!heap_holds(a)) return nullptr;
    const uint32_t i = buffer_of_page[(a - (uintptr_t)heap) / PAGE];
    return i ? &buffers[i - 1] : nullptr;
}

static uintptr_t distance(const buffer &b, uintptr_t a)
{
    if (a < b.base) return b.base - a;
    return a < b.base + b.bytes ? 0 : a - (b.base + b.bytes);
}

buffer *heap_nearest(uintptr_t a)
{
    buffer *best = nullptr;

    for (buffer &b : buffers)
        if (!best || distance(b, a) < distance(*best, a)) best = &b;
    return best;
}

struct pages {
    char *first;
    size_t bytes;
};

static pages pages_of(const buffer &b)
{
    char *first = (char *)(b.base & ~(uintptr_t)(PAGE - 1));
    const uintptr_t end = (b.base + b.bytes + PAGE - 1) & ~(uintptr_t)(PAGE - 1);

    return { first, end > (uintptr_t)first ? end - (uintptr_t)first : PAGE };
}

/* The guard pages between buffers stay shut. */
static void protect(int how)
{
    for (const buffer &b : buffers)
        if (!b.given_back && !b.reserved &&
            mprotect(pages_of(b).first, pages_of(b).bytes, how) != 0) {
            perror("emu: mprotect");
            exit(1);
        }
}

/* Written outside, where no access was checked: a fast build, or host code. */
static void check_pattern(const buffer &b)
{
    const pages p = pages_of(b);
    const char *end = (const char *)b.base + b.bytes;

    for (const char *c = p.first; c < p.first + p.bytes; c++) {
        if (c == (const char *)b.base && b.bytes > 0) c = end;
        if (c == p.first + p.bytes) break;
        if ((unsigned char)*c == PATTERN) continue;
        report(EMU_OOB, b.base, "%s was written at some time", memory_at((uintptr_t)c).c_str());
        return;
    }
}

static buffer *exactly(void *p)
{
    buffer *b = heap_buffer((uintptr_t)p);

    return b && !b->given_back && b->base == (uintptr_t)p ? b : nullptr;
}

static size_t shadow_bytes(const buffer &b)
{
    return (b.bytes / 2 + 2) * sizeof(unit);
}

static size_t written_bytes(const buffer &b)
{
    return b.bytes / 2 + 2;
}

} // namespace emu

using namespace emu;

void *emu_take(int64_t bytes, const char *name, bool zeros)
{
    machine_start();
    const size_t size = (size_t)bytes, n_pages = size ? (size + PAGE - 1) / PAGE : 1;
    char *first = heap + used + PAGE;

    if (bytes < 0 || used + (n_pages + 2) * PAGE > HEAP_BYTES) {
        fprintf(stderr, "emu: no addresses left for %lld bytes\n", (long long)bytes);
        exit(1);
    }
    used += (n_pages + 1) * PAGE;
    if (!emu_counts() && mprotect(first, n_pages * PAGE, PROT_READ | PROT_WRITE) != 0) {
        perror("emu: mprotect");
        exit(1);
    }
    buffer b = { (uintptr_t)first + (n_pages * PAGE - size) / ALIGN * ALIGN,
                 size,
                 nullptr,
                 nullptr,
                 name,
                 false,
                 emu_counts() };

    if (b.base == (uintptr_t)first + n_pages * PAGE) b.base = (uintptr_t)first; /* of 0 bytes */
    if (m.checked && !b.reserved) {
        b.shadow = (unit *)map_memory(shadow_bytes(b), true);
        b.written = (uint8_t *)map_memory(written_bytes(b), true);
        if (zeros) memset(b.written, 1, written_bytes(b));
    }
    if (!b.reserved) memset(first, PATTERN, n_pages * PAGE);
    if (!b.reserved) memset((void *)b.base, zeros ? 0 : POISON, size);
    buffers.push_back(b);
    if (strict && n_unlocked == 0) mprotect(first, n_pages * PAGE, PROT_NONE);
    for (size_t i = 0; i < n_pages; i++)
        buffer_of_page[(size_t)(first - heap) / PAGE + i] = (uint32_t)buffers.size();
    return (void *)b.base;
}

void emu_give(void *p)
{
    if (!p) return;
    buffer *b = exactly(p);

    if (!b) {
        report(EMU_BAD_FREE, (uint64_t)(uintptr_t)p, "%s given back",
               memory_at((uintptr_t)p).c_str());
        return;
    }
    emu_unlock();
    if (!b->reserved) check_pattern(*b);
    b->given_back = true;
    mprotect(pages_of(*b).first, pages_of(*b).bytes, PROT_NONE);
    madvise(pages_of(*b).first, pages_of(*b).bytes, MADV_DONTNEED);
    emu_lock();
    if (!b->shadow) return;
    munmap(b->shadow, shadow_bytes(*b));
    munmap(b->written, written_bytes(*b));
    b->shadow = nullptr;
    b->written = nullptr;
}

bool emu_range(const void *p, int64_t bytes, bool write)
{
    const uintptr_t a = (uintptr_t)p;
    const buffer *b = heap_buffer(a);

    if (bytes == 0) return true;
    if (bytes < 0 || !b || b->given_back || a < b->base || a + (size_t)bytes > b->base + b->bytes) {
        report(EMU_HOST_OOB, (uint64_t)a, "%lld bytes at %s", (long long)bytes,
               memory_at(a).c_str());
        return false;
    }
    if (write && b->written) memset(b->written + (a - b->base) / 2, 1, ((size_t)bytes + 1) / 2);
    return true;
}

bool emu_read(void *host, const void *dev, int64_t bytes)
{
    if (!emu_range(dev, bytes, false)) return false;
    if (emu_counts()) return memset(host, 0, (size_t)bytes) != nullptr;
    emu_unlock();
    memcpy(host, dev, (size_t)bytes);
    emu_lock();
    return true;
}

void emu_set_strict(void)
{
    if (strict) return;
    strict = true;
    protect(PROT_NONE);
}

void emu_unlock(void)
{
    if (strict && n_unlocked++ == 0) protect(PROT_READ | PROT_WRITE);
}

void emu_lock(void)
{
    if (strict && --n_unlocked == 0) protect(PROT_NONE);
}
