/* Which of a source's mutants are in force (mutate.c, switch): those whose numbers EMU_MUTANTS lists, at first none. */
#ifndef TESTS_EMU_MUTANT_H
#define TESTS_EMU_MUTANT_H

/* By name alone, and free of instrumentation: the compiler need not look again. */
static inline __attribute__((always_inline)) bool mutant_is(int number)
{
    bool in_force;

    __asm__("movb mutants_in_force+%c1, %0" : "=q"(in_force) : "i"(number));
    return in_force;
}

#endif
