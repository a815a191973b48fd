/* EMU_PROFILE=1, checked builds: an estimate, for block 0 of each launch and each source line, of
 * wavefronts in shared memory per ideal one, and of fetched 32-byte sectors the part used. */
#include "tests/emu/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

namespace emu
{

struct sample {
    bool shared;
    uint32_t pc;
    access kind;
    unsigned warp, turn, lane; /* turn: how often this thread was here before */
    unsigned bytes;
    uintptr_t a;

    auto request() const { return std::tie(shared, pc, kind, warp, turn); }
};

struct line {
    double requests, used_bytes, cost, ideal;
};

static bool on;
static std::vector<sample> samples;
static std::map<std::pair<uint32_t, unsigned>, unsigned> turns;

void profile_enter_block(void)
{
    static const bool wanted = getenv("EMU_PROFILE") != nullptr;

    on = wanted && m.checked && m.block_number == 0;
}

void profile_add(const fiber *f, uintptr_t a, unsigned bytes, access kind, uint32_t pc, bool shared)
{
    if (on)
        samples.push_back(
            { shared, pc, kind, f->warp, turns[{ pc, f->number }]++, f->lane, bytes, a });
}

/* 4-byte accesses are one phase of 32 lanes, 8-byte ones two of 16, 16-byte ones four of 8. */
static void add_shared(line *l, const sample *s, size_t n)
{
    const unsigned lanes = s->bytes >= 16 ? 8 : s->bytes == 8 ? 16 : 32;

    for (unsigned phase = 0; phase < LANES / lanes; phase++) {
        std::set<uintptr_t> words[32];
        size_t wavefronts = 0;

        for (size_t i = 0; i < n; i++)
            for (unsigned b = 0; s[i].lane / lanes == phase && b < std::max(s[i].bytes, 4u); b += 4)
                words[(s[i].a + b) / 4 % 32].insert((s[i].a + b) / 4);
        for (const auto &bank : words) wavefronts = std::max(wavefronts, bank.size());
        l->cost += (double)wavefronts;
        l->ideal += wavefronts > 0;
    }
}

static void add_global(line *l, const sample *s, size_t n)
{
    std::set<uintptr_t> sectors;

    for (size_t i = 0; i < n; i++) {
        l->used_bytes += s[i].bytes;
        for (unsigned b = 0; b < s[i].bytes; b++) sectors.insert((s[i].a + b) / 32);
    }
    l->cost += (double)sectors.size() * 32;
}

static void print(bool shared, access kind, const std::string &at, const line &l)
{
    const char *verb = kind == READ ? "read" : kind == WRITE ? "write" : "atomic";

    if (shared)
        fprintf(stderr,
                "emu: profile %s: shared %s %s: %.0f requests, %.2f wavefronts per ideal one\n",
                m.now.name, verb, at.c_str(), l.requests, l.cost / l.ideal);
    else
        fprintf(stderr,
                "emu: profile %s: global %s %s: %.0f requests, %.0f %% of fetched bytes used\n",
                m.now.name, verb, at.c_str(), l.requests, 100 * l.used_bytes / l.cost);
}

void profile_leave_block(void)
{
    std::map<std::tuple<bool, access, std::string>, line> lines;

    if (!on) return;
    on = false;
    std::sort(samples.begin(), samples.end(), [](const sample &x, const sample &y) {
        return x.request() != y.request() ? x.request() < y.request() : x.lane < y.lane;
    });
    for (size_t i = 0, n; i < samples.size(); i += n) {
        const sample *s = &samples[i];

        for (n = 1; i + n < samples.size() && s[n].request() == s->request();) n++;
        line *l = &lines[{ s->shared, s->kind, source_of(s->pc) }];
        l->requests++;
        if (s->shared)
            add_shared(l, s, n);
        else
            add_global(l, s, n);
    }
    for (const auto &l : lines)
        print(std::get<0>(l.first), std::get<1>(l.first), std::get<2>(l.first), l.second);
    samples.clear();
    turns.clear();
}

} // namespace emu
