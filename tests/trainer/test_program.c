/* What the other tests of the trainer do not reach: a view of part of a value, and memory that is reused between them. */
#include <stdlib.h>

#include "kernels/base/arena.h"
#include "tests/check.h"
#include "trainer/program.h"

enum { N = 3, C = 16 };

/* z = (x + x)[last row] + x[first row], by views into the middle of a value and of an input. */
static void views_begin_where_they_say(const struct ops *ops)
{
    const int64_t row[2] = { 1, C };
    struct stream s = { 0 };
    struct program_run run = { .ops = ops, .stream = &s };
    struct program *p;
    float x[N * C];
    void *block, *scratch;
    const float *z;
    int in, sum, last, out;

    CHECK(program_create(&p, F32) == OK);
    in = PROGRAM_INPUT(p, F32, false, N, C);
    sum = program_add(p, in, in);
    last = program_view(p, sum, (N - 1) * C, 2, row);
    out = program_add(p, last, program_view(p, in, 0, 2, row));
    program_output(p, out);
    CHECK(program_plan(p, ops, PROGRAM_FORWARD, false) == OK);
    block = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(program_bytes(p) + 1));
    scratch = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(program_scratch(p) + 1));
    if (!block || !scratch) exit(1);
    s.scratch = scratch;
    s.scratch_bytes = program_scratch(p);
    run.block = block;
    check_fill(x, N * C, 1, 0, 1, 0);
    program_bind(p, in, x);
    CHECK(program_forward(p, &run) == OK);
    z = program_value(p, out, &run).data;
    for (int i = 0; i < C; i++) CHECK(z[i] == 2 * x[(N - 1) * C + i] + x[i]);
    program_destroy(p);
    free(block);
    free(scratch);
}

/* A chain needs room for two of its values at a time, however long it is. */
static void memory_is_used_again(void)
{
    struct program *p;
    int x;

    CHECK(program_create(&p, F32) == OK);
    x = PROGRAM_INPUT(p, F32, false, N, C);
    for (int i = 0; i < 20; i++) x = program_add(p, x, x);
    program_output(p, x);
    CHECK(program_plan(p, &ops_cpu, PROGRAM_FORWARD, false) == OK);
    CHECK(program_bytes(p) == 2 * arena_round(N * C * 4));
    program_destroy(p);
}

int main(void)
{
    views_begin_where_they_say(&ops_ref);
    views_begin_where_they_say(&ops_cpu);
    memory_is_used_again();
    return check_done("test_program");
}
