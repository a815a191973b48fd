/* How a launch is recognised, how CPUs are shared, and that the program starts itself again once with the environment its
 * libraries need. "test_topology environment" is the program started so: it prints what it sees. */
#define _GNU_SOURCE /* sched_setaffinity */

#include "cluster/topology.h"

#include <setjmp.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const char *const variables[] = { "OMPI_COMM_WORLD_SIZE",
                                         "OMPI_COMM_WORLD_LOCAL_SIZE",
                                         "OMPI_MCA_orte_bound_at_launch",
                                         "PMIX_RANK",
                                         "PMI_RANK",
                                         "PMI_SIZE",
                                         "MPI_LOCALNRANKS",
                                         "SLURM_PROCID",
                                         "SLURM_STEP_NUM_TASKS",
                                         "SLURM_CPU_BIND_TYPE",
                                         "SLURM_STEP_TASKS_PER_NODE",
                                         "SLURM_CPUS_PER_TASK",
                                         "OMP_NUM_THREADS",
                                         "OMP_WAIT_POLICY",
                                         "GOMP_SPINCOUNT",
                                         "OPENBLAS_NUM_THREADS",
                                         "OPENBLAS_CORETYPE",
                                         "SAMFORGE_ENVIRONMENT" };

static int clear(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
    return 0;
}

static void by_hand(void **state)
{
    (void)state;
    assert_null(topology_job().launcher);
    assert_int_equal(topology_job().n_local, 1);
    assert_false(topology_job().stranded);
    assert_int_equal(topology_threads(1), topology_cpus());
    assert_int_equal(topology_threads(1 << 20), 1);
    assert_true(topology_cpus() >= 1 && topology_cpus() <= sysconf(_SC_NPROCESSORS_CONF));
}

static void under_mpirun(void **state)
{
    (void)state;
    setenv("OMPI_COMM_WORLD_SIZE", "8", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4", 1);
    setenv("PMIX_RANK", "3", 1);
    assert_string_equal(topology_job().launcher, "mpirun");
    assert_int_equal(topology_job().n_ranks, 8);
    assert_int_equal(topology_job().n_local, 4);
    assert_false(topology_job().bound);
    setenv("OMPI_MCA_orte_bound_at_launch", "1", 1);
    assert_true(topology_job().bound);
    assert_int_equal(topology_threads(4), topology_cpus()); /* all of its own */
}

static void under_srun(void **state)
{
    (void)state;
    setenv("SLURM_PROCID", "0", 1);
    assert_null(topology_job().launcher); /* the batch shell itself */
    assert_false(topology_job().stranded);
    setenv("SLURM_STEP_NUM_TASKS", "6", 1);
    assert_true(topology_job().stranded); /* srun --mpi=none */
    setenv("PMIX_RANK", "0", 1);
    setenv("SLURM_STEP_TASKS_PER_NODE", "3(x2)", 1);
    assert_string_equal(topology_job().launcher, "srun");
    assert_int_equal(topology_job().n_ranks, 6);
    assert_int_equal(topology_job().n_local, 3);
    setenv("SLURM_CPUS_PER_TASK", "1", 1);
    assert_int_equal(topology_threads(3), 1);
    setenv("SLURM_CPU_BIND_TYPE", "mask_cpu:", 1);
    assert_true(topology_job().bound);
    assert_false(topology_job().stranded);
}

static void rubbish_is_no_number(void **state)
{
    (void)state;
    setenv("OMPI_COMM_WORLD_SIZE", "-3", 1);
    assert_null(topology_job().launcher);
    setenv("OMPI_COMM_WORLD_SIZE", "99999999999999999999", 1);
    assert_null(topology_job().launcher);
    setenv("OMPI_COMM_WORLD_SIZE", "", 1);
    assert_null(topology_job().launcher);
}

static void the_mask_counts(void **state)
{
    cpu_set_t all, one;
    size_t first = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(topology_cpus(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* ---- the second start -------------------------------------------------------------------------- */

static int print_environment(void)
{
    static const char *const shown[] = { "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
                                         "OPENBLAS_NUM_THREADS", "SAMFORGE_ENVIRONMENT" };

    for (int i = 0; i < 5; i++) {
        const char *v = getenv(shown[i]);

        printf("%s=%s;", shown[i], v ? v : "-");
    }
    printf("pid=%d;\n", (int)getpid());
    return 0;
}

static char seen[4096];

static void start_self(void)
{
    char self[4000], command[4096];
    FILE *f;
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(n > 0);
    self[n] = 0;
    snprintf(command, sizeof command, "%s environment", self);
    f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(seen, sizeof seen, f));
    assert_int_equal(pclose(f), 0);
}

static void it_starts_again_with_what_libraries_need(void **state)
{
    char expected[64];

    (void)state;
    start_self();
    snprintf(expected, sizeof expected, "OMP_NUM_THREADS=%d;OMP_WAIT_POLICY=-;GOMP_SPINCOUNT=%s;",
             topology_cpus(), topology_cpus() > 1 ? "3000" : "-");
    assert_non_null(strstr(seen, expected));
    assert_non_null(strstr(seen, "OPENBLAS_NUM_THREADS=1;SAMFORGE_ENVIRONMENT="));
    /* in the same process */
    const char *guard = strstr(seen, "SAMFORGE_ENVIRONMENT=") + strlen("SAMFORGE_ENVIRONMENT=");
    assert_int_equal(atoi(guard), atoi(strstr(seen, "pid=") + 4));
}

static void what_the_user_set_stays(void **state)
{
    (void)state;
    setenv("OMP_NUM_THREADS", "3", 1);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    start_self();
    assert_non_null(strstr(seen, "OMP_NUM_THREADS=3;OMP_WAIT_POLICY=passive;GOMP_SPINCOUNT=-;"));
}

/* A parent's own settings are not the user's: here one that ran on 64 threads starts a rank among many. */
static void what_a_parent_set_for_itself_does_not(void **state)
{
    (void)state;
    setenv("OMP_NUM_THREADS", "64", 1);
    setenv("OMP_WAIT_POLICY", "active", 1);
    setenv("SAMFORGE_ENVIRONMENT", "1 OMP_NUM_THREADS OMP_WAIT_POLICY", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "1000", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1000", 1);
    start_self();
    assert_non_null(strstr(seen, "OMP_NUM_THREADS=1;OMP_WAIT_POLICY=passive;"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(by_hand, clear),
        cmocka_unit_test_setup(under_mpirun, clear),
        cmocka_unit_test_setup(under_srun, clear),
        cmocka_unit_test_setup(rubbish_is_no_number, clear),
        cmocka_unit_test_setup(the_mask_counts, clear),
        cmocka_unit_test_setup(it_starts_again_with_what_libraries_need, clear),
        cmocka_unit_test_setup(what_the_user_set_stays, clear),
        cmocka_unit_test_setup(what_a_parent_set_for_itself_does_not, clear),
    };

    if (argc > 1 && strcmp(argv[1], "environment") == 0) {
        topology_environment(argv);
        return print_environment();
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
