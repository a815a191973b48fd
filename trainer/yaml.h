/* The part of YAML that configuration files use, as a stream of entries: sections of keys, keys of
 * scalars or flat lists.
 *
 * One document of at most 1 MiB, three levels deep. Anchors, aliases, tags, directives and further
 * documents are refused: a file must say what it looks like it says. Whether names and values mean
 * anything is the caller's business. */
#ifndef TRAINER_YAML_H
#define TRAINER_YAML_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { YAML_BYTES_MAX = 1 << 20, YAML_LIST_MAX = 256 };

struct yaml_entry {
    const char *section;             /* NULL: the key stands at the top level */
    const char *key;                 /* NULL: the section itself begins */
    const char *item[YAML_LIST_MAX]; /* valid during the call */
    int n_items;                     /* 1 for a scalar */
    bool is_list;
    bool quoted; /* a scalar in quotes: a text whatever it looks like */
    int line;    /* from 1 */
};

/* Anything but OK ends the reading. */
typedef enum status yaml_sink_fn(void *context, const struct yaml_entry *e);

/* Hands each entry to sink in the text's order; name stands for the text in messages. */
enum status yaml_read(const char *text, int64_t n, const char *name, yaml_sink_fn *sink,
                      void *context) MUST_CHECK;

#endif
