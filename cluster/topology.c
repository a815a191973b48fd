#define _GNU_SOURCE /* CPU_ALLOC, sched_getaffinity */

#include "cluster/topology.h"

#include "kernels/base/log.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = 4096, CPUS_MAX = 16384 };

/* The number an environment variable starts with ("4", "4(x2)"), or 0. */
static int env_number(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long v;

    if (!text) return 0;
    v = strtol(text, &end, 10);
    return end != text && v > 0 && v < 1 << 24 ? (int)v : 0;
}

struct topology_job topology_job(void)
{
    const char *bind = getenv("SLURM_CPU_BIND_TYPE");
    struct topology_job j = { .n_local = 1 };

    if (env_number("OMPI_COMM_WORLD_SIZE")) {
        j.launcher = "mpirun";
        j.n_ranks = env_number("OMPI_COMM_WORLD_SIZE");
        j.n_local = env_number("OMPI_COMM_WORLD_LOCAL_SIZE");
        j.bound = env_number("OMPI_MCA_orte_bound_at_launch") == 1;
    } else if (getenv("PMIX_RANK")) {
        j.launcher = "srun";
        j.n_ranks = env_number("SLURM_STEP_NUM_TASKS");
        j.n_local = env_number("SLURM_STEP_TASKS_PER_NODE");
        j.bound = bind && (!strncmp(bind, "mask_cpu", 8) || !strncmp(bind, "map_cpu", 7));
    } else if (getenv("PMI_RANK")) {
        j.launcher = "pmi";
        j.n_ranks = env_number("PMI_SIZE");
        j.n_local = env_number("MPI_LOCALNRANKS");
    } else {
        j.stranded = getenv("SLURM_PROCID") && env_number("SLURM_STEP_NUM_TASKS") > 1;
    }
    if (j.n_local < 1) j.n_local = 1;
    return j;
}

/* ---- CPUs ------------------------------------------------------------------------------------ */

static int affinity_cpus(void)
{
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    const size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    int n = 0;

    if (set && sched_getaffinity(0, bytes, set) == 0) n = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (n < 1) n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n;
}

/* Reads up to two numbers of a file; "max" and a missing file give 0 of them. */
static int read_numbers(const char *path, long long v[2])
{
    FILE *f = fopen(path, "re");
    int n = 0;

    if (!f) return 0;
    n = fscanf(f, "%lld %lld", &v[0], &v[1]);
    fclose(f);
    return n < 0 ? 0 : n;
}

static double v2_quota(const char *folder)
{
    char path[PATH_ROOM + 16];
    long long v[2];

    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_numbers(path, v) == 2 && v[0] > 0 && v[1] > 0) return (double)v[0] / (double)v[1];
    return 0;
}

static double v1_quota(const char *folder)
{
    char path[PATH_ROOM + 32];
    long long quota[2], period[2];

    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (read_numbers(path, quota) < 1 || quota[0] <= 0) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (read_numbers(path, period) < 1 || period[0] <= 0) return 0;
    return (double)quota[0] / (double)period[0];
}

/* The least quota from mount/group up to the mount; 0: none. */
static double least_quota(const char *mount, const char *group, double (*quota)(const char *))
{
    char folder[PATH_ROOM];
    const size_t root = strlen(mount);
    double least = 0;

    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return 0;
    for (;;) {
        const double q = quota(folder);
        char *slash;

        if (q > 0 && (least == 0 || q < least)) least = q;
        slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root) return least;
        *slash = 0;
    }
}

/* CPUs the cgroup grants, either version of the interface; 0: no limit. */
static double cgroup_cpus(void)
{
    static const char *const v1_mounts[] = { "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct" };
    char line[PATH_ROOM];
    double least = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");

    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        char *controllers = strchr(line, ':'),
             *group = controllers ? strchr(++controllers, ':') : 0;
        double q = 0;

        if (!group) continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        if (!*controllers) {
            q = least_quota("/sys/fs/cgroup", group, v2_quota);
        } else if (!strcmp(controllers, "cpu") || !strncmp(controllers, "cpu,", 4)) {
            for (int i = 0; i < 2 && q == 0; i++) q = least_quota(v1_mounts[i], group, v1_quota);
        }
        if (q > 0 && (least == 0 || q < least)) least = q;
    }
    fclose(f);
    return least;
}

int topology_cpus(void)
{
    const int mask = affinity_cpus();
    const double quota = cgroup_cpus();
    const int granted = quota > 0 && quota < mask ? (int)quota : mask;

    return granted < 1 ? 1 : granted;
}

int topology_threads(int n_local)
{
    const struct topology_job j = topology_job();
    const int cpus = topology_cpus(), asked = env_number("SLURM_CPUS_PER_TASK");
    int share = cpus / (n_local < 1 ? 1 : n_local);

    if (j.bound) share = cpus;
    if (!j.bound && j.launcher && !strcmp(j.launcher, "srun") && asked)
        share = asked < cpus ? asked : cpus;
    return share < 1 ? 1 : share;
}

void topology_report(int n_local)
{
    const struct topology_job j = topology_job();
    const long node = sysconf(_SC_NPROCESSORS_ONLN);
    const int cpus = topology_cpus();

    if (j.bound && log_is_root() && 2L * cpus * n_local <= node)
        log_warn(
            "%s bound each of %d ranks to %d of the node's %ld cpus; --bind-to none (mpirun) or "
            "--cpus-per-task (srun) would use them all",
            j.launcher, n_local, cpus, node);
}

/* ---- environment ----------------------------------------------------------------------------- */

/* Which variables this program has set, and in which process: "PID NAME NAME". exec keeps the PID; a child has another, and
 * what its parent set for itself is no wish of the user's. */
static const char guard[] = "SAMFORGE_ENVIRONMENT";

/* Pauses that an OpenMP thread makes before it sleeps, about 0.1 ms: longer than it is between two loops of a step. Where others compute
 * too, a thread that spins keeps the very one it waits for from its CPU (docs/cluster.md has what this costs). */
static const char spin_count[] = "3000";

static void forget_inherited(const char *names)
{
    char copy[256];

    snprintf(copy, sizeof copy, "%s", names);
    for (char *save, *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save))
        unsetenv(name);
    unsetenv(guard);
}

static const char *openblas_core(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return NULL;
}

/* Sets name unless it is set; then adds it to the list of those set. */
static void set_default(char *names, size_t room, const char *name, const char *value)
{
    const size_t used = strlen(names);

    if (!value || getenv(name)) return;
    if (setenv(name, value, 1) == 0) snprintf(names + used, room - used, " %s", name);
}

static void start_again(char **argv)
{
    char self[PATH_ROOM];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n > 0) { /* by its path, so that ps shows its name */
        self[n] = 0;
        execv(self, argv);
    }
    execv("/proc/self/exe", argv);
    log_warn("cannot start again with OpenBLAS and OpenMP set up (%s): matrix products may be slow",
             strerror(errno));
}

void topology_environment(char **argv)
{
    const struct topology_job j = topology_job();
    const char *before = getenv(guard);
    char names[256], number[16];
    char *rest;
    int threads;

    if (argv[0] && argv[1] && !strcmp(argv[1], "launch")) return; /* it only waits */
    if (j.launcher) {
        sigset_t usr1;

        sigemptyset(&usr1);
        sigaddset(&usr1, SIGUSR1);
        sigprocmask(SIG_BLOCK, &usr1, NULL);
    }
    if (before) {
        if (strtol(before, &rest, 10) == getpid()) return;
        forget_inherited(rest);
    }
    threads = topology_threads(j.n_local);
    snprintf(names, sizeof names, "%d", (int)getpid());
    snprintf(number, sizeof number, "%d", threads);
    const size_t none = strlen(names);
    set_default(names, sizeof names, "OPENBLAS_CORETYPE", openblas_core());
    set_default(names, sizeof names, "OPENBLAS_NUM_THREADS", "1");
    set_default(names, sizeof names, "OMP_NUM_THREADS", number);
    if (!j.bound && j.n_local * threads > topology_cpus())
        set_default(names, sizeof names, "OMP_WAIT_POLICY", "passive");
    else if (threads > 1 && !getenv("OMP_WAIT_POLICY"))
        set_default(names, sizeof names, "GOMP_SPINCOUNT", spin_count);
    if (strlen(names) == none) return; /* the user has set them all */
    if (setenv(guard, names, 1) == 0) start_again(argv);
}
