/* The constructors behind comm_create: one for each transport. Only comm.c includes this. */
#ifndef CLUSTER_TRANSPORT_H
#define CLUSTER_TRANSPORT_H

#include "cluster/comm.h"

/* Each fills *c, whose timeout_ms is set; on failure c needs no destroy. */
enum status comm_self_create(struct comm *c) MUST_CHECK;

/* Collective. n_expected: how many ranks the launcher speaks of; 0: it does not say. */
enum status comm_mpi_create(struct comm *c, int n_expected) MUST_CHECK;

#endif
