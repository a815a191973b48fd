/* Command lines of the subcommands: one table each, from which come parsing, range checks and
 * --help. */
#ifndef TRAINER_OPTIONS_H
#define TRAINER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum option_kind {
    OPTION_FLAG,   /* bool *            */
    OPTION_INT,    /* int64_t *, within [min,max] when max > min */
    OPTION_NUMBER, /* double *, likewise */
    OPTION_TEXT,   /* const char **     */
    OPTION_END
};

struct option_row {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none */
    enum option_kind kind;
    void *value; /* holds the default beforehand */
    double min, max;
    const char *metavar; /* "N", "FILE" */
    const char *help;    /* one line; the default is added for you */
};

struct option_spec {
    const char *command;              /* "pack" */
    const char *arguments;            /* "SRC… OUT" */
    const char *summary;              /* one sentence */
    const char *examples;             /* lines shown first in --help */
    const char *notes;                /* shown last; may be NULL */
    const struct option_row *rows;    /* ends with OPTION_END */
    int min_arguments, max_arguments; /* positional; max −1: any number */
};

/* Parses argv[1…]; options and arguments in any order, "--" ends options. *arguments points at
 * argv's reordered tail with *n_arguments entries. --help prints to stdout and sets *done: the
 * caller returns OK at once. Anything wrong is E_USAGE with the nearest valid name. */
enum status options_parse(const struct option_spec *spec, int argc, char **argv, char ***arguments,
                          int *n_arguments, bool *done) MUST_CHECK;

#endif
