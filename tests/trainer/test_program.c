/* What the other tests of the trainer do not reach: a view of part of a value, memory that is used again, and scratch for
 * every way that a run can go. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"
#include "tests/check.h"
#include "trainer/program.h"

enum { N = 3, C = 16 };

/* What the planned program needs to run, for the stream of run too. */
static void take_memory(const struct program *p, struct program_run *run)
{
    struct stream *s = run->stream;

    run->block = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(program_bytes(p) + 1));
    s->scratch = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(program_scratch(p) + 1));
    if (!run->block || !s->scratch) exit(1);
    s->scratch_bytes = program_scratch(p);
}

static void give_memory(const struct program_run *run)
{
    free(run->block);
    free(run->stream->scratch);
}

/* z = (x + x)[last row] + x[first row], by views into the middle of a value and of an input. */
static void views_begin_where_they_say(const struct ops *ops)
{
    const int64_t row[2] = { 1, C };
    struct stream s = { 0 };
    struct program_run run = { .ops = ops, .stream = &s };
    struct program *p;
    float x[N * C];
    const float *z;
    int in, sum, last, out;

    CHECK(program_create(&p, F32) == OK);
    in = PROGRAM_INPUT(p, F32, false, N, C);
    sum = program_add(p, in, in);
    last = program_view(p, sum, (N - 1) * C, 2, row);
    out = program_add(p, last, program_view(p, in, 0, 2, row));
    program_output(p, out);
    CHECK(program_plan(p, ops, PROGRAM_FORWARD, false) == OK);
    take_memory(p, &run);
    check_fill(x, N * C, 1, 0, 1, 0);
    program_bind(p, in, x);
    CHECK(program_forward(p, &run) == OK);
    z = program_value(p, out, &run).data;
    for (int i = 0; i < C; i++) CHECK(z[i] == 2 * x[(N - 1) * C + i] + x[i]);
    program_destroy(p);
    give_memory(&run);
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

/* A backend whose norm and sum want more than the op that is both, or whose norm takes no shape at all. */
enum { NORM_BYTES = 1 << 16, SUM_BYTES = 1 << 17 };

static enum status greedy_norm(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                               struct tensor dy, struct tensor x, struct tensor gamma,
                               struct tensor beta, struct tensor mean, struct tensor rstd,
                               enum activation act, struct stream *s)
{
    void *scratch;

    STREAM_SCRATCH(s, scratch, NORM_BYTES);
    memset(scratch, 0, NORM_BYTES);
    return layernorm_bwd_ref(dx, dgamma, dbeta, dy, x, gamma, beta, mean, rstd, act, s);
}

static enum status greedy_sum(struct tensor da, struct tensor db, struct tensor dy,
                              struct stream *s)
{
    void *scratch;

    STREAM_SCRATCH(s, scratch, SUM_BYTES);
    memset(scratch, 0, SUM_BYTES);
    return add_bwd_ref(da, db, dy, s);
}

static enum status no_norm(struct tensor y, struct tensor mean, struct tensor rstd, struct tensor x,
                           struct tensor gamma, struct tensor beta, float eps, enum activation act,
                           struct stream *s)
{
    (void)y, (void)mean, (void)rstd, (void)x, (void)gamma, (void)beta, (void)eps, (void)act;
    (void)s;
    return E_SHAPE;
}

/* norm(x + x w), the second term branch 0; parameters: w, gamma, beta */
static void create_pair(struct program **p, int *in, int *out)
{
    const int64_t square[2] = { C, C }, row[1] = { C };
    int w, gamma, beta, b, sum;

    CHECK(program_create(p, F32) == OK);
    program_fuse_norms(*p);
    *in = PROGRAM_INPUT(*p, F32, true, N, C);
    w = program_param(*p, 0, 0, 2, square, false);
    gamma = program_param(*p, 1, C * C, 1, row, false);
    beta = program_param(*p, 2, C * C + C, 1, row, false);
    program_branch(*p, 0);
    b = program_linear(*p, *in, w, PROGRAM_NONE, ACT_NONE);
    program_branch(*p, PROGRAM_NONE);
    sum = program_residual(*p, *in, b, PROGRAM_NONE, PROGRAM_NONE, 0, 0);
    program_node(*p, sum)->join = 0;
    *out = program_layernorm(*p, sum, gamma, beta, 1e-6f, ACT_NONE);
    program_output(*p, *out);
}

/* A residual and its norm run as one op while the branch is on and as two while it is off: planned for both. */
static void pairs_are_planned_one_by_one_too(void)
{
    struct ops greedy = ops_ref, narrow = ops_ref;
    const uint8_t branch_off[2][1] = { { 0 }, { 1 } };
    static float params[C * C + 2 * C], grads[C * C + 2 * C], x[N * C], dx[2][N * C];
    struct stream s = { 0 };
    struct program_run run = { .ops = &greedy, .stream = &s, .params = params, .grads = grads };
    struct program *p;
    int in, out;

    narrow.layernorm_fwd = no_norm;
    create_pair(&p, &in, &out);
    CHECK(program_plan(p, &narrow, PROGRAM_TRAIN, false) == E_SHAPE);
    program_destroy(p);

    greedy.layernorm_bwd = greedy_norm;
    create_pair(&p, &in, &out);
    CHECK(program_plan(p, &greedy, PROGRAM_TRAIN, false) == OK);
    CHECK(program_scratch(p) >= NORM_BYTES);
    program_destroy(p);

    greedy.add_bwd = greedy_sum;
    create_pair(&p, &in, &out);
    CHECK(program_plan(p, &greedy, PROGRAM_TRAIN, false) == OK);
    CHECK(program_scratch(p) >= SUM_BYTES);
    take_memory(p, &run);
    check_fill(x, N * C, 1, 0, 1, 0);
    for (int i = 0; i < C; i++) params[C * C + i] = 1;
    program_bind(p, in, x);
    for (int off = 0; off < 2; off++) {
        run.branch_off = branch_off[off];
        program_bind_grad(p, in, dx[off]);
        CHECK(program_forward(p, &run) == OK);
        check_fill(program_grad(p, out, &run).data, N * C, 2, 0, 1, 0);
        CHECK(program_backward(p, &run) == OK);
    }
    /* w = 0: the gradient is the same either way, but for its few roundings of values below C */
    for (int i = 0; i < N * C; i++) CHECK(fabsf(dx[0][i] - dx[1][i]) <= C * 2 * FLT_EPSILON);
    program_destroy(p);
    give_memory(&run);
}

int main(void)
{
    views_begin_where_they_say(&ops_ref);
    views_begin_where_they_say(&ops_cpu);
    memory_is_used_again();
    pairs_are_planned_one_by_one_too();
    return check_done("test_program");
}
