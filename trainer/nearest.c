#include "trainer/nearest.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH_MAX = 64 }; /* longer names are not compared: nobody mistypes those */

/* Words of other programs, and the names that mean the same here. */
static const struct {
    const char *typed, *name;
} aliases[] = {
    { "gpu", "cuda" },    { "nvidia", "cuda" },   { "fp32", "f32" },
    { "float32", "f32" }, { "bfloat16", "bf16" }, { "true", "on" },
    { "yes", "on" },      { "false", "off" },     { "no", "off" },
};

static bool is_alias(const char *typed, const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcmp(aliases[i].typed, typed) == 0 && strcmp(aliases[i].name, name) == 0) return true;
    return false;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Damerau-Levenshtein distance (optimal alignment) over three rows. */
static int distance(const char *a, const char *b)
{
    const int la = (int)strnlen(a, LENGTH_MAX + 1), lb = (int)strnlen(b, LENGTH_MAX + 1);
    int row[3][LENGTH_MAX + 1];

    if (la > LENGTH_MAX || lb > LENGTH_MAX) return LENGTH_MAX;
    for (int j = 0; j <= lb; j++) row[0][j] = j;
    for (int i = 1; i <= la; i++) {
        int *now = row[i % 3];
        const int *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

        now[0] = i;
        for (int j = 1; j <= lb; j++) {
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return row[la % 3][lb];
}

struct nearest nearest_start(const char *typed)
{
    /* a name more than a third away was not meant */
    const int limit = (int)strnlen(typed, LENGTH_MAX) / 3 + 2;

    return (struct nearest){ .typed = typed, .distance = limit };
}

void nearest_offer(struct nearest *n, const char *name)
{
    const int d = is_alias(n->typed, name) ? 0 : distance(n->typed, name);

    if (d >= n->distance) return;
    n->distance = d;
    n->name = name;
}

const char *nearest_text(const struct nearest *n, const char *prefix, char buf[NEAREST_TEXT])
{
    buf[0] = 0;
    if (n->name) snprintf(buf, NEAREST_TEXT, "; did you mean %s%s?", prefix, n->name);
    return buf;
}
