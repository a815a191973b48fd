/* The CUDA backend's verbs, on a runtime that does everything as late as it may (late_cudart.h): what
 * put was given may change at once, and nothing waits but what must; which GPU is taken or refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/runtime.h"
#include "tests/check.h"
#include "tests/gpu/late_cudart.h"

enum { MIB = 1 << 20 };

static void fill(unsigned char *p, int64_t n, int seed)
{
    for (int64_t i = 0; i < n; i++) p[i] = (unsigned char)(i * 7 + i / 251 + seed * 13);
}

/* Many small puts and large ones, out of one buffer of the host's that changes at once, into places
 * of their own. */
static void host_memory_is_free_again(void)
{
    static const int64_t sizes[] = { 1, 4, 300, 4096, MIB, 8 * MIB, 8 * MIB + 1, 20 * MIB, 0, 77 };
    enum { N = (int)(sizeof sizes / sizeof *sizes), TIMES = 5 };
    struct stream first = { .queue = runtime_queue() }, other = { 0 };
    unsigned char *host = malloc(20 * MIB), *back = malloc(20 * MIB);
    void *there[TIMES][N];

    if (!host || !back) exit(1);
    for (int t = 0; t < TIMES; t++) /* before all puts: taking memory waits for the GPU */
        for (int i = 0; i < N; i++) CHECK(runtime_alloc(&there[t][i], sizes[i]) == OK);
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < N; i++) {
            fill(host, sizes[i], t * N + i);
            CHECK(runtime_put(there[t][i], host, sizes[i], i % 3 == 2 ? &other : &first) == OK);
            memset(host, 0xEE, (size_t)sizes[i]);
        }
    CHECK(runtime_sync(&other) == OK);
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < N; i++) {
            fill(host, sizes[i], t * N + i);
            CHECK(runtime_get(back, there[t][i], sizes[i], &first) == OK);
            CHECK_SAME_BITS(back, host, sizes[i]);
            runtime_free(there[t][i]);
        }
    runtime_free(NULL);
    free(host);
    free(back);
}

/* Puts that fit into the ring, copies and zeros wait for nothing; sync does. */
static void only_sync_waits(void)
{
    struct stream s = { .queue = runtime_queue() };
    char host[1024] = { 1 };
    void *a, *b;

    CHECK(runtime_alloc(&a, sizeof host) == OK && runtime_alloc(&b, sizeof host) == OK);
    CHECK(runtime_sync(&s) == OK);
    late.n_waits = 0;
    for (int i = 0; i < 100; i++) CHECK(runtime_put(a, host, sizeof host, &s) == OK);
    CHECK(runtime_copy(b, a, sizeof host, &s) == OK && runtime_zero(a, 512, &s) == OK);
    CHECK(late.n_waits == 0);
    CHECK(runtime_get(host, b, sizeof host, &s) == OK && host[0] == 1);
    CHECK(runtime_get(host, a, sizeof host, &s) == OK && host[0] == 0);
    CHECK(late.n_waits == 2);
    runtime_free(a);
    runtime_free(b);
}

/* What one stream is told to come after, the other has done; nothing waits on the host for it. In a recorded step too. */
static void a_stream_comes_after_another(void)
{
    struct stream s = { .queue = runtime_queue() }, side = { .queue = runtime_side() };
    char host[64] = { 7 };
    char *a;

    CHECK(side.queue && side.queue != s.queue);
    CHECK(runtime_alloc((void **)&a, 4 * sizeof host) == OK && runtime_sync(&s) == OK);
    late.n_waits = 0;
    for (int recorded = 0; recorded < 2; recorded++) {
        host[0]++;
        if (recorded) CHECK(runtime_record_begin(&s) == OK);
        CHECK(runtime_put(a, host, sizeof host, &s) == OK && runtime_after(&side, &s) == OK);
        CHECK(runtime_copy(a + 64, a, sizeof host, &side) == OK);
        CHECK(runtime_after(&s, &side) == OK);
        CHECK(runtime_copy(a + 128, a + 64, sizeof host, &s) == OK);
        if (recorded) CHECK(runtime_record_end(true, &s) == OK && runtime_replay(&s) == OK);
        CHECK(late.n_waits == recorded);
        memset(host + 1, 0, sizeof host - 1);
        CHECK(runtime_get(host + 1, a + 128, 1, &s) == OK && host[1] == 8 + recorded);
        late.n_waits = 1;
    }
    runtime_free(a);
}

static int64_t n_asked, n_good;

static enum status fails_after_some(void)
{
    return ++n_asked <= n_good ? OK : E_DEVICE;
}

/* Who watches is asked as long as the GPU is not done, and can end the wait. */
static void waits_are_watched(void)
{
    struct stream s = { .queue = runtime_queue() };
    char host[4];
    void *a;

    CHECK(runtime_alloc(&a, sizeof host) == OK && runtime_sync(&s) == OK);
    runtime_watch(fails_after_some);
    late.n_not_ready = 5;
    n_good = 5;
    CHECK(runtime_sync(&s) == OK && n_asked == 5);
    late.n_not_ready = 5;
    n_good = 8;
    CHECK(runtime_get(host, a, sizeof host, &s) == E_DEVICE && n_asked == 9);
    runtime_watch(NULL);
    CHECK(runtime_sync(&s) == OK && n_asked == 9);
    late.n_not_ready = 0;
    runtime_free(a);
}

/* A step whose side nobody came after is no step. */
static void a_side_that_is_left_is_refused(void)
{
    struct stream s = { .queue = runtime_queue() }, side = { .queue = runtime_side() };
    void *a;

    CHECK(runtime_alloc(&a, 8) == OK);
    log_set_level(LOG_ERROR);
    CHECK(runtime_record_begin(&s) == OK && runtime_after(&side, &s) == OK);
    CHECK(runtime_zero(a, 8, &side) == OK && runtime_record_end(true, &s) == E_DEVICE);
    late.end_error = cudaSuccess;
    late.last_error = cudaSuccess;
    log_set_level(LOG_INFO);
    runtime_free(a);
}

static void memory_is_zero_and_has_an_end(void)
{
    struct stream s = { .queue = runtime_queue() };
    unsigned char host[100];
    void *p;

    CHECK(runtime_alloc(&p, sizeof host) == OK && runtime_get(host, p, sizeof host, &s) == OK);
    for (size_t i = 0; i < sizeof host; i++) CHECK(host[i] == 0);
    runtime_free(p);
    log_set_level(LOG_ERROR);
    CHECK(runtime_alloc(&p, late.memory + 1) == E_MEMORY);
    late.sync_error = cudaErrorUnknown;
    CHECK(runtime_sync(&s) == E_DEVICE && runtime_get(host, host, 1, &s) == E_DEVICE);
    late.sync_error = cudaSuccess;
}

/* A step of n puts, copies and zeros of its own, each into its place of there. */
static enum status queue_step(unsigned char *there, int n, int seed, struct stream *s)
{
    unsigned char host[1000];

    for (int i = 0; i < n; i++) {
        fill(host, sizeof host, seed + i);
        TRY(runtime_put(there + 1000 * i, host, sizeof host, s));
        memset(host, 0xEE, sizeof host);
    }
    TRY(runtime_copy(there + 1000 * n, there, 1000, s));
    return runtime_zero(there, 10, s);
}

static enum status record(unsigned char *there, int n, int seed, struct stream *s)
{
    TRY(runtime_record_begin(s));
    TRY(queue_step(there, n, seed, s));
    return runtime_record_end(true, s);
}

static void check_step(const unsigned char *there, int n, int seed, struct stream *s)
{
    unsigned char wanted[1000], back[1000];

    for (int i = 0; i <= n; i++) {
        fill(wanted, sizeof wanted, i == n ? seed : seed + i);
        if (i == 0) memset(wanted, 0, 10);
        CHECK(runtime_get(back, there + 1000 * i, sizeof back, s) == OK);
        CHECK_SAME_BITS(back, wanted, sizeof back);
    }
}

/* A step recorded while the one before it has not run yet, and by turns one put more or less: what a
 * step does is what was put when it was recorded, in its order, and only once it is replayed. */
static void a_step_is_recorded_and_replayed(void)
{
    struct stream s = { .queue = runtime_queue() };
    struct device_usage before, after;
    void *there;

    CHECK(runtime_alloc(&there, 20000) == OK && runtime_sync(&s) == OK);
    late.n_instantiated = 0;
    CHECK(runtime_usage(&before) == OK);
    CHECK(record(there, 3, 0, &s) == OK);
    for (int i = 0; i < 8; i++) {
        const int n = i == 4 ? 5 : 3, next = i + 1 == 4 ? 5 : 3;

        late.n_waits = 0;
        CHECK(runtime_replay(&s) == OK);
        CHECK(record(there, next, 50 * (i + 1), &s) == OK);
        CHECK(late.n_waits == 0);
        check_step(there, n, 50 * i, &s);
    }
    CHECK(late.n_executables == 2 && late.n_graphs == 0 && late.last_error == cudaSuccess);
    CHECK(late.n_instantiated == 4); /* two that hold steps by turns; the longer one, and back */
    late.in_use = 12345;
    CHECK(runtime_usage(&after) == OK && after.bytes == 12345);
    CHECK(after.graphs_made == before.graphs_made + 4 &&
          after.graphs_changed == before.graphs_changed + 5);
    /* what is recorded again replaces what was not replayed */
    CHECK(record(there, 3, 7, &s) == OK);
    CHECK(runtime_replay(&s) == OK);
    check_step(there, 3, 7, &s);
    /* nobody asks for results: the third step waits for the first, whose inputs lie where its own will */
    for (int i = 0; i < 5; i++)
        CHECK(record((unsigned char *)there + 4000 * i, 3, i, &s) == OK &&
              runtime_replay(&s) == OK);
    for (int i = 0; i < 5; i++) check_step((unsigned char *)there + 4000 * i, 3, i, &s);
    runtime_free(there);
}

/* Steps with exchanges are made anew each time; when the ranks are left no executable is, nor a step to replay. */
static void exchanges_are_forgotten(void)
{
    struct stream s = { .queue = runtime_queue() };
    void *there;

    CHECK(runtime_alloc(&there, 10000) == OK);
    late.n_instantiated = 0;
    for (int i = 0; i < 4; i++) {
        CHECK(runtime_record_begin(&s) == OK);
        graph_make_anew();
        CHECK(queue_step(there, 3, i, &s) == OK && runtime_record_end(true, &s) == OK);
        if (i < 3) CHECK(runtime_replay(&s) == OK);
    }
    CHECK(late.n_instantiated == 4);
    CHECK(graph_forget() == OK && late.n_executables == 0);
    check_step(there, 3, 2, &s);
    log_set_level(LOG_ERROR);
    CHECK(runtime_replay(&s) == E_DEVICE);
    log_set_level(LOG_INFO);
    CHECK(record(there, 3, 9, &s) == OK && runtime_replay(&s) == OK);
    check_step(there, 3, 9, &s);
    CHECK(record(there, 3, 9, &s) == OK && runtime_replay(&s) == OK);
    runtime_free(there);
}

static void what_cannot_be_recorded_is_refused(void)
{
    struct stream s = { .queue = runtime_queue() };
    unsigned char host[4];
    void *there, *more;

    CHECK(runtime_alloc(&there, 10000) == OK);
    log_set_level(LOG_ERROR);
    CHECK(runtime_replay(&s) == E_DEVICE && runtime_record_end(true, &s) == E_DEVICE);
    CHECK(runtime_record_begin(&s) == OK && runtime_record_begin(&s) == E_DEVICE);
    CHECK(runtime_get(host, there, 4, &s) == E_DEVICE && runtime_sync(&s) == E_DEVICE &&
          runtime_alloc(&more, 4) == E_DEVICE);
    CHECK(queue_step(there, 3, 0, &s) == OK && runtime_record_end(false, &s) == OK);
    CHECK(runtime_replay(&s) == E_DEVICE && runtime_sync(&s) == OK);
    CHECK(runtime_get(host, there, 4, &s) == OK && host[3] == 0); /* dropped: it did not run */
    log_set_level(LOG_INFO);
    runtime_free(there);
}

/* A step that could not be made is not launched, nor one before it in its place; the next is. */
static void failures_of_graphs_are_told(void)
{
    struct stream s = { .queue = runtime_queue() };
    void *there;

    CHECK(runtime_alloc(&there, 10000) == OK);
    log_set_level(LOG_ERROR);
    for (int i = 0; i < 2; i++) CHECK(record(there, 3, 0, &s) == OK && runtime_replay(&s) == OK);
    CHECK(runtime_sync(&s) == OK);
    late.end_error = cudaErrorStreamCaptureInvalidated;
    CHECK(record(there, 3, 0, &s) == E_DEVICE && runtime_replay(&s) == E_DEVICE);
    CHECK(runtime_record_begin(&s) == OK && runtime_record_end(false, &s) == OK); /* said already */
    late.end_error = cudaSuccess;
    late.last_error = cudaSuccess;
    late.update_error = cudaErrorIllegalAddress; /* of a kernel of the step before */
    CHECK(record(there, 3, 0, &s) == E_DEVICE && runtime_replay(&s) == E_DEVICE);
    late.update_error = cudaSuccess;
    late.instantiate_error = cudaErrorMemoryAllocation;
    CHECK(record(there, 4, 0, &s) == E_MEMORY && runtime_replay(&s) == E_DEVICE);
    late.instantiate_error = cudaSuccess;
    late.last_error = cudaSuccess;
    CHECK(record(there, 4, 0, &s) == OK && runtime_replay(&s) == OK && runtime_sync(&s) == OK);
    CHECK(late.n_graphs == 0 && late.n_executables == 2);
    log_set_level(LOG_INFO);
    runtime_free(there);
}

/* Inputs larger than a piece of pinned memory, and at last larger than all of it. */
static void large_inputs_are_recorded(void)
{
    struct stream s = { .queue = runtime_queue() };
    const int64_t most = 20 * MIB;
    unsigned char *host = malloc((size_t)most), *back = malloc((size_t)most);
    void *there;

    if (!host || !back) exit(1);
    CHECK(runtime_alloc(&there, most) == OK);
    for (int i = 0; i < 6; i++) {
        const int64_t n = (i < 3 ? 9 : 17) * MIB + i;

        CHECK(runtime_record_begin(&s) == OK);
        fill(host, n, i);
        CHECK(runtime_put(there, host, 5 * MIB, &s) == OK && runtime_put(there, host, n, &s) == OK);
        memset(host, 0xEE, (size_t)n);
        CHECK(runtime_record_end(true, &s) == OK && runtime_replay(&s) == OK);
        CHECK(runtime_get(back, there, n, &s) == OK);
        fill(host, n, i);
        CHECK_SAME_BITS(back, host, n);
    }
    log_set_level(LOG_ERROR);
    CHECK(runtime_record_begin(&s) == OK);
    for (int i = 0; i < 25; i++) CHECK(runtime_put(there, host, 20 * MIB, &s) == OK);
    CHECK(runtime_put(there, host, 20 * MIB, &s) == E_MEMORY &&
          runtime_record_end(false, &s) == OK);
    log_set_level(LOG_INFO);
    runtime_free(there);
    free(host);
    free(back);
}

/* What a process of that rank on that machine chooses; the choice is made once a process. */
static void choice(struct late_machine machine, int local_rank, const char *wanted, int device)
{
    pid_t child;
    int status = 1;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        const char *reason;
        uint64_t id;

        late = machine;
        reason = runtime_choose(local_rank);
        if (wanted) _exit(!(reason && strstr(reason, wanted) && runtime_open() == E_NO_DEVICE));
        if (reason || runtime_open() != OK) _exit(1);
        _exit(late.device != device || !strstr(runtime_device(&id), "late GPU") ||
              id != (uint64_t)device + 1);
    }
    waitpid(child, &status, 0);
    if (status == 0) return;
    fprintf(stderr, "rank %d on %d GPUs: not %s\n", local_rank, machine.n_devices,
            wanted ? wanted : "the right one");
    check_fails++;
}

int main(void)
{
    const struct late_machine whole = late;
    struct late_machine m = whole;

    m.n_devices = 4;
    choice(m, 0, NULL, 0);
    choice(m, 3, NULL, 3);
    choice(m, 6, NULL, 2);
    m.major = 7;
    choice(m, 0, "8.0 or more", 0);
    m = whole;
    m.n_devices = 0;
    choice(m, 0, "no NVIDIA GPU", 0);
    m.count_error = cudaErrorInsufficientDriver;
    choice(m, 0, "no driver", 0);
    m.count_error = cudaErrorUnknown;
    choice(m, 0, "does not start", 0);
    CHECK(runtime_choose(0) == NULL && runtime_open() == OK && runtime_open() == OK);
    host_memory_is_free_again();
    only_sync_waits();
    a_stream_comes_after_another();
    a_step_is_recorded_and_replayed();
    what_cannot_be_recorded_is_refused();
    failures_of_graphs_are_told();
    waits_are_watched();
    a_side_that_is_left_is_refused();
    exchanges_are_forgotten();
    large_inputs_are_recorded();
    memory_is_zero_and_has_an_end();
    return check_done("test_runtime");
}
