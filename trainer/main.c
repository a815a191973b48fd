#include "cluster/topology.h"
#include "kernels/base/log.h"
#include "trainer/command.h"
#include "trainer/nearest.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name, *summary;
    enum status (*run)(int argc, char **argv);
};

#define COMMAND_ROW(name, summary) { #name, summary, cmd_##name },
static const struct command commands[] = { COMMAND_LIST(COMMAND_ROW) };
#undef COMMAND_ROW

enum { N_COMMANDS = (int)(sizeof commands / sizeof commands[0]) };

static void print_help(FILE *f)
{
    fprintf(f, "Usage: samforge COMMAND [option…] [argument…]\n\n"
               "Pretrains the Segment Anything Model from scratch, on one machine or many.\n\n"
               "Examples, one after the other, where the folder configs lies:\n"
               "  samforge synth tars --images 64\n"
               "  samforge pack tars shards\n"
               "  samforge train configs/demo.yaml data.train=shards train.steps=100\n"
               "  samforge eval runs/demo shards --max-images 8\n\n"
               "Commands:\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-10s%s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\n  samforge COMMAND --help says more; samforge --version prints the version.\n"
               "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 device or dependency not "
               "available,\n"
               "4 data or checkpoint corrupt, 5 diverged, 85 stopped on request "
               "and resumable.\n");
}

static enum status find(const char *name, const struct command **found)
{
    struct nearest near = nearest_start(name);
    char hint[NEAREST_TEXT];

    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            *found = &commands[i];
            return OK;
        }
        nearest_offer(&near, commands[i].name);
    }
    FAIL(E_USAGE, "samforge has no command %s%s (see samforge --help)", name,
         nearest_text(&near, "", hint));
}

static enum status dispatch(int argc, char **argv)
{
    static char help_flag[] = "--help";
    const struct command *command = NULL;
    const char *word = argc > 1 ? argv[1] : "";

    if (strcmp(word, "--version") == 0) {
        printf("samforge %s\n", SAMFORGE_VERSION);
        return OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
        (strcmp(word, "help") == 0 && argc == 2)) {
        print_help(stdout);
        return OK;
    }
    if (argc < 2) {
        print_help(stderr);
        return E_USAGE;
    }
    if (strcmp(word, "help") == 0) {
        char *words[] = { argv[2], help_flag, NULL };

        TRY(find(argv[2], &command));
        return command->run(2, words);
    }
    TRY(find(word, &command));
    return command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    enum status s;

    topology_environment(argv);
    /* past a limit on file size a write fails and says so, like on a full disk; the default is
     * sudden death */
    signal(SIGXFSZ, SIG_IGN);
    s = dispatch(argc, argv);

    /* output that did not arrive is a failure, whatever the command thought */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("standard output could not be written");
        if (s == OK) s = E_IO;
    }
    return status_exit_code(s);
}
