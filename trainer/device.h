/* Which backend a command computes on, decided once: run.device, or what --device says. */
#ifndef TRAINER_DEVICE_H
#define TRAINER_DEVICE_H

#include "cluster/comm.h"
#include "kernels/ops.h"

/* In the order of run.device's choices in config.h. */
enum device { DEVICE_AUTO, DEVICE_CPU, DEVICE_REF, DEVICE_CUDA, DEVICE_EMU, DEVICE_COUNT };

/* The choice of that name; E_USAGE when there is none. */
enum status device_named(const char *name, int *choice) MUST_CHECK;

struct device_options {
    int choice;     /* enum device */
    bool share_gpu; /* ranks may share a GPU */
};

/* Collective. auto: the GPU, when there is one, else the CPU, saying why. E_NO_DEVICE when what was
 * asked for is not there; E_CONFIG when the ranks found different devices, or two of them the same
 * GPU. Only auto and cuda touch CUDA. */
enum status device_open(const struct device_options *o, struct comm *c,
                        const struct ops **ops) MUST_CHECK;

/* For counting what a run would do, on a machine that cannot do it: the ops of that choice, not open. cuda: the module's,
 * without a GPU too; where there is no module, and for auto without a GPU, the CPU's, said in the log. */
enum status device_for_planning(int choice, const struct ops **ops) MUST_CHECK;

/* The same where another device than the one asked for is no answer: E_NO_DEVICE without cuda's module. */
enum status device_for_counting(int choice, const struct ops **ops) MUST_CHECK;

#endif
