/* Shared memory of the block that runs. Static: the thread-local variables of C++ functions in this
 * executable, found by its symbol table. Dynamic: an arena whose end lies at a guard page. */
#include "tests/emu/machine.h"

#include <algorithm>
#include <map>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Not static, with a plain name: its symbol says where the thread-local block lies. */
thread_local char emu_shared_anchor;

namespace emu
{

constexpr size_t ARENA_BYTES = 256 << 10, ALIGN = 128;
static const unsigned char POISON = 0xFF;

static char *arena_end, *dynamic; /* dynamic lies so that what was asked for ends at arena_end */
static unit *dynamic_shadow, *static_shadow;
static std::vector<shared_variable> variables;   /* by address */
static std::vector<const shared_variable *> own; /* of the kernel that runs */
static std::map<uintptr_t, int> kernels;         /* numbers of functions, by address */
static uintptr_t static_low, static_high;
static int kernel; /* that runs */

static bool is_kernel_variable(const char *symbol)
{
    return strncmp(symbol, "_ZZ", 3) == 0; /* a C++ function's own; not those of C libraries */
}

static std::string plain_name(const char *symbol)
{
    int failed;
    char *text = abi::__cxa_demangle(symbol, nullptr, nullptr, &failed);
    std::string name = text ? text : symbol;

    free(text);
    const size_t last = name.rfind("::");
    return last == std::string::npos ? name : name.substr(last + 2);
}

/* The function that the variable _ZZ<function>E<variable> is in, whose own symbol is _Z<function>; 0: it has none. Functions of
 * one name in several files are taken for one. */
static int owner_of(const std::string &symbol, const std::map<std::string, int> &functions)
{
    for (size_t at = symbol.rfind('E'); at != std::string::npos && at > 3;
         at = symbol.rfind('E', at - 1)) {
        const auto found = functions.find("_Z" + symbol.substr(3, at - 3));

        if (found != functions.end()) return found->second;
    }
    return 0;
}

static void read_symbols(const char *file)
{
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *section = (const Elf64_Shdr *)(file + elf->e_shoff);
    std::map<std::string, int> functions; /* their numbers, from 1 */
    uintptr_t block = 0;

    for (int s = 0; s < elf->e_shnum; s++) {
        if (section[s].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbol = (const Elf64_Sym *)(file + section[s].sh_offset);
        const char *text = file + section[section[s].sh_link].sh_offset;

        for (size_t i = 0; i < section[s].sh_size / sizeof *symbol; i++) {
            const char *name = text + symbol[i].st_name;
            const uintptr_t at = symbol[i].st_value;

            if (ELF64_ST_TYPE(symbol[i].st_info) == STT_FUNC)
                kernels[at] = functions.emplace(name, (int)functions.size() + 1).first->second;
            if (ELF64_ST_TYPE(symbol[i].st_info) != STT_TLS || symbol[i].st_size == 0) continue;
            if (strcmp(name, "emu_shared_anchor") == 0)
                block = (uintptr_t)&emu_shared_anchor - at;
            else if (is_kernel_variable(name))
                variables.push_back({ at, at + symbol[i].st_size, 0, name });
        }
    }
    if (!block) {
        fprintf(stderr, "emu: this executable has no symbol table; do not strip it\n");
        exit(1);
    }
    for (shared_variable &v : variables) {
        v.low += block;
        v.high += block;
        v.kernel = owner_of(v.name, functions);
        v.name = plain_name(v.name.c_str());
    }
}

void shared_start(void)
{
    struct stat status;
    const int file = open("/proc/self/exe", O_RDONLY);

    if (file < 0 || fstat(file, &status) != 0) {
        perror("emu: /proc/self/exe");
        exit(1);
    }
    const size_t bytes = (size_t)status.st_size;
    void *whole = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (whole == MAP_FAILED) {
        perror("emu: /proc/self/exe");
        exit(1);
    }
    read_symbols((const char *)whole);
    munmap(whole, bytes);
    close(file);
    std::sort(variables.begin(), variables.end(),
              [](const shared_variable &a, const shared_variable &b) { return a.low < b.low; });
    if (!variables.empty()) {
        static_low = variables.front().low;
        static_high = variables.back().high;
    }
    static_shadow = (unit *)map_memory(((static_high - static_low) / 2 + 1) * sizeof(unit), true);

    char *pages = (char *)map_memory(ARENA_BYTES + 2 * PAGE, false);
    mprotect(pages + PAGE, ARENA_BYTES, PROT_READ | PROT_WRITE);
    arena_end = dynamic = pages + PAGE + ARENA_BYTES;
    dynamic_shadow = (unit *)map_memory((ARENA_BYTES / 2 + 1) * sizeof(unit), true);
}

static bool is_own(const shared_variable &v)
{
    return v.kernel == 0 || kernel == 0 || v.kernel == kernel;
}

void shared_enter_launch(const launch &l)
{
    uintptr_t at;

    memcpy(&at, l.packed, sizeof at);
    dynamic = arena_end - ((l.shared_bytes + ALIGN - 1) & ~(ALIGN - 1));
    kernel = kernels.count(at) ? kernels[at] : 0;
    own.clear();
    for (const shared_variable &v : variables)
        if (is_own(v)) own.push_back(&v);
}

void shared_enter_block(void)
{
    memset(dynamic, POISON, (size_t)(arena_end - dynamic));
    for (const shared_variable *v : own) memset((void *)v->low, POISON, v->high - v->low);
}

bool shared_is_dynamic(uintptr_t a)
{
    return a - (uintptr_t)(arena_end - ARENA_BYTES) < ARENA_BYTES + PAGE;
}

bool shared_is_static(uintptr_t a)
{
    return a >= static_low && a < static_high;
}

static bool inside_variable(uintptr_t a, size_t bytes)
{
    const auto behind =
        std::upper_bound(variables.begin(), variables.end(), a,
                         [](uintptr_t at, const shared_variable &v) { return at < v.low; });

    return behind != variables.begin() && a + bytes <= std::prev(behind)->high &&
           is_own(*std::prev(behind));
}

bool shared_inside(uintptr_t a, size_t bytes)
{
    if (shared_is_dynamic(a))
        return a >= (uintptr_t)dynamic && a - (uintptr_t)dynamic + bytes <= m.now.shared_bytes;
    return inside_variable(a, bytes);
}

unit *shared_unit(uintptr_t a)
{
    if (shared_is_dynamic(a)) return &dynamic_shadow[(a - (uintptr_t)dynamic) / 2];
    return &static_shadow[(a - static_low) / 2];
}

std::string shared_name(uintptr_t a)
{
    char text[200];
    const shared_variable *nearest = nullptr;

    if (shared_is_dynamic(a)) {
        snprintf(text, sizeof text, "dynamic shared memory byte %lld of %zu",
                 (long long)(a - (uintptr_t)dynamic), m.now.shared_bytes);
        return text;
    }
    for (const shared_variable &v : variables)
        if (a >= v.low) nearest = &v;
    if (!nearest) return "shared memory";
    snprintf(text, sizeof text, "__shared__ %s byte %zu of %zu%s", nearest->name.c_str(),
             (size_t)(a - nearest->low), (size_t)(nearest->high - nearest->low),
             is_own(*nearest) ? "" : " of another kernel");
    return text;
}

void *dynamic_shared(void)
{
    return dynamic;
}

} // namespace emu
