/* The ledger against an independent replay, over many incarnations: killed at every byte, damaged at every byte, with a full
 * disk, a second process, and budgets met to the nanosecond. */
#include "cluster/ledger.h"
#include "kernels/base/clock.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64] = "/dev/shm/test_ledger.XXXXXX", path[96]; /* memory: thousands of fsyncs */

enum { FILE_ROOM = 1 << 16 };
static char bytes[FILE_ROOM];

static int64_t slurp(void)
{
    FILE *f = fopen(path, "rb");
    size_t n = 0;

    if (f) {
        n = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
    }
    return (int64_t)n;
}

static void spew(const char *p, int64_t n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, (size_t)n, f), n);
    assert_int_equal(fclose(f), 0);
}

static enum status open_with(struct ledger **l, int n_ranks, int64_t budget_ns)
{
    const struct ledger_options o = { .path = path, .n_ranks = n_ranks, .budget_ns = budget_ns };

    return ledger_open(l, &o);
}

/* A number of a line, by its name; the checker's own reading of the format. */
static long long field(const char *line, const char *name)
{
    const char *at = strstr(line, name);

    assert_non_null(at);
    return atoll(at + strlen(name));
}

/* All gaps, and of every incarnation the last line. */
static int64_t replayed(int *n_incarnations)
{
    int64_t total = 0, here = 0;
    const int64_t n = slurp();

    *n_incarnations = 0;
    bytes[n] = 0;
    for (char *save, *line = strtok_r(bytes, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        if (strncmp(line, "start", 5) == 0) {
            total += here + field(line, " gap=");
            ++*n_incarnations;
        }
        here = field(line, " spent=");
    }
    return total + here;
}

static void nap_ms(int ms)
{
    usleep((useconds_t)ms * 1000);
}

/* An incarnation in a process of its own, which ends by kill -9 or by close. */
static void live(int n_ranks, int n_notes, int closes)
{
    const pid_t child = fork();
    int how;

    if (child == 0) {
        struct ledger *l = NULL;

        if (open_with(&l, n_ranks, 0) != OK) _exit(1);
        for (int i = 0; i < n_notes; i++) {
            nap_ms(3);
            if (ledger_note(l, i + 1, i % 2) != OK) _exit(1);
        }
        if (closes) {
            ledger_close(l);
            _exit(0);
        }
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(closes ? WIFEXITED(how) && WEXITSTATUS(how) == 0 : WIFSIGNALED(how));
}

static void sums_over_incarnations(void **state)
{
    struct ledger *l = NULL;
    int n = 0;
    int64_t spent, replay;

    (void)state;
    for (int i = 0; i < 12; i++) live(1 + i % 4, i % 5, i % 3 == 0);
    replay = replayed(&n);
    assert_int_equal(n, 12);
    assert_true(replay > 0);
    assert_int_equal(open_with(&l, 2, 0), OK);
    assert_int_equal(ledger_restarts(l), 12);
    spent = ledger_spent_ns(l);
    replay = replayed(&n); /* with the last gap billed */
    assert_int_equal(n, 13);
    assert_true(spent >= replay && spent < replay + 2 * INT64_C(10000000000));
    nap_ms(5);
    assert_true(ledger_spent_ns(l) >= spent + 2 * INT64_C(5000000)); /* two ranks */
    assert_int_equal(ledger_note(l, 7, 1), OK);
    spent = ledger_spent_ns(l);
    replay = replayed(&n);
    assert_true(replay <= spent);
    ledger_close(l);
    ledger_close(NULL);
}

/* What a kill leaves unrecorded is billed, and by no more than twice the longest interval. */
static void the_gap_is_bounded(void **state)
{
    struct ledger *l = NULL;
    int64_t longest = 0, before = 0;
    long long gap = 0;

    (void)state;
    unlink(path);
    live(3, 4, 0);
    nap_ms(300); /* far longer than the noting interval */
    assert_int_equal(open_with(&l, 1, 0), OK);
    ledger_close(l);
    bytes[slurp()] = 0;
    for (char *save, *line = strtok_r(bytes, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        const int64_t here = field(line, " spent=");

        if (strncmp(line, "start", 5) == 0 && field(line, " incarnation=") == 2) {
            gap = field(line, " gap=");
            break;
        }
        if (here - before > longest) longest = here - before;
        before = here;
    }
    assert_true(longest > 0);
    assert_int_equal(gap, 2 * longest);
}

/* A clean end leaves no gap, however long the pause. */
static void a_clean_end_bills_nothing(void **state)
{
    struct ledger *l = NULL;

    (void)state;
    unlink(path);
    live(2, 2, 1);
    nap_ms(50);
    assert_int_equal(open_with(&l, 2, 0), OK);
    ledger_close(l);
    bytes[slurp()] = 0;
    assert_int_equal(field(strstr(bytes, "incarnation=2"), " gap="), 0);
}

/* A file cut at any byte opens: whole lines count, the torn one is dropped. */
static void cut_at_every_byte(void **state)
{
    static char whole[FILE_ROOM];
    int64_t n;

    (void)state;
    unlink(path);
    live(2, 1, 0);
    live(1, 0, 1);
    n = slurp();
    memcpy(whole, bytes, (size_t)n);
    for (int64_t cut = 0; cut <= n; cut++) {
        struct ledger *l = NULL;
        int64_t lines = 0, after = 0;
        int n_incarnations;

        spew(whole, cut);
        for (int64_t i = 0; i < cut; i++) lines += whole[i] == '\n';
        assert_int_equal(open_with(&l, 1, 0), OK);
        assert_true(ledger_spent_ns(l) >= 0);
        ledger_close(l);
        replayed(&n_incarnations);
        const int64_t size = slurp();
        for (int64_t i = 0; i < size; i++) after += bytes[i] == '\n';
        assert_int_equal(after, lines + 2); /* start and stop */
        assert_int_equal(bytes[size - 1], '\n');
    }
}

/* Every flipped bit of every byte is seen. The newline of the last line is what tells a torn line from a whole one. */
static void damage_at_every_byte(void **state)
{
    static char whole[FILE_ROOM], bad[FILE_ROOM];
    int64_t n;

    (void)state;
    unlink(path);
    live(2, 2, 1);
    n = slurp();
    memcpy(whole, bytes, (size_t)n);
    for (int64_t i = 0; i < n - 1; i++) {
        struct ledger *l = NULL;

        memcpy(bad, whole, (size_t)n);
        bad[i] ^= (char)(1 << i % 8);
        spew(bad, n);
        assert_int_equal(open_with(&l, 1, 0), E_CORRUPT);
        assert_null(l);
        assert_int_equal(slurp(), n); /* left as it is */
        assert_memory_equal(bytes, bad, (size_t)n);
    }
}

static void missing_moved_and_foreign_lines_are_seen(void **state)
{
    static char whole[FILE_ROOM], bad[FILE_ROOM];
    struct ledger *l = NULL;
    int64_t n, first, second;

    (void)state;
    unlink(path);
    live(2, 2, 1);
    n = slurp();
    memcpy(whole, bytes, (size_t)n);
    first = (int64_t)strcspn(whole, "\n") + 1;
    second = first + (int64_t)strcspn(whole + first, "\n") + 1;

    spew(whole + first, n - first); /* the first line is gone */
    assert_int_equal(open_with(&l, 1, 0), E_CORRUPT);
    memcpy(bad, whole, (size_t)first); /* the second is gone */
    memcpy(bad + first, whole + second, (size_t)(n - second));
    spew(bad, n - (second - first));
    assert_int_equal(open_with(&l, 1, 0), E_CORRUPT);
    memset(bad, 'x', 5000); /* no line at all, and longer than any */
    spew(bad, 5000);
    assert_int_equal(open_with(&l, 1, 0), E_CORRUPT);
    memset(bad, 0, 300);
    spew(bad, 300);
    assert_int_equal(open_with(&l, 1, 0), E_CORRUPT);
}

static void one_process_at_a_time(void **state)
{
    struct ledger *l = NULL, *second = NULL;

    (void)state;
    unlink(path);
    assert_int_equal(open_with(&l, 1, 0), OK);
    assert_int_equal(open_with(&second, 1, 0), E_FAILED);
    assert_int_equal(ledger_note(l, 1, 1), OK);
    ledger_close(l);
    assert_int_equal(open_with(&second, 1, 0), OK);
    ledger_close(second);
}

/* A write that does not fit is an error and leaves no torn line. */
static void a_full_disk_is_told(void **state)
{
    const pid_t child = fork();
    int how;

    (void)state;
    if (child == 0) {
        struct ledger *l = NULL;
        struct rlimit limit = { 300, 300 };
        int64_t n;

        unlink(path);
        signal(SIGXFSZ, SIG_IGN);
        if (open_with(&l, 1, 0) != OK || setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
        for (int i = 0; i < 5; i++)
            if (ledger_note(l, i, 0) == E_IO) {
                n = slurp();
                _exit(bytes[n - 1] == '\n' ? 0 : 2);
            }
        _exit(3);
    }
    waitpid(child, &how, 0);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void the_budget_is_met(void **state)
{
    const int64_t hour = INT64_C(3600000000000);
    struct ledger *l = NULL;

    (void)state;
    unlink(path);
    assert_int_equal(open_with(&l, 4, 0), OK);
    assert_true(ledger_fits(l, INT64_MAX, INT64_MAX)); /* no budget */
    ledger_close(l);
    assert_int_equal(open_with(&l, 4, 8 * hour), OK); /* two hours of four ranks */
    assert_true(ledger_fits(l, hour, hour / 2));
    assert_true(ledger_fits(l, 0, 2 * hour - INT64_C(60000000000)));
    assert_false(ledger_fits(l, hour, hour)); /* some time has passed */
    assert_false(ledger_fits(l, INT64_MAX, 1));
    assert_false(ledger_fits(l, INT64_MAX / 4, INT64_MAX / 4));
    ledger_close(l);
}

/* What a start costs is learned from the last incarnation that made a step; refused starts, which make none, do not hide it. */
static void a_start_must_fit(void **state)
{
    struct ledger *l = NULL;
    int64_t spent;

    (void)state;
    unlink(path);
    assert_int_equal(open_with(&l, 4, 1000000000), OK); /* a quarter of a second */
    assert_true(ledger_fits_start(l));                  /* nothing is known */
    usleep(60000);
    assert_int_equal(ledger_note(l, 1, 0), OK);
    assert_int_equal(ledger_note(l, 2, 0), OK);
    usleep(30000);
    ledger_close(l);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(open_with(&l, 4, 0), OK);
        assert_true(ledger_fits_start(l)); /* no budget */
        spent = ledger_spent_ns(l);
        ledger_close(l);
        assert_int_equal(open_with(&l, 4, spent + INT64_C(239000000)), OK);
        assert_false(ledger_fits_start(l)); /* the set-up took 60 ms of four ranks */
        assert_true(ledger_fits(l, 0, 0));
        ledger_close(l);
    }
    assert_int_equal(open_with(&l, 4, 3600 * INT64_C(1000000000)), OK);
    assert_true(ledger_fits_start(l));
    ledger_close(l);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) {
        strcpy(folder, "/tmp/test_ledger.XXXXXX");
        if (!mkdtemp(folder)) return 1;
    }
    snprintf(path, sizeof path, "%s/ledger", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_over_incarnations),
        cmocka_unit_test(the_gap_is_bounded),
        cmocka_unit_test(a_clean_end_bills_nothing),
        cmocka_unit_test(cut_at_every_byte),
        cmocka_unit_test(damage_at_every_byte),
        cmocka_unit_test(missing_moved_and_foreign_lines_are_seen),
        cmocka_unit_test(one_process_at_a_time),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(the_budget_is_met),
        cmocka_unit_test(a_start_must_fit),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
