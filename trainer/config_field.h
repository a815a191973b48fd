/* One row of the table of configuration fields: its value from text, to text, and its range.
 * For config.c; everyone else uses struct config. */
#ifndef TRAINER_CONFIG_FIELD_H
#define TRAINER_CONFIG_FIELD_H

#include "trainer/config.h"

enum config_kind {
    CONFIG_KIND_INT,
    CONFIG_KIND_NUMBER,
    CONFIG_KIND_FLAG,
    CONFIG_KIND_TEXT,
    CONFIG_KIND_LIST,
    CONFIG_KIND_CHOICE
};

struct config_field {
    const char *section, *key, *name; /* name: "section.key" */
    enum config_kind kind;
    int64_t offset;      /* in struct config */
    double number;       /* the default of numbers and flags */
    const char *text;    /* the default of the others */
    double min, max;     /* numbers */
    const char *choices; /* "a|b|c" */
    const char *help;
};

const struct config_field *config_field(int i); /* 0 … CONFIG_N_FIELDS − 1 */

void config_field_default(struct config *c, int i);

/* Sets field i from items; E_CONFIG naming where, the field and what is wrong. */
enum status config_field_set(struct config *c, int i, const char *const *item, int n_items,
                             bool is_list, bool quoted, const char *where) MUST_CHECK;

/* The value as YAML, read back to the same bits; returns buf. */
enum { CONFIG_VALUE = 8 * CONFIG_TEXT };
const char *config_field_value(const struct config *c, int i, char buf[CONFIG_VALUE]);

/* "1 … 65536", "a, b or c"; returns buf. */
const char *config_field_range(int i, char buf[CONFIG_TEXT]);

#endif
