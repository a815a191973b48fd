/* The memory verbs of a backend's table: what is put comes back, and nothing beside it moves. */
#include "kernels/base/arena.h"
#include "tests/kernels/op.h"

enum { N = 2500, BYTES = N * 4 }; /* accumulate: several blocks */

static void round_trip(const struct ops *be, struct stream *s)
{
    struct tensor host = OP_FILLED(1, 1, 0, N), back = OP_ZEROS(F32, N), zeros = OP_ZEROS(F32, N);
    void *a, *b;

    CHECK(be->alloc(&a, BYTES) == OK && be->alloc(&b, BYTES) == OK);
    CHECK((uintptr_t)a % ARENA_ALIGN == 0 && (uintptr_t)b % ARENA_ALIGN == 0);
    CHECK(be->get(back.data, a, BYTES, s) == OK && be->sync(s) == OK);
    CHECK_SAME_BITS(back.data, zeros.data, BYTES);

    CHECK(be->put(a, host.data, BYTES, s) == OK && be->copy(b, a, BYTES, s) == OK);
    CHECK(be->zero((char *)a + 40, 400, s) == OK);
    CHECK(be->get(back.data, b, BYTES, s) == OK && be->sync(s) == OK);
    CHECK_SAME_BITS(back.data, host.data, BYTES);
    CHECK(be->get(back.data, a, BYTES, s) == OK && be->sync(s) == OK);
    memset((char *)host.data + 40, 0, 400);
    CHECK_SAME_BITS(back.data, host.data, BYTES);
    be->free(a);
    be->free(b);
    be->free(NULL);
}

static void accumulates(const struct ops *be, struct stream *s)
{
    struct tensor to = OP_FILLED(2, 1, 0, N), from = OP_FILLED(3, 1, 0, N), back = op_like(to);
    float *want = to.data;
    void *a, *b;

    CHECK(be->alloc(&a, BYTES) == OK && be->alloc(&b, BYTES) == OK);
    CHECK(be->put(a, to.data, BYTES, s) == OK && be->put(b, from.data, BYTES, s) == OK);
    CHECK(be->accumulate((float *)a, (const float *)b, N - 3, s) == OK);
    CHECK(be->get(back.data, a, BYTES, s) == OK && be->sync(s) == OK);
    for (int i = 0; i < N - 3; i++) want[i] += ((const float *)from.data)[i];
    CHECK_SAME_BITS(back.data, want, BYTES);
    CHECK(be->accumulate((float *)a, (const float *)b, 0, s) == OK);
    CHECK(be->put(a, NULL, 0, s) == OK && be->zero(a, 0, s) == OK);
    be->free(a);
    be->free(b);
}

/* A copy on the side between two on the queue; on a device with steps to record, as one of those too. */
static void beside(const struct ops *be)
{
    struct tensor host = OP_FILLED(5, 1, 0, N), back = op_like(host);
    struct stream s = { 0 }, side = { 0 };
    char *a;

    if (!be->side) return;
    s.queue = be->queue();
    side.queue = be->side();
    CHECK(side.queue != s.queue && be->alloc((void **)&a, 3 * BYTES) == OK);
    for (int turn = 0; turn < 6; turn++) {
        const bool recorded = turn % 2 && be->record_begin;

#ifdef TESTS_ON_EMU
        if (turn < 4)
            setenv("EMU_SIDE", turn < 2 ? "first" : "last", 1);
        else
            unsetenv("EMU_SIDE");
#endif
        CHECK(be->zero(a, 3 * BYTES, &s) == OK);
        if (recorded) CHECK(be->record_begin(&s) == OK);
        CHECK(be->put(a, host.data, BYTES, &s) == OK && be->after(&side, &s) == OK);
        CHECK(be->copy(a + BYTES, a, BYTES, &side) == OK);
        CHECK(be->accumulate((float *)(a + BYTES), (float *)a, N, &side) == OK);
        CHECK(be->after(&s, &side) == OK && be->copy(a + 2 * BYTES, a + BYTES, BYTES, &s) == OK);
        if (recorded) CHECK(be->record_end(true, &s) == OK && be->replay(&s) == OK);
        CHECK(be->get(back.data, a + 2 * BYTES, BYTES, &s) == OK);
        for (int i = 0; i < N; i++)
            CHECK(((const float *)back.data)[i] == 2 * ((const float *)host.data)[i]);
    }
    be->free(a);
}

#ifdef TESTS_ON_EMU
/* Without `after` what is queued or recorded comes in the wrong order where the side runs first, or last. */
static void beside_without_after(const struct ops *be)
{
    struct stream s = { .queue = be->queue() }, side = { .queue = be->side() };
    const float one = 1;
    float back[2];
    float *a;

    CHECK(be->alloc((void **)&a, 8) == OK);
    for (int i = 0; i < 4; i++) {
        const bool first = i % 2, record = i / 2;

        setenv("EMU_SIDE", first ? "first" : "last", 1);
        CHECK(be->zero(a, 8, &s) == OK && be->sync(&s) == OK);
        if (record) CHECK(be->record_begin(&s) == OK && be->after(&side, &s) == OK);
        if (first) {
            CHECK(be->put(a, &one, 4, &s) == OK && be->copy(a + 1, a, 4, &side) == OK);
        } else {
            CHECK(be->put(a, &one, 4, &side) == OK && be->copy(a + 1, a, 4, &s) == OK);
        }
        if (record) CHECK(be->after(&s, &side) == OK && be->record_end(true, &s) == OK);
        if (record) CHECK(be->replay(&s) == OK);
        CHECK(be->sync(&side) == OK && be->get(back, a, 8, &s) == OK);
        CHECK(back[0] == 1 && back[1] == 0);
    }
    unsetenv("EMU_SIDE");
    be->free(a);
}

/* What joins the side before it is part of a recording is no part of it; a side that is must be joined. */
static void beside_a_recording(const struct ops *be)
{
    struct stream s = { .queue = be->queue() }, side = { .queue = be->side() };
    const float one = 1;
    float back[2];
    float *a;

    CHECK(be->alloc((void **)&a, 8) == OK && be->record_begin(&s) == OK);
    CHECK(be->put(a, &one, 4, &side) == OK && be->copy(a + 1, a, 4, &s) == OK);
    log_set_level(LOG_ERROR);
    CHECK(be->after(&side, &side) == E_DEVICE && be->after(&s, &side) == E_DEVICE);
    log_set_level(LOG_INFO);
    CHECK(be->record_end(true, &s) == OK && be->get(back, a, 8, &s) == OK);
    CHECK(back[0] == 1 && back[1] == 0 && be->replay(&s) == OK);
    CHECK(be->get(back, a, 8, &s) == OK && back[1] == 1);
    for (int joined = 0; joined < 2; joined++) {
        CHECK(be->record_begin(&s) == OK && be->after(&side, &s) == OK);
        CHECK(be->after(&s, &side) == OK && be->after(&side, &s) == OK);
        CHECK(be->zero(a, 4, &side) == OK);
        if (joined) CHECK(be->after(&s, &side) == OK);
        log_set_level(LOG_ERROR);
        CHECK(be->record_end(true, &s) == (joined ? OK : E_DEVICE));
        CHECK(be->replay(&s) == (joined ? OK : E_DEVICE));
        log_set_level(LOG_INFO);
        CHECK(be->get(back, a, 4, &s) == OK && back[0] == (joined ? 0 : 1));
    }
    be->free(a);
}

/* Copies that leave their buffer are refused, and said. */
static void outside(const struct ops *be, struct stream *s)
{
    struct tensor host = OP_ZEROS(F32, N + 1);
    float here[4] = { 0 };
    void *a;

    CHECK(be->alloc(&a, BYTES) == OK);
    log_set_level(LOG_ERROR);
    CHECK(be->put(a, host.data, BYTES + 1, s) == E_DEVICE);
    CHECK(be->get(here, (char *)a + BYTES - 8, 16, s) == E_DEVICE);
    CHECK(be->copy(a, here, sizeof here, s) == E_DEVICE);
    CHECK(be->zero(here, sizeof here, s) == E_DEVICE);
    CHECK(be->accumulate((float *)a, (const float *)a, N + 1, s) == E_DEVICE);
    CHECK(emu_reports_of(EMU_HOST_OOB) == 5);
    emu_forget_reports();
    be->free(a);
}

/* What joins the queue between begin and end happens when it is replayed, with the bytes put was given, and once; and it is then
 * the same, item by item, as without. */
static void recorded(const struct ops *be, struct stream *s)
{
    enum { ITEMS = 5 };
    struct tensor host = OP_FILLED(4, 1, 0, N), back = op_like(host), want = op_like(host);
    uint64_t bits[ITEMS] = { 0 };
    const struct emu_item *item;
    void *a, *b, *c;

    CHECK(be->alloc(&a, BYTES) == OK && be->alloc(&b, BYTES) == OK);
    for (int turn = 0; turn < 2; turn++) {
        struct tensor put = OP_FILLED(4, 1, 0, N);

        CHECK(be->zero(b, BYTES, s) == OK && be->zero(a, BYTES, s) == OK);
        emu_trace(true);
        if (turn == 1) CHECK(be->record_begin(s) == OK);
        CHECK(be->put(a, put.data, BYTES, s) == OK && be->copy(b, a, BYTES, s) == OK);
        CHECK(be->accumulate((float *)b, (const float *)a, N, s) == OK);
        memset(put.data, 0xEE, BYTES);
        CHECK(be->put(a, put.data, BYTES, s) == OK && be->zero(a, 40, s) == OK);
        if (turn == 1) {
            log_set_level(LOG_ERROR);
            CHECK(be->get(back.data, a, 4, s) == E_DEVICE && be->sync(s) == E_DEVICE &&
                  be->alloc(&c, 4) == E_DEVICE && be->record_begin(s) == E_DEVICE);
            CHECK(be->replay(s) == E_DEVICE && emu_traced(&item) == 0);
            CHECK(be->record_end(true, s) == OK && be->get(back.data, b, BYTES, s) == OK);
            CHECK(((const float *)back.data)[N - 1] == 0 && be->replay(s) == OK);
            CHECK(be->replay(s) == E_DEVICE && be->record_end(true, s) == E_DEVICE);
        }
        emu_trace(false);
        CHECK(emu_traced(&item) == ITEMS);
        for (int i = 0; i < ITEMS; i++) {
            if (turn == 1) CHECK(bits[i] == item[i].bits);
            bits[i] = item[i].bits;
        }
        CHECK(strncmp(item[0].text, "put", 3) == 0 && strncmp(item[2].text, "accumulate", 10) == 0);
        CHECK(be->get(back.data, b, BYTES, s) == OK);
        for (int i = 0; i < N; i++) ((float *)want.data)[i] = 2 * ((const float *)host.data)[i];
        CHECK_SAME_BITS(back.data, want.data, BYTES);
        CHECK(be->get(back.data, a, BYTES, s) == OK && ((const float *)back.data)[9] == 0 &&
              ((const unsigned char *)back.data)[40] == 0xEE);
    }
    CHECK(be->record_begin(s) == OK && be->zero(b, BYTES, s) == OK &&
          be->record_end(false, s) == OK && be->replay(s) == E_DEVICE);
    CHECK(be->get(back.data, b, BYTES, s) == OK);
    CHECK_SAME_BITS(back.data, want.data, BYTES);
    be->free(a);
    be->free(b);
}

/* Launches counted and not run, on 32 GiB that are not there. */
static void counted(const struct ops *be, struct stream *s)
{
    const int64_t n = (int64_t)1 << 33;
    struct launch_count list[2] = { { 0 } };
    float here[4] = { 1, 1, 1, 1 };
    void *big, *small;

    CHECK(be->alloc(&small, BYTES) == OK);
    CHECK(be->count(true) == OK && be->launches(list, 2) == 0);
    CHECK(be->alloc(&big, n * 4) == OK && be->zero(big, n * 4, s) == OK);
    for (int i = 0; i < 3; i++) CHECK(be->accumulate(big, small, N, s) == OK);
    CHECK(be->put(big, here, sizeof here, s) == OK && be->copy(small, big, BYTES, s) == OK);
    CHECK(be->get(here, small, sizeof here, s) == OK && here[0] == 0 && here[3] == 0);
    CHECK(be->launches(list, 2) == 1 && list[0].kernel && list[0].n == 3);
    CHECK(be->launches(list, 0) == 1);
    be->free(big);
    CHECK(be->count(false) == OK && be->accumulate(small, small, N, s) == OK);
    CHECK(be->launches(list, 2) == 1 && list[0].n == 3);
    CHECK(be->count(true) == OK && be->launches(list, 2) == 0 && be->count(false) == OK);
    be->free(small);
}
#endif

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    struct stream s = { 0 };

    round_trip(be, &s);
    accumulates(be, &s);
    beside(be);
#ifdef TESTS_ON_EMU
    beside_without_after(be);
    beside_a_recording(be);
    outside(be, &s);
    recorded(be, &s);
    counted(be, &s);
#endif
    return check_done("test_verbs");
}
