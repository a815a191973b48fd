#include "trainer/options.h"

#include "kernels/base/check.h"
#include "trainer/nearest.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMN = 26 }; /* where an option's help begins */

static const char *metavar(const struct option_row *row)
{
    static const char *const usual[] = {
        [OPTION_INT] = "N", [OPTION_NUMBER] = "X", [OPTION_TEXT] = "TEXT"
    };

    return row->metavar ? row->metavar : usual[row->kind];
}

/* Characters, not bytes: metavars may hold "…". */
static int width(const char *s)
{
    int n = 0;

    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void print_default(const struct option_row *row)
{
    switch (row->kind) {
    case OPTION_INT:
        printf(" (default %lld)", (long long)*(const int64_t *)row->value);
        break;
    case OPTION_NUMBER:
        printf(" (default %g)", *(const double *)row->value);
        break;
    case OPTION_TEXT: {
        const char *text = *(const char *const *)row->value;

        if (text && *text) printf(" (default %s)", text);
        break;
    }
    case OPTION_FLAG:
    case OPTION_END:
        break;
    }
}

static void print_row(const struct option_row *row)
{
    char left[128];

    snprintf(left, sizeof left, "  %c%c%s --%s%s%s", row->letter ? '-' : ' ',
             row->letter ? row->letter : ' ', row->letter ? "," : " ", row->name,
             row->kind == OPTION_FLAG ? "" : " ", row->kind == OPTION_FLAG ? "" : metavar(row));
    if (width(left) >= COLUMN)
        printf("%s\n%*s", left, COLUMN, "");
    else
        printf("%s%*s", left, COLUMN - width(left), "");
    printf("%s", row->help);
    print_default(row);
    printf("\n");
}

static void print_indented(const char *text)
{
    while (*text) {
        const size_t n = strcspn(text, "\n");

        printf("  %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static void print_help(const struct option_spec *spec)
{
    static const struct option_row help_row = {
        .name = "help", .letter = 'h', .kind = OPTION_FLAG, .help = "print this and exit"
    };

    printf("Usage: samforge %s [option…]%s%s\n\n%s\n", spec->command, *spec->arguments ? " " : "",
           spec->arguments, spec->summary);
    if (spec->examples && *spec->examples) {
        printf("\nExamples:\n");
        print_indented(spec->examples);
    }
    printf("\nOptions:\n");
    for (const struct option_row *r = spec->rows; r->kind != OPTION_END; r++) print_row(r);
    print_row(&help_row);
    if (spec->notes && *spec->notes) printf("\n%s\n", spec->notes);
}

static const struct option_row *find_long(const struct option_spec *spec, const char *name,
                                          size_t n)
{
    for (const struct option_row *r = spec->rows; r->kind != OPTION_END; r++)
        if (strlen(r->name) == n && strncmp(r->name, name, n) == 0) return r;
    return NULL;
}

static const struct option_row *find_letter(const struct option_spec *spec, char letter)
{
    for (const struct option_row *r = spec->rows; r->kind != OPTION_END; r++)
        if (r->letter && r->letter == letter) return r;
    return NULL;
}

static enum status unknown(const struct option_spec *spec, const char *word)
{
    char typed[64], hint[NEAREST_TEXT];
    struct nearest near;

    snprintf(typed, sizeof typed, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    near = nearest_start(typed);
    for (const struct option_row *r = spec->rows; r->kind != OPTION_END; r++)
        nearest_offer(&near, r->name);
    nearest_offer(&near, "help");
    FAIL(E_USAGE, "samforge %s knows no option %s%s (see samforge %s --help)", spec->command, word,
         nearest_text(&near, "--", hint), spec->command);
}

static enum status check_range(const struct option_spec *spec, const struct option_row *row,
                               double x, const char *text)
{
    if (row->max > row->min && !(x >= row->min && x <= row->max))
        FAIL(E_USAGE, "samforge %s: --%s %s is outside %.15g … %.15g", spec->command, row->name,
             text, row->min, row->max);
    return OK;
}

static enum status set_value(const struct option_spec *spec, const struct option_row *row,
                             const char *text)
{
    const int starts_well = *text && !strchr(" \t\n\r\v\f", *text);
    char *end;

    errno = 0;
    switch (row->kind) {
    case OPTION_INT: {
        const long long x = strtoll(text, &end, 10);

        if (!starts_well || *end || errno)
            FAIL(E_USAGE, "samforge %s: --%s wants a whole number, not '%s'", spec->command,
                 row->name, text);
        TRY(check_range(spec, row, (double)x, text));
        *(int64_t *)row->value = x;
        return OK;
    }
    case OPTION_NUMBER: {
        const double x = strtod(text, &end);

        if (!starts_well || *end || !isfinite(x))
            FAIL(E_USAGE, "samforge %s: --%s wants a number, not '%s'", spec->command, row->name,
                 text);
        TRY(check_range(spec, row, x, text));
        *(double *)row->value = x;
        return OK;
    }
    case OPTION_TEXT:
        *(const char **)row->value = text;
        return OK;
    case OPTION_FLAG:
    case OPTION_END:
        break;
    }
    ASSERT(!"a flag has no value");
    return E_USAGE;
}

/* Takes the option at argv[at]; *words is how many words it used. */
static enum status take_option(const struct option_spec *spec, int argc, char **argv, int at,
                               int *words)
{
    const char *word = argv[at], *value = NULL;
    const struct option_row *row;

    if (word[1] == '-') {
        const size_t n = strcspn(word + 2, "=");

        row = find_long(spec, word + 2, n);
        if (!row) return unknown(spec, word);
        if (word[2 + n]) value = word + 2 + n + 1;
    } else {
        row = find_letter(spec, word[1]);
        if (!row)
            FAIL(E_USAGE, "samforge %s knows no option %s (see samforge %s --help)", spec->command,
                 word, spec->command);
        if (word[2]) value = word + 2 + (word[2] == '=');
    }
    *words = 1;
    if (row->kind == OPTION_FLAG) {
        if (value)
            FAIL(E_USAGE, "samforge %s: --%s takes no value, but got '%s'", spec->command,
                 row->name, value);
        *(bool *)row->value = true;
        return OK;
    }
    if (!value) {
        if (at + 1 >= argc)
            FAIL(E_USAGE, "samforge %s: --%s wants a value: --%s %s", spec->command, row->name,
                 row->name, metavar(row));
        value = argv[at + 1];
        *words = 2;
    }
    return set_value(spec, row, value);
}

static int wants_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Moves the `words` words at `at` in front of the `n` words before them. */
static void rotate(char **argv, int at, int words, int n)
{
    for (int i = 0; i < words; i++) {
        char *word = argv[at + i];

        memmove(argv + at + i - n + 1, argv + at + i - n, (size_t)n * sizeof *argv);
        argv[at + i - n] = word;
    }
}

enum status options_parse(const struct option_spec *spec, int argc, char **argv, char ***arguments,
                          int *n_arguments, bool *done)
{
    int n = 0, at = 1; /* argv[at-n … at) are the arguments met so far */

    ASSERT(argc >= 1 && spec->rows);
    *done = false;
    while (at < argc) {
        const char *word = argv[at];
        int words = 1;

        if (strcmp(word, "--") == 0) {
            rotate(argv, at, 1, n);
            n += argc - at - 1;
            at = argc;
        } else if (wants_help(word)) {
            print_help(spec);
            *done = true;
            return OK;
        } else if (word[0] == '-' && word[1]) {
            TRY(take_option(spec, argc, argv, at, &words));
            rotate(argv, at, words, n);
            at += words;
        } else {
            n++;
            at++;
        }
    }
    if (n < spec->min_arguments || (spec->max_arguments >= 0 && n > spec->max_arguments))
        FAIL(E_USAGE, "samforge %s wants %s%s, but got %d argument%s (see samforge %s --help)",
             spec->command, *spec->arguments ? "" : "no arguments", spec->arguments, n,
             n == 1 ? "" : "s", spec->command);
    *arguments = argv + argc - n;
    *n_arguments = n;
    return OK;
}
