/* Where this process runs: how it was launched, which CPUs it may use, and what the libraries must be told before they
 * start. Everything is read from the environment and /proc, before MPI; Local. */
#ifndef CLUSTER_TOPOLOGY_H
#define CLUSTER_TOPOLOGY_H

#include <stdbool.h>

struct topology_job {
    const char *launcher; /* "mpirun", "srun", "pmi"; NULL: started by hand, one rank */
    int n_ranks;          /* as the launcher says; 0: it does not */
    int n_local;          /* ranks on this node, at least 1 */
    bool bound;           /* the launcher gave every rank CPUs of its own */
    bool
        stranded; /* one of several srun tasks that cannot find each other: srun ran without PMIx */
};

struct topology_job topology_job(void);

/* CPUs this process may use: its affinity mask, cut by the cgroup's quota. At least 1. */
int topology_cpus(void);

/* Threads a rank should run, when n_local ranks share the node: all its CPUs when the launcher bound it, else its share. */
int topology_threads(int n_local);

/* Warns, on rank 0, when the launcher's binding leaves most of the node idle. */
void topology_report(int n_local);

/* First thing in main(). Sets what the user has not: OpenBLAS's kernels (its own detection takes newer CPUs for ancient ones) and
 * one thread in it, the OpenMP threads of a rank and how they wait. Libraries read these when they are loaded, so it starts
 * the program again, once. In a rank it also blocks USR1 until signals_catch, since mpirun may forward one early. */
void topology_environment(char **argv);

#endif
