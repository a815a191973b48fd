/* sass_ops [+OPCODE]… CUBIN: which machine instructions the kernels of a cubin are made of, where no
 * cuobjdump is at hand. Fails when a kernel reads or writes local memory (spilled registers, arrays
 * with indices that are no constants), or when an OPCODE asked for is in no kernel.
 *
 * From sm_70 on an instruction has 16 bytes, and the low 12 bits of the first word are its opcode.
 * The list is what was told apart by compiling kernels that differ in one instruction. */
#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INSTRUCTION_BYTES = 16, MAX_CUBIN_BYTES = 64 << 20 };

static const struct {
    unsigned code;
    const char *name;
} opcodes[] = {
    { 0x23C, "HMMA" },      { 0x83B, "LDSM" },   { 0xFAE, "LDGSTS" }, { 0xDAE, "LDGSTS" },
    { 0x9AF, "LDGDEPBAR" }, { 0x91A, "DEPBAR" }, { 0xB1D, "BAR" },    { 0xF89, "SHFL" },
    { 0x589, "SHFL" },      { 0x989, "SHFL" },   { 0x389, "SHFL" },   { 0x308, "MUFU" },
    { 0x981, "LDG" },       { 0x381, "LDG" },    { 0x986, "STG" },    { 0x386, "STG" },
    { 0x984, "LDS" },       { 0x388, "STS" },    { 0x988, "STS" },    { 0x983, "LDL" },
    { 0x387, "STL" },       { 0x987, "STL" },    { 0x9A8, "ATOMG" },  { 0x98E, "RED" },
};
enum { N_OPCODES = sizeof opcodes / sizeof *opcodes };

static int64_t total[N_OPCODES], n_kernels;

static void fail(const char *file, const char *why)
{
    fprintf(stderr, "sass_ops: %s: %s\n", file, why);
    exit(1);
}

static unsigned char *read_file(const char *name, size_t *bytes)
{
    FILE *f = fopen(name, "rb");
    unsigned char *p = malloc(MAX_CUBIN_BYTES);

    if (!f || !p) fail(name, "cannot be read");
    *bytes = fread(p, 1, MAX_CUBIN_BYTES, f);
    if (*bytes == MAX_CUBIN_BYTES) fail(name, "too large");
    fclose(f);
    return p;
}

/* Counts of one name, whatever its encodings. */
static int64_t count_of(const int64_t *count, const char *name)
{
    int64_t n = 0;

    for (int i = 0; i < N_OPCODES; i++)
        if (strcmp(opcodes[i].name, name) == 0) n += count[i];
    return n;
}

/* True when the kernel keeps out of local memory. */
static bool kernel(const char *name, const unsigned char *code, size_t bytes)
{
    int64_t count[N_OPCODES] = { 0 };

    for (size_t at = 0; at + INSTRUCTION_BYTES <= bytes; at += INSTRUCTION_BYTES) {
        const unsigned opcode = (unsigned)(code[at] | code[at + 1] << 8) & 0xFFF;

        for (int i = 0; i < N_OPCODES; i++) count[i] += opcodes[i].code == opcode;
    }
    n_kernels++;
    printf("%s: %zu instructions", name, bytes / INSTRUCTION_BYTES);
    for (int i = 0; i < N_OPCODES; i++) {
        bool said = false;

        for (int k = 0; k < i; k++) said |= strcmp(opcodes[k].name, opcodes[i].name) == 0;
        const int64_t n = count_of(count, opcodes[i].name);
        if (!said && n > 0) printf(", %s %lld", opcodes[i].name, (long long)n);
        total[i] += count[i];
    }
    printf("\n");
    if (count_of(count, "LDL") + count_of(count, "STL") == 0) return true;
    fprintf(stderr,
            "sass_ops: %s uses local memory: registers spill, or an array is indexed by "
            "what is not constant\n",
            name);
    return false;
}

static bool kernels_of(const char *file)
{
    static const char prefix[] = ".text.";
    size_t bytes;
    unsigned char *p = read_file(file, &bytes);
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)p;
    bool ok = true;

    if (bytes < sizeof *elf || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 || elf->e_shoff > bytes ||
        elf->e_shoff % 8 != 0 || (bytes - elf->e_shoff) / sizeof(Elf64_Shdr) < elf->e_shnum ||
        elf->e_shstrndx >= elf->e_shnum)
        fail(file, "no cubin");
    const Elf64_Shdr *section = (const Elf64_Shdr *)(p + elf->e_shoff);
    const Elf64_Shdr names = section[elf->e_shstrndx];

    if (names.sh_offset > bytes || names.sh_size > bytes - names.sh_offset || names.sh_size == 0 ||
        p[names.sh_offset + names.sh_size - 1] != 0)
        fail(file, "no cubin");
    for (int i = 0; i < elf->e_shnum; i++) {
        const Elf64_Shdr s = section[i];
        const char *name = (const char *)p + names.sh_offset + s.sh_name;

        if (s.sh_name >= names.sh_size || strncmp(name, prefix, strlen(prefix)) != 0) continue;
        if (s.sh_offset > bytes || s.sh_size > bytes - s.sh_offset) fail(file, "truncated");
        ok &= kernel(name + strlen(prefix), p + s.sh_offset, s.sh_size);
    }
    free(p);
    return ok;
}

int main(int argc, char **argv)
{
    bool ok;

    if (argc < 2 || argv[argc - 1][0] == '+') {
        fprintf(stderr, "usage: sass_ops [+OPCODE]... CUBIN\n");
        return 2;
    }
    ok = kernels_of(argv[argc - 1]);
    if (n_kernels == 0) fail(argv[argc - 1], "has no kernels");
    for (int i = 1; i < argc - 1; i++) {
        const char *name = argv[i] + (argv[i][0] == '+');

        if (count_of(total, name) > 0) continue;
        fprintf(stderr, "sass_ops: %s has no %s\n", argv[argc - 1], name);
        ok = false;
    }
    return ok ? 0 : 1;
}
