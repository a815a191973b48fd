#include "trainer/run_folder.h"

#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[] = "/tmp/samforge-run-XXXXXX";
static struct config config;
static struct comm comm;

/* ---- one rank ---------------------------------------------------------------------------------
 */

static enum status broadcast(struct comm *c, void *p, int64_t bytes, int root)
{
    (void)c;
    (void)p;
    (void)bytes;
    (void)root;
    return OK;
}

static enum status all_reduce_max(struct comm *c, int64_t *p, int64_t n)
{
    (void)c;
    (void)p;
    (void)n;
    return OK;
}

static const struct comm_ops ops = { .broadcast = broadcast, .all_reduce_max = all_reduce_max };

static enum status enter(struct run_folder **f, bool fresh)
{
    static char word[] = "train", quoted[] = "a b'c";
    char *const argv[] = { word, quoted };
    const struct run_folder_options o = {
        .config = &config, .argv = argv, .argc = 2, .fresh = fresh
    };

    return run_folder_create(f, &comm, &o);
}

static const char *inside(const char *name)
{
    static char path[4][PATH_MAX];
    static int next;
    char *p = path[next++ % 4];

    snprintf(p, PATH_MAX, "%s/%s", config.run_folder, name);
    return p;
}

static bool exists(const char *name)
{
    return access(inside(name), F_OK) == 0;
}

static int begin(void **state)
{
    static int n;

    (void)state;
    config_defaults(&config);
    snprintf(config.run_folder, sizeof config.run_folder, "%s/deep/run%d", scratch, n++);
    comm = (struct comm){ .ops = &ops, .n_ranks = 1 };
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void what_a_run_was_started_with(void **state)
{
    static const char *const names[] = {
        "config.resolved.yaml", "cmd.txt", "env.json", "git.txt", "run.json", "lock",
        "logs/rank-0000.log"
    };
    struct run_folder *f = NULL;
    char id[128], text[4096] = "";
    FILE *cmd;

    (void)state;
    setenv("OMP_NUM_THREADS", "2", 1);
    setenv("SLURM_JWT", "a secret", 1);
    assert_int_equal(enter(&f, false), OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) assert_true(exists(names[i]));
    strcpy(id, run_folder_id(f));
    assert_true(strlen(id) > 10);
    run_folder_destroy(f);
    assert_int_equal(enter(&f, false), OK); /* a restart is the same run */
    assert_string_equal(run_folder_id(f), id);
    run_folder_destroy(f);
    cmd = fopen(inside("cmd.txt"), "r");
    assert_true(fread(text, 1, sizeof text - 1, cmd) > 0);
    fclose(cmd);
    assert_non_null(strstr(text, "samforge train 'a b'\\''c'\n"));
    memset(text, 0, sizeof text);
    cmd = fopen(inside("env.json"), "r");
    assert_true(fread(text, 1, sizeof text - 1, cmd) > 0);
    fclose(cmd);
    assert_non_null(strstr(text, "OMP_NUM_THREADS"));
    assert_null(strstr(text, "secret"));
}

static void two_jobs_in_one_folder(void **state)
{
    struct run_folder *f = NULL, *g = NULL;
    int how = 0;
    pid_t child;

    (void)state;
    assert_int_equal(enter(&f, false), OK);
    child = fork();
    if (child == 0) _exit(enter(&g, false) == E_USAGE ? 7 : 1);
    waitpid(child, &how, 0);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 7);
    run_folder_destroy(f);
    /* a job that dies leaves no lease behind */
    child = fork();
    if (child == 0) {
        if (enter(&g, false) != OK) _exit(1);
        raise(SIGKILL);
    }
    waitpid(child, &how, 0);
    assert_true(WIFSIGNALED(how));
    assert_int_equal(enter(&f, false), OK);
    run_folder_destroy(f);
}

static void another_configuration(void **state)
{
    struct run_folder *f = NULL;
    char id[128];
    const struct dirent *entry;
    int n_old = 0;
    DIR *d;

    (void)state;
    assert_int_equal(enter(&f, false), OK);
    strcpy(id, run_folder_id(f));
    run_folder_destroy(f);
    config.train_batch = 8;
    assert_int_equal(enter(&f, false), OK); /* no checkpoint yet: nothing is lost */
    run_folder_destroy(f);
    assert_int_equal(mkdir(inside("checkpoints"), 0777), 0);
    assert_int_equal(mkdir(inside("checkpoints/step-00000001"), 0777), 0);
    assert_int_equal(enter(&f, false), OK);
    run_folder_destroy(f);
    config.train_steps = 5; /* changes no step's result */
    assert_int_equal(enter(&f, false), OK);
    run_folder_destroy(f);
    config.train_batch = 16;
    assert_int_equal(enter(&f, false), E_CONFIG);
    assert_int_equal(enter(&f, true), OK);
    assert_string_not_equal(run_folder_id(f), id);
    assert_false(exists("checkpoints/step-00000001"));
    run_folder_destroy(f);
    d = opendir(config.run_folder);
    while ((entry = readdir(d)))
        if (strncmp(entry->d_name, "old-", 4) == 0) {
            char path[300];

            snprintf(path, sizeof path, "%s/checkpoints/step-00000001", entry->d_name);
            assert_true(exists(path));
            n_old++;
        }
    closedir(d);
    assert_int_equal(n_old, 1);
}

static void status_says_how_far(void **state)
{
    const struct metrics_row row = { .step = 3, .loss_total = 0.5, .step_seconds = 2 };
    struct run_folder *f = NULL;
    json_t *j;

    (void)state;
    config.train_steps = 10;
    assert_int_equal(enter(&f, false), OK);
    assert_int_equal(run_folder_status(f, RUN_RUNNING, &row, -1), OK);
    j = json_load_file(inside("status.json"), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(j, "state")), "running");
    assert_int_equal(json_integer_value(json_object_get(j, "step")), 3);
    assert_true(json_real_value(json_object_get(j, "eta_s")) == 14);
    assert_true(json_is_null(json_object_get(j, "checkpoint_step")));
    json_decref(j);
    assert_int_equal(run_folder_status(f, RUN_FINISHED, NULL, 3), OK);
    j = json_load_file(inside("status.json"), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(j, "state")), "finished");
    assert_int_equal(json_integer_value(json_object_get(j, "step")), 3);
    assert_int_equal(json_integer_value(json_object_get(j, "checkpoint_step")), 3);
    json_decref(j);
    run_folder_destroy(f);
}

static void where_nothing_can_be_made(void **state)
{
    struct run_folder *f = NULL;

    (void)state;
    strcpy(config.run_folder, "/proc/samforge");
    assert_int_equal(enter(&f, false), E_IO);
    assert_null(f);
}

static void a_file_in_its_place_is_wrong_configuration(void **state)
{
    struct run_folder *f = NULL;

    (void)state;
    strcpy(config.run_folder, "/proc/self/exe");
    assert_int_equal(enter(&f, false), E_CONFIG);
    strcpy(config.run_folder, "/proc/self/exe/runs/a");
    assert_int_equal(enter(&f, false), E_CONFIG);
    assert_null(f);
}

static int start(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : 1;
}

static int finish(void **state)
{
    char command[256];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_a_run_was_started_with, begin),
        cmocka_unit_test_setup(two_jobs_in_one_folder, begin),
        cmocka_unit_test_setup(another_configuration, begin),
        cmocka_unit_test_setup(status_says_how_far, begin),
        cmocka_unit_test_setup(where_nothing_can_be_made, begin),
        cmocka_unit_test_setup(a_file_in_its_place_is_wrong_configuration, begin),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
