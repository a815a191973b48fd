/* The subcommands of samforge: one list, from which main and --help follow. Each lives in
 * cmd_<name>.c. */
#ifndef TRAINER_COMMAND_H
#define TRAINER_COMMAND_H

#include "kernels/base/status.h"

#define COMMAND_LIST(X)                                                                            \
    X(synth, "write a synthetic set of images and masks in SA-1B form")                            \
    X(pack, "turn SA-1B tars, COCO JSON or PNG folders into HDF5 shards")                          \
    X(inspect, "show and verify a shard, a checkpoint or a weights file")                          \
    X(train, "pretrain or fine-tune from a config; under mpirun or srun on many ranks")            \
    X(launch, "run train or eval on N local ranks and restart it after a failure")                 \
    X(eval, "score a checkpoint: mIoU by clicks, oracle, box")                                     \
    X(plan, "parameters, FLOPs, memory, storage of a config, before any run")                      \
    X(bench, "time ops, the step or the loader against the machine's limits")

/* argv[0] is the subcommand's name. The status becomes the exit code. */
#define COMMAND_DECLARE(name, summary) enum status cmd_##name(int argc, char **argv) MUST_CHECK;
COMMAND_LIST(COMMAND_DECLARE)
#undef COMMAND_DECLARE

#endif
