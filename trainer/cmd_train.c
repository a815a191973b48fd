#include <stdio.h>

#include "cluster/signals.h"
#include "trainer/command.h"
#include "trainer/config.h"
#include "trainer/loop.h"
#include "trainer/options.h"

enum status cmd_train(int argc, char **argv)
{
    struct loop_options o = { .argc = argc, .argv = argv };
    struct config c;
    bool dump = false, fields = false, done = false;
    const char *weights = NULL;
    const struct option_row rows[] = {
        { "weights", 'w', OPTION_TEXT, &weights, 0, 0, "PATH",
          "begin from these: a run, a checkpoint, or a .safetensors with the official names" },
        { "fresh", 0, OPTION_FLAG, &o.fresh, 0, 0, NULL,
          "begin anew in a folder that holds another run's checkpoints" },
        { "stop-after", 0, OPTION_INT, &o.stop_after, 0, 1e12, "N",
          "save and stop with exit code 85 after N steps of this process; 0: do not" },
        { "dump-config", 0, OPTION_FLAG, &dump, 0, 0, NULL,
          "print the whole configuration with the origin of each value, and exit" },
        { "fields", 0, OPTION_FLAG, &fields, 0, 0, NULL,
          "list every field of a configuration, and exit" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "train",
        .arguments = "CONFIG [section.key=value…]",
        .summary = "Trains a model; under mpirun or srun on many ranks. Resumes by itself from the "
                   "newest valid checkpoint.",
        .examples =
            "samforge train configs/micro.yaml data.train=shards/train\n"
            "samforge launch -n 2 train configs/tiny.yaml data.train=shards/train train.steps=500\n"
            "mpirun -np 8 --bind-to none samforge train configs/vit_b.yaml data.train=/data/sa1b "
            "run.folder=/runs/b",
        .notes =
            "USR1, TERM, INT (Ctrl-C) or HUP: checkpoint at the end of the step at hand, then "
            "exit 85;\n"
            "the same command goes on from there. A second INT ends it at once, and loses the "
            "steps since\n"
            "the last checkpoint.\n"
            "Exit codes: 0 done, 2 configuration or spent budget, 4 data or checkpoint corrupt, "
            "5 diverged, "
            "85 stopped and resumable.",
        .rows = rows,
        .min_arguments = 0,
        .max_arguments = -1,
    };
    char **arguments;
    enum status s;
    int n;

    TRY(options_parse(&spec, argc, argv, &arguments, &n, &done));
    if (done) return OK;
    if (fields) {
        config_help(stdout);
        return OK;
    }
    if (n < 1)
        FAIL(E_USAGE,
             "train needs a configuration, such as configs/micro.yaml; see samforge train --help");
    TRY(config_load(&c, arguments[0], arguments + 1, n - 1));
    if (dump) return config_dump(&c, stdout);
    o.config = &c;
    o.config_path = arguments[0];
    o.weights = weights;
    TRY(signals_catch()); /* before MPI starts: it would die of one */
    TRY(comm_create(&o.comm, c.run_timeout_s * 1000));
    if (o.comm->rank == 0)
        signals_notice("stop requested: it takes effect at the end of the step at hand, with a "
                       "checkpoint; a second INT (Ctrl-C) ends it at once, without one",
                       o.comm->n_ranks == 1);
    s = loop_run(&o);
    comm_destroy(o.comm);
    return s;
}
