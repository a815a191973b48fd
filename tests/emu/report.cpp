/* What the emulator says: a kind, the kernel and block, then threads, memory and source lines. */
#include "tests/emu/machine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <unistd.h>

namespace emu
{

static const char *const names[] = {
#define REPORT_NAME(name, text) text,
    EMU_REPORT_LIST(REPORT_NAME)
#undef REPORT_NAME
};

enum { MAX_SAID = 12 }; /* lines; the rest is counted */
static int64_t counts[EMU_REPORT_COUNT], n_reports;
static std::set<std::pair<uint64_t, int>> said;
static std::string first_said;

/* key: reports of one kind and key are one; only the first is said. */
void report(emu_report kind, uint64_t key, const char *format, ...)
{
    va_list arguments;
    char text[1024];

    n_reports++;
    counts[kind]++;
    if (!said.insert({ key, kind }).second || said.size() > MAX_SAID) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (said.size() == 1) first_said = text;
    if (m.running)
        fprintf(stderr, "emu: %s [%s block (%u,%u,%u) seed %u]: %s\n", names[kind], m.now.name,
                m.block.x, m.block.y, m.block.z, m.seed, text);
    else
        fprintf(stderr, "emu: %s [%s]: %s\n", names[kind], m.now.name ? m.now.name : "host", text);
    if (getenv("EMU_ABORT")) abort(); /* for a debugger */
}

/* "file:line <- file:line" from binutils' addr2line, callers that were inlined behind it. */
static std::string ask_addr2line(uint32_t pc)
{
    char command[128], line[512];
    std::string all;

    snprintf(command, sizeof command, "addr2line -s -i -e /proc/%d/exe 0x%x 2>/dev/null",
             (int)getpid(), pc - 1);
    FILE *pipe = popen(command, "r");
    if (!pipe) return all;
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, "\n(")] = 0;
        std::string place = line;
        while (!place.empty() && place.back() == ' ') place.pop_back();
        if (place.find("emu.h:") != std::string::npos) continue;
        if (place.find("device.h:") != std::string::npos) continue;
        if (place.find("??") != std::string::npos) continue;
        all += (all.empty() ? "" : " <- ") + place;
    }
    pclose(pipe);
    return all;
}

std::string source_of(uint32_t pc)
{
    static std::map<uint32_t, std::string> known;
    auto found = known.find(pc);

    if (found != known.end()) return found->second;
    std::string place = ask_addr2line(pc);
    if (place.empty()) {
        char text[32];
        snprintf(text, sizeof text, "pc 0x%x", pc);
        place = text;
    }
    return known[pc] = place;
}

std::string thread_of(uint64_t who)
{
    const unsigned number = (unsigned)((who >> WARP_SHIFT & 31) * LANES + (who >> LANE_SHIFT & 31));
    const unsigned x = m.now.block.x, y = m.now.block.y;
    const unsigned block = (unsigned)(who >> BLOCK_SHIFT & 0xFFFFF);
    char text[96];
    int n = snprintf(text, sizeof text, "thread (%u,%u,%u)", number % x, number / x % y,
                     number / x / y);

    if (who >> LAUNCH_SHIFT != (m.launch_number & 0xFFFFF))
        snprintf(text + n, sizeof text - (size_t)n, " of an earlier launch");
    else if (block != m.block_number)
        snprintf(text + n, sizeof text - (size_t)n, " of block number %u", block);
    return text;
}

std::string memory_at(uintptr_t a)
{
    char text[200];

    if (shared_is_dynamic(a) || shared_is_static(a)) return shared_name(a);
    const buffer *b = heap_holds(a) ? heap_nearest(a) : nullptr;
    if (b)
        snprintf(text, sizeof text, "device buffer '%s'%s byte %lld of %zu", b->name.c_str(),
                 b->given_back ? " (given back)" : "", (long long)(a - b->base), b->bytes);
    else
        snprintf(text, sizeof text, "address %p", (void *)a);
    return text;
}

} // namespace emu

int64_t emu_reports(void)
{
    return emu::n_reports;
}

int64_t emu_reports_of(enum emu_report kind)
{
    return emu::counts[kind];
}

const char *emu_report_name(enum emu_report kind)
{
    return emu::names[kind];
}

const char *emu_first_report(void)
{
    return emu::first_said.c_str();
}

void emu_forget_reports(void)
{
    emu::first_said.clear();
    emu::n_reports = 0;
    memset(emu::counts, 0, sizeof emu::counts);
    emu::said.clear();
}
