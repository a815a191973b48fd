#include <stdbool.h>
#include <stdlib.h>

enum { MAX_MUTANTS = 1 << 14 };

bool mutants_in_force[MAX_MUTANTS]; /* tests/emu/mutant.h */

__attribute__((constructor(101))) static void read_mutants(void)
{
    const char *text = getenv("EMU_MUTANTS");
    char *end;

    for (; text && *text; text = end + (*end == ',')) {
        const long number = strtol(text, &end, 10);

        if (end == text || number < 0 || number >= MAX_MUTANTS) abort();
        mutants_in_force[number] = true;
    }
}
