/* Checkpoints on 1 to 4 ranks (threads, over a comm of this file), damaged in every way a folder
 * can be. */
#include "trainer/checkpoint.h"

#include "kernels/base/log.h"
#include "kernels/base/rng.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/config.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 1003, ARRAYS = 3, RANKS_MAX = 4, PATH = 512 };

/* ---- ranks as threads -------------------------------------------------------------------------
 */

struct hall {
    pthread_barrier_t barrier;
    void *p[RANKS_MAX];
};

static enum status meet(struct comm *c)
{
    pthread_barrier_wait(&((struct hall *)c->state)->barrier);
    return OK;
}

static enum status broadcast(struct comm *c, void *p, int64_t bytes, int root)
{
    struct hall *h = c->state;

    h->p[c->rank] = p;
    TRY(meet(c));
    if (c->rank != root) memcpy(p, h->p[root], (size_t)bytes);
    return meet(c);
}

static enum status all_gather(struct comm *c, void *all, const void *mine, int64_t bytes)
{
    struct hall *h = c->state;

    h->p[c->rank] = (void *)(uintptr_t)mine;
    TRY(meet(c));
    for (int r = 0; r < c->n_ranks; r++) memcpy((char *)all + r * bytes, h->p[r], (size_t)bytes);
    return meet(c);
}

static enum status all_reduce_max(struct comm *c, int64_t *p, int64_t n)
{
    struct hall *h = c->state;
    int64_t worst = INT64_MIN;

    if (n != 1) return E_COMM;
    h->p[c->rank] = p;
    TRY(meet(c));
    for (int r = 0; r < c->n_ranks; r++)
        if (*(int64_t *)h->p[r] > worst) worst = *(int64_t *)h->p[r];
    TRY(meet(c));
    *p = worst;
    return meet(c);
}

static const struct comm_ops ops = { .name = "threads",
                                     .barrier = meet,
                                     .broadcast = broadcast,
                                     .all_gather = all_gather,
                                     .all_reduce_max = all_reduce_max };

/* ---- a state ----------------------------------------------------------------------------------
 */

static const struct checkpoint_tensor tensors[] = {
    { .name = "a.weight", .n_dims = 2, .dim = { 10, 50 }, .offset = 0 },
    { .name = "a.bias", .n_dims = 1, .dim = { 10 }, .offset = 512 },
    { .name = "scalar", .n_dims = 0, .offset = 1002 },
};

struct model {
    float array[ARRAYS][N];
    struct checkpoint_state s;
};

static void model_start(struct model *m, int64_t step)
{
    static const char *const names[] = { "param", "m", "v" };

    memset(m, 0, sizeof *m);
    m->s = (struct checkpoint_state){ .n_arrays = ARRAYS,
                                      .n = N,
                                      .tensor = tensors,
                                      .n_tensors = 3,
                                      .config_hash = 0x1234,
                                      .data_hash = 0x5678,
                                      .config_text = "train:\n  batch: 8\n",
                                      .run_id = "run-1" };
    m->s.counters.step = step;
    m->s.counters.updates = step - 1;
    m->s.counters.masks = 7 * step;
    for (int a = 0; a < ARRAYS; a++) {
        m->s.array[a] = m->array[a];
        m->s.array_name[a] = names[a];
        for (uint64_t i = 0; i < N; i++)
            m->array[a][i] =
                rng_near_normal(rng_stream(1, RNG_TEST, (uint64_t)step, (uint64_t)a), i);
    }
}

/* What a rank is asked to do, and what came of it. */
struct task {
    struct comm c;
    struct model m;
    const char *run;
    struct checkpoint_keep keep;
    struct checkpoint_accept accept;
    bool is_load, found;
    enum status status;
};

static void *work(void *p)
{
    struct task *t = p;

    if (t->is_load)
        t->status = checkpoint_load(&t->m.s, &t->c, t->run, t->accept, &t->found);
    else
        t->status = checkpoint_save(&t->m.s, &t->c, t->run, t->keep);
    return NULL;
}

static struct task task[RANKS_MAX];

/* Runs task[0 … n) as n ranks; the statuses must agree. */
static enum status run_ranks(const char *run, int n)
{
    pthread_t thread[RANKS_MAX];
    struct hall hall;

    pthread_barrier_init(&hall.barrier, NULL, (unsigned)n);
    for (int r = 0; r < n; r++) {
        task[r].c = (struct comm){ .ops = &ops, .rank = r, .n_ranks = n, .state = &hall };
        task[r].run = run;
        assert_int_equal(pthread_create(&thread[r], NULL, work, &task[r]), 0);
    }
    for (int r = 0; r < n; r++) pthread_join(thread[r], NULL);
    pthread_barrier_destroy(&hall.barrier);
    for (int r = 1; r < n; r++) assert_int_equal(task[r].status, task[0].status);
    return task[0].status;
}

static enum status save(const char *run, int64_t step, int n_ranks, int64_t keep, int64_t every)
{
    for (int r = 0; r < n_ranks; r++) {
        task[r].is_load = false;
        task[r].keep = (struct checkpoint_keep){ .newest = keep, .every = every };
        model_start(&task[r].m, step);
    }
    return run_ranks(run, n_ranks);
}

static enum status load(const char *run, int n_ranks)
{
    for (int r = 0; r < n_ranks; r++) {
        task[r].is_load = true;
        task[r].accept = (struct checkpoint_accept){ 0 };
        model_start(&task[r].m, 0);
        memset(task[r].m.array, 0, sizeof task[r].m.array);
    }
    return run_ranks(run, n_ranks);
}

/* The state of `step`, to the bit, on every rank. */
static void expect_step(int64_t step, int n_ranks)
{
    struct model m;

    model_start(&m, step);
    for (int r = 0; r < n_ranks; r++) {
        assert_true(task[r].found);
        assert_memory_equal(task[r].m.array, m.array, sizeof m.array);
        assert_memory_equal(&task[r].m.s.counters, &m.s.counters, sizeof m.s.counters);
    }
}

/* ---- folders ----------------------------------------------------------------------------------
 */

static char scratch[] = "/tmp/samforge-checkpoint-XXXXXX";
static char run[PATH];
static int n_runs, real_stderr;

static int begin_run(void **state)
{
    (void)state;
    snprintf(run, sizeof run, "%s/run%d", scratch, n_runs++);
    return mkdir(run, 0777);
}

/* Failures that a test provokes by the thousand are not worth a line each. */
static void hush(bool yes)
{
    const int null = open("/dev/null", O_WRONLY);

    dup2(yes ? null : real_stderr, STDERR_FILENO);
    close(null);
}

static const char *in_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *in_run(const char *fmt, ...)
{
    static char path[4][PATH];
    static int next;
    char *to = path[next++ % 4];
    int n = snprintf(to, PATH, "%s/checkpoints/", run);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(to + n, (size_t)(PATH - n), fmt, ap);
    va_end(ap);
    return to;
}

static bool exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}

static void flip(const char *path, off_t at, int bit)
{
    const int fd = open(path, O_RDWR);
    unsigned char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (unsigned char)(1 << bit);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void any_number_of_ranks_reads_any(void **state)
{
    (void)state;
    for (int from = 1; from <= RANKS_MAX; from++)
        for (int to = 1; to <= RANKS_MAX; to++) {
            begin_run(NULL);
            assert_int_equal(save(run, 10 * from + to, from, 2, 0), OK);
            assert_int_equal(load(run, to), OK);
            expect_step(10 * from + to, to);
        }
}

static void nothing_to_load_is_no_failure(void **state)
{
    (void)state;
    assert_int_equal(load(run, 2), OK);
    assert_false(task[0].found);
    assert_false(task[1].found);
}

static void retention(void **state)
{
    char text[64] = "", link[64] = "";
    FILE *f;

    (void)state;
    for (int64_t step = 1; step <= 9; step++) assert_int_equal(save(run, step, 2, 2, 4), OK);
    for (int64_t step = 1; step <= 9; step++)
        assert_int_equal(exists(in_run("step-%08" PRId64, step)), step % 4 == 0 || step >= 8);
    f = fopen(in_run("latest.txt"), "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    assert_string_equal(text, "step-00000009\n");
    assert_int_equal(readlink(in_run("latest"), link, sizeof link - 1), 13);
    assert_string_equal(link, "step-00000009");
}

static void non_finite_is_never_saved(void **state)
{
    (void)state;
    assert_int_equal(save(run, 1, 2, 1, 0), OK);
    for (int r = 0; r < 2; r++) {
        task[r].is_load = false;
        model_start(&task[r].m, 2);
        task[r].m.array[2][N - 1] = r == 0 ? NAN : (float)INFINITY; /* in rank 1's slice */
    }
    assert_int_equal(run_ranks(run, 2), E_DIVERGED);
    assert_false(exists(in_run("step-00000002")));
    assert_int_equal(load(run, 2), OK);
    expect_step(1, 2);
}

static void every_flipped_byte_is_found(void **state)
{
    static const char *const files[] = { "rank-0000.h5", "rank-0001.h5", "manifest.json" };
    const struct checkpoint_tensor one = { .name = "w", .n_dims = 1, .dim = { 5 } };
    char folder[PATH];

    (void)state;
    for (int r = 0; r < 2; r++) {
        task[r].is_load = false;
        model_start(&task[r].m, 3);
        task[r].keep = (struct checkpoint_keep){ .newest = 1 };
        task[r].m.s.n = 5; /* small, so that all its bytes can be tried */
        task[r].m.s.tensor = &one;
        task[r].m.s.n_tensors = 1;
    }
    assert_int_equal(run_ranks(run, 2), OK);
    strcpy(folder, in_run("step-00000003"));
    hush(true);
    for (int f = 0; f < 3; f++) {
        char path[PATH + 32];
        struct stat info;

        snprintf(path, sizeof path, "%s/%s", folder, files[f]);
        assert_int_equal(stat(path, &info), 0);
        for (off_t at = 0; at < info.st_size; at++) {
            struct checkpoint *k = NULL;

            flip(path, at, (int)(at % 8));
            if (checkpoint_open(&k, folder) == OK) {
                hush(false);
                fail_msg("%s: a flip at byte %lld went unseen", path, (long long)at);
            }
            flip(path, at, (int)(at % 8));
        }
    }
    hush(false);
}

static void falls_back_past_damage(void **state)
{
    (void)state;
    for (int64_t step = 1; step <= 4; step++) assert_int_equal(save(run, step, 2, 9, 0), OK);
    flip(in_run("step-00000004/rank-0001.h5"), 3000, 5);
    assert_int_equal(truncate(in_run("step-00000003/rank-0000.h5"), 100), 0);
    assert_int_equal(load(run, 3), OK);
    expect_step(2, 3);
    /* a shard of another step in place of one's own */
    assert_int_equal(
        rename(in_run("step-00000001/rank-0000.h5"), in_run("step-00000002/rank-0000.h5")), 0);
    assert_int_equal(load(run, 1), E_CORRUPT);
    /* what comes after goes on top, over the damaged ones */
    assert_int_equal(save(run, 3, 1, 9, 0), OK);
    assert_int_equal(load(run, 2), OK);
    expect_step(3, 2);
}

static void newest_is_the_last_commit(void **state)
{
    (void)state;
    assert_int_equal(save(run, 5, 1, 3, 0), OK);
    assert_int_equal(save(run, 2, 1, 3, 0), OK); /* after a roll-back */
    assert_int_equal(load(run, 1), OK);
    expect_step(2, 1);
}

static void half_present_and_renamed_folders(void **state)
{
    (void)state;
    assert_int_equal(save(run, 5, 2, 3, 0), OK);
    assert_int_equal(mkdir(in_run("step-00000009"), 0777), 0);
    assert_int_equal(mkdir(in_run("step-9"), 0777), 0);
    assert_int_equal(mkdir(in_run(".tmp-step-00000007"), 0777), 0);
    assert_int_equal(save(run, 6, 2, 3, 0), OK);
    assert_int_equal(rename(in_run("step-00000006"), in_run("step-00000008")), 0);
    assert_int_equal(load(run, 2), OK);
    expect_step(5, 2);
    assert_false(exists(in_run(".tmp-step-00000007")));
}

static void of_another_run_model_config_or_data(void **state)
{
    static const struct checkpoint_tensor other[] = {
        { .name = "a.weight", .n_dims = 2, .dim = { 50, 10 }, .offset = 0 },
        { .name = "a.bias", .n_dims = 1, .dim = { 10 }, .offset = 512 },
        { .name = "scalar", .n_dims = 0, .offset = 1002 },
    };

    (void)state;
    assert_int_equal(save(run, 5, 1, 3, 0), OK);
    task[0].is_load = true;
    task[0].m.s.run_id = "run-2";
    assert_int_equal(run_ranks(run, 1), E_CORRUPT);
    model_start(&task[0].m, 0);
    task[0].m.s.tensor = other;
    assert_int_equal(run_ranks(run, 1), E_CONFIG);
    model_start(&task[0].m, 0);
    task[0].m.s.config_hash = 1;
    task[0].m.s.config_text = "train:\n  batch: 16\n";
    assert_int_equal(run_ranks(run, 1), E_CONFIG);
    task[0].accept.config = true;
    assert_int_equal(run_ranks(run, 1), OK);
    task[0].m.s.data_hash = 1;
    assert_int_equal(run_ranks(run, 1), E_CONFIG);
    task[0].accept.data = true;
    assert_int_equal(run_ranks(run, 1), OK);
    expect_step(5, 1);
}

/* A limit on file size stands for a full disk: the call fails half-way through a file. */
static void a_save_that_fails_leaves_the_old_one(void **state)
{
    struct rlimit before, tight;

    (void)state;
    assert_int_equal(save(run, 1, 2, 1, 0), OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 7000; limit += 500) {
        tight = before;
        tight.rlim_cur = limit;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        assert_int_equal(save(run, 2, 2, 1, 0), E_IO);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_false(exists(in_run("step-00000002")));
        assert_int_equal(load(run, 2), OK);
        expect_step(1, 2);
    }
    assert_int_equal(save(run, 2, 2, 1, 0), OK);
    assert_int_equal(load(run, 2), OK);
    expect_step(2, 2);
}

/* Saves step after step and acknowledges each through the pipe. */
static void save_for_ever(int ack)
{
    for (int64_t step = 1;; step++) {
        if (save(run, step, 1, 2, 0) != OK) _exit(1);
        if (write(ack, &step, sizeof step) != sizeof step) _exit(2);
    }
}

static void killed_at_any_moment(void **state)
{
    enum { KILLS = 40 };

    (void)state;
    for (int i = 0; i < KILLS; i++) {
        int64_t acked = 0, step;
        int pipe_fd[2], how;
        pid_t child;

        begin_run(NULL);
        assert_int_equal(pipe(pipe_fd), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) save_for_ever(pipe_fd[1]);
        close(pipe_fd[1]);
        /* after a few saves, then anywhere within the next ones */
        for (int n = 0; n < i % 3; n++)
            assert_int_equal(read(pipe_fd[0], &acked, sizeof acked), sizeof acked);
        usleep((useconds_t)(1009 * i));
        kill(child, SIGKILL);
        waitpid(child, &how, 0);
        assert_true(WIFSIGNALED(how));
        while (read(pipe_fd[0], &step, sizeof step) == sizeof step) acked = step;
        close(pipe_fd[0]);
        assert_int_equal(load(run, 1), OK);
        assert_true(!acked || task[0].found);
        if (!task[0].found) continue;
        assert_true(task[0].m.s.counters.step >= acked);
        expect_step(task[0].m.s.counters.step, 1);
    }
}

static void weights_alone(void **state)
{
    const struct checkpoint_tensor mine = { .name = "a.bias", .n_dims = 1, .dim = { 10 } };
    struct checkpoint_tensor wrong = mine;
    float values[16] = { 0 };
    struct checkpoint_state s = { .n_arrays = 1, .array = { values }, .n = 16, .n_tensors = 1 };
    struct checkpoint *k = NULL;
    struct model m;
    char *text = NULL;
    size_t bytes = 0;
    FILE *f;

    (void)state;
    assert_int_equal(save(run, 5, 3, 3, 0), OK);
    model_start(&m, 5);
    assert_int_equal(checkpoint_open(&k, run), OK);
    s.tensor = &mine;
    assert_int_equal(checkpoint_read_weights(k, &s), OK);
    assert_memory_equal(values, m.array[0] + 512, 10 * sizeof(float));
    wrong.dim[0] = 11;
    s.tensor = &wrong;
    assert_int_equal(checkpoint_read_weights(k, &s), E_CONFIG);
    for (int json = 0; json < 2; json++) {
        f = open_memstream(&text, &bytes);
        assert_int_equal(checkpoint_describe(k, f, json), OK);
        fclose(f);
        assert_non_null(strstr(text, "a.weight"));
        free(text);
    }
    checkpoint_close(k);
    assert_int_equal(checkpoint_open(&k, in_run("step-00000005")), OK);
    checkpoint_close(k);
}

/* What was never a checkpoint is not a damaged one. */
static void what_is_none(void **state)
{
    struct checkpoint *k = NULL;
    char path[600];

    (void)state;
    assert_int_equal(save(run, 5, 1, 1, 0), OK);
    assert_int_equal(checkpoint_open(&k, "/nowhere"), E_MISSING);
    assert_int_equal(checkpoint_open(&k, scratch), E_USAGE); /* it holds runs */
    snprintf(path, sizeof path, "%s/checkpoints", run);
    assert_int_equal(checkpoint_open(&k, path), E_USAGE); /* it holds checkpoints */
    snprintf(path, sizeof path, "%s/manifest.json", in_run("step-00000005"));
    assert_int_equal(checkpoint_open(&k, path), E_USAGE); /* a file */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(checkpoint_open(&k, in_run("step-00000005")), E_CORRUPT);
    snprintf(path, sizeof path, "%s/new", scratch);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(checkpoint_open(&k, path), E_USAGE);
    snprintf(path, sizeof path, "%s/new/checkpoints", scratch);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/new", scratch);
    assert_int_equal(checkpoint_open(&k, path), E_MISSING); /* before its first */
}

static int start(void **state)
{
    (void)state;
    real_stderr = dup(STDERR_FILENO);
    return mkdtemp(scratch) ? 0 : 1;
}

static int finish(void **state)
{
    char command[PATH];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(any_number_of_ranks_reads_any, begin_run),
        cmocka_unit_test_setup(nothing_to_load_is_no_failure, begin_run),
        cmocka_unit_test_setup(retention, begin_run),
        cmocka_unit_test_setup(non_finite_is_never_saved, begin_run),
        cmocka_unit_test_setup(every_flipped_byte_is_found, begin_run),
        cmocka_unit_test_setup(falls_back_past_damage, begin_run),
        cmocka_unit_test_setup(newest_is_the_last_commit, begin_run),
        cmocka_unit_test_setup(half_present_and_renamed_folders, begin_run),
        cmocka_unit_test_setup(of_another_run_model_config_or_data, begin_run),
        cmocka_unit_test_setup(a_save_that_fails_leaves_the_old_one, begin_run),
        cmocka_unit_test_setup(killed_at_any_moment, begin_run),
        cmocka_unit_test_setup(weights_alone, begin_run),
        cmocka_unit_test_setup(what_is_none, begin_run),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
