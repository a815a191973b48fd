/* mutate list | constants FILE; mutate apply FILE NUMBER; mutate switch FILE [NUMBER]….
 *
 * A mutant is a CUDA source with one token of device code changed: a barrier or wait is gone, a bound
 * is off by one, an index adds one more or subtracts, a mask names half the lanes. list prints one a
 * line, "number line function: source line", with @before => after@ where the token was; equal ones
 * of a function are told apart by a #2 at the end. That text names a mutant whatever its number.
 * apply prints the mutated source. switch prints one with all mutants in it but those numbered, each
 * on a line of its own and chosen at run time: by mutant_is(number), which tests/emu/mutant.h defines.
 * constants lists those that cannot be, as far as tokens tell: constants of enums, sizes of arrays.
 *
 * Changed are bodies of functions with __global__ or DEVICE before them, and constants of enums; what
 * nvcc alone sees (#ifdef __CUDACC__), preprocessor lines and host code are not. Floating-point
 * arithmetic is left alone: its tokens are found by the word float or double before them in the
 * statement, unless they stand in [ ]. tests/emu/mutate.sh drives this. */
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 1 << 20, MAX_TOKENS = 1 << 17, MAX_MUTANTS = 1 << 14, MAX_TEXT = 1024 };

enum kind { WORD, NUMBER, MARK, STRING };

struct token {
    enum kind kind;
    int at, n; /* bytes of the source */
};

struct mutant {
    int at, n, function; /* function: its name's token */
    char after[32];
};

static char source[MAX_BYTES];
static struct token token[MAX_TOKENS];
static struct mutant mutant[MAX_MUTANTS];
static int n_bytes, n_tokens, n_mutants;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "mutate: %s: %s\n", what, why);
    exit(2);
}

static bool is(int t, const char *text)
{
    return t >= 0 && t < n_tokens && (size_t)token[t].n == strlen(text) &&
           memcmp(source + token[t].at, text, strlen(text)) == 0;
}

static bool is_one_of(int t, const char *const *text)
{
    for (; *text; text++)
        if (is(t, *text)) return true;
    return false;
}

static void read_source(const char *name)
{
    FILE *f = fopen(name, "r");

    if (!f) fail(name, "cannot be read");
    n_bytes = (int)fread(source, 1, MAX_BYTES - 1, f);
    if (n_bytes == MAX_BYTES - 1) fail(name, "too large");
    fclose(f);
}

/* ---- tokens ----------------------------------------------------------------------------------- */

static bool starts(int i, const char *text)
{
    return strncmp(source + i, text, strlen(text)) == 0;
}

/* Behind the directive at i and its continued lines. */
static int skip_directive(int i)
{
    while (i < n_bytes && source[i] != '\n') i += source[i] == '\\' ? 2 : 1;
    return i;
}

/* The line begins with '#' at i: behind it; behind what nvcc alone compiles, if that begins here. */
static int skip_preprocessor(int i)
{
    int depth = 1;

    if (!starts(i, "#ifdef __CUDACC__")) return skip_directive(i);
    while (i < n_bytes && depth > 0) {
        i = skip_directive(i) + 1;
        while (i < n_bytes && source[i] != '#') i = skip_directive(i) + 1;
        if (starts(i, "#if")) depth++;
        if (starts(i, "#endif") || (depth == 1 && starts(i, "#else"))) depth--;
    }
    return skip_directive(i);
}

static int skip_string(int i)
{
    const char quote = source[i++];

    while (i < n_bytes && source[i] != quote) i += source[i] == '\\' ? 2 : 1;
    return i + 1;
}

static int mark_length(int i)
{
    static const char *const marks[] = { "<<=", ">>=", "<=", ">=", "==", "!=", "&&", "||",
                                         "+=",  "-=",  "*=", "/=", "%=", "&=", "|=", "^=",
                                         "++",  "--",  "->", "::", "<<", ">>", NULL };

    for (int k = 0; marks[k]; k++)
        if (starts(i, marks[k])) return (int)strlen(marks[k]);
    return 1;
}

static void add_token(enum kind kind, int at, int end)
{
    if (n_tokens == MAX_TOKENS) fail("source", "too many tokens");
    token[n_tokens++] = (struct token){ kind, at, end - at };
}

static void read_tokens(void)
{
    bool fresh = true; /* nothing yet in this line */

    for (int i = 0; i < n_bytes;) {
        const char c = source[i];
        const int begin = i;

        if (c == '\n') fresh = true;
        if (isspace(c)) {
            i++;
        } else if (c == '#' && fresh) {
            i = skip_preprocessor(i);
        } else if (starts(i, "//")) {
            while (i < n_bytes && source[i] != '\n') i++;
        } else if (starts(i, "/*")) {
            while (i < n_bytes && !starts(i, "*/")) i++;
            i += 2;
        } else if (c == '"' || c == '\'') {
            i = skip_string(i);
            add_token(STRING, begin, i);
        } else if (isalpha(c) || c == '_') {
            while (isalnum(source[i]) || source[i] == '_') i++;
            add_token(WORD, begin, i);
        } else if (isdigit(c) || (c == '.' && isdigit(source[i + 1]))) {
            for (bool hex = starts(i, "0x");
                 isalnum(source[i]) || source[i] == '.' ||
                 (!hex && strchr("+-", source[i]) && strchr("eE", source[i - 1]));)
                i++;
            add_token(NUMBER, begin, i);
        } else {
            i += mark_length(i);
            add_token(MARK, begin, i);
        }
        if (!isspace(c)) fresh = false;
    }
}

/* ---- mutants ---------------------------------------------------------------------------------- */

static void add_mutant(int first, int last, int function, const char *after)
{
    struct mutant *m = &mutant[n_mutants];

    if (n_mutants++ == MAX_MUTANTS) fail("source", "too many mutants");
    m->at = token[first].at;
    m->n = token[last].at + token[last].n - m->at;
    m->function = function;
    snprintf(m->after, sizeof m->after, "%s", after);
}

/* The token that closes the bracket at t. */
static int closing(int t)
{
    int depth = 0;

    for (; t < n_tokens; t++) {
        if (is(t, "(") || is(t, "[") || is(t, "{")) depth++;
        if ((is(t, ")") || is(t, "]") || is(t, "}")) && --depth == 0) return t;
    }
    fail("source", "a bracket is not closed");
    return t;
}

/* Whether t is part of an index or of a bound, as far as tokens tell: in [ ], in the head of a for,
 * or in a statement that declares no floating-point value. */
static bool counts(int t, int begin)
{
    int depth = 0;

    for (int k = t - 1; k >= begin; k--) {
        if (is(k, "]") || is(k, ")")) depth++;
        if (is(k, "[") && depth-- == 0) return true;
        if (is(k, "(") && depth-- == 0) {
            if (is(k - 1, "for")) return true;
            depth = 0; /* out of the brackets around t */
        }
        if (is(k, ";") || is(k, "{") || is(k, "}")) break;
        if ((is(k, "float") || is(k, "double")) && token[k + 1].kind == WORD && !is(k - 1, "("))
            return false;
    }
    return true;
}

/* A value that goes somewhere, not a bound or an index: 0 in `x ? y : 0`, `= 0`, `f(0, 0)`. */
static bool is_plain_value(int t, int begin)
{
    static const char *const before[] = { ":", "=", "return", ",", "(", NULL };
    static const char *const behind[] = { ";", ",", ")", NULL };
    bool in_loop = false;

    for (int k = t; k >= begin && !is(k, ";") && !is(k, "{"); k--) {
        if (starts(token[k].at, "__shfl") || is(k, "named_barrier")) return false;
        if (is(k, "for")) in_loop = true;
    }
    return !in_loop && is_one_of(t - 1, before) && is_one_of(t + 1, behind);
}

/* The size in a declaration of arrays: `float v[4], out[4]`. */
static bool is_array_size(int t, int begin)
{
    static const char *const types[] = { "float",    "double",  "int",        "unsigned", "bf16",
                                         "uint32_t", "int64_t", "__shared__", "uint8_t",  NULL };
    int k = t;

    if (!is(t - 1, "[") || !is(t + 1, "]")) return false;
    while (k > begin && !is(k - 1, ";") && !is(k - 1, "{") && !is(k - 1, "}") && !is(k, "=") &&
           !is(k, ")"))
        k--;
    return is_one_of(k, types);
}

static void mutate_number(int t, int function)
{
    char text[32], *end;

    if (token[t].n >= 24) return;
    snprintf(text, sizeof text, "%.*s", token[t].n, source + token[t].at);
    if (strncasecmp(text, "0xFFFFFFFF", 10) == 0) {
        add_mutant(t, t, function, "0x0000FFFFu");
        return;
    }
    const long long value = strtoll(text, &end, 0);

    if (end[strspn(end, "uUlL")] != 0) return; /* floating point */
    char after[64];

    snprintf(after, sizeof after, "%lld%s", value + 1, end);
    add_mutant(t, t, function, after);
}

/* A binary + or −, not a sign. */
static bool is_binary(int t)
{
    static const char *const words[] = { "return", "case", NULL };

    return (token[t - 1].kind == WORD && !is_one_of(t - 1, words)) || token[t - 1].kind == NUMBER ||
           is(t - 1, ")") || is(t - 1, "]");
}

static void mutate_mark(int t, int function, int begin)
{
    static const char *const pairs[][2] = { { "<", "<=" }, { "<=", "<" },  { ">", ">=" },
                                            { ">=", ">" }, { "&&", "||" }, { "||", "&&" },
                                            { "+", "-" },  { "-", "+" },   { NULL, NULL } };

    for (int k = 0; pairs[k][0]; k++) {
        if (!is(t, pairs[k][0])) continue;
        if ((is(t, "<") || is(t, ">")) && source[token[t].at - 1] != ' ') return; /* a template's */
        if (is(t, ">") && source[token[t].at + 1] != ' ') return;
        if ((is(t, "+") || is(t, "-")) && !(is_binary(t) && counts(t, begin))) return;
        add_mutant(t, t, function, pairs[k][1]);
        return;
    }
}

/* A body, from its { to its }. */
static void mutate_body(int begin, int end, int function)
{
    static const char *const gone[] = {
        "__syncthreads", "__syncwarp", "named_barrier", "async_commit", "acquire_blocks",
        "async_wait",    NULL
    };

    for (int t = begin; t < end; t++) {
        if (token[t].kind == WORD) {
            if (is_one_of(t, gone) && !is(t - 1, "::")) { /* the emulator's have a namespace */
                int open = t;

                while (!is(open, "(")) open++;
                add_mutant(t, closing(open), function, "(void)0");
            }
            if (is(t, "min") && is(t + 1, "(")) add_mutant(t, t, function, "max");
            if (is(t, "max") && is(t + 1, "(")) add_mutant(t, t, function, "min");
        }
        if (token[t].kind == NUMBER && counts(t, begin) && !is_plain_value(t, begin) &&
            !is_array_size(t, begin))
            mutate_number(t, function);
        if (token[t].kind == MARK) mutate_mark(t, function, begin);
    }
}

/* Constants, each one off, and what they are made of. */
static void mutate_enum(int begin, int end)
{
    for (int t = begin; t < end; t++) {
        if (token[t].kind == NUMBER) mutate_number(t, -1);
        if (token[t].kind == MARK) mutate_mark(t, -1, begin);
    }
}

/* The last word before a ( that is no macro's. */
static int name_of(int begin, int end)
{
    static const char *const attributes[] = { "__launch_bounds__", "__align__", NULL };

    for (int t = begin; t + 1 < end; t++) {
        if (!is(t + 1, "(") || token[t].kind != WORD) continue;
        if (!is_one_of(t, attributes)) return t;
        t = closing(t + 1);
    }
    return -1;
}

/* Declarations from token t to `end`: those of a file, a namespace, a struct. */
static void read_declarations(int t, int end)
{
    int begin = t;
    bool device = false, has_value = false;

    for (; t < end; t++) {
        if (is(t, "__global__") || is(t, "DEVICE") || is(t, "__device__")) device = true;
        if (is(t, "=")) has_value = true;
        if (is(t, "(")) t = closing(t);
        if (is(t, "{")) {
            const int close = closing(t), name = name_of(begin, t);

            if (is(begin, "enum") && name < 0)
                mutate_enum(t, close);
            else if (name < 0 && !has_value)
                read_declarations(t + 1, close);
            else if (device)
                mutate_body(t, close, name);
            t = close;
            if (has_value || name < 0) continue; /* up to its semicolon */
        } else if (!is(t, ";")) {
            continue;
        }
        begin = t + 1;
        device = has_value = false;
    }
}

/* ---- what is printed -------------------------------------------------------------------------- */

static int line_of(int at)
{
    int line = 1;

    for (int i = 0; i < at; i++) line += source[i] == '\n';
    return line;
}

/* The source line with the change in it, blanks as one. */
static void marked_line(char *out, const struct mutant *m)
{
    char text[2 * MAX_TEXT];
    int begin = m->at, end = m->at + m->n, n = 0;

    while (begin > 0 && source[begin - 1] != '\n') begin--;
    while (end < n_bytes && source[end] != '\n') end++;
    if (end - begin > MAX_TEXT - 100) fail("source", "a line is too long");
    snprintf(text, sizeof text, "%.*s@%.*s => %s@%.*s", m->at - begin, source + begin, m->n,
             source + m->at, m->after, end - m->at - m->n, source + m->at + m->n);
    for (const char *p = text; *p; p++) {
        if (!isspace(*p))
            out[n++] = *p;
        else if (n > 0 && out[n - 1] != ' ')
            out[n++] = ' ';
    }
    while (n > 0 && out[n - 1] == ' ') n--;
    out[n] = 0;
}

static void print_list(void)
{
    static char text[MAX_MUTANTS][MAX_TEXT];

    for (int i = 0; i < n_mutants; i++) {
        const struct mutant *m = &mutant[i];
        int twin = 1;

        marked_line(text[i], m);
        for (int k = 0; k < i; k++)
            twin += mutant[k].function == m->function && strcmp(text[k], text[i]) == 0;
        printf("%d %d ", i, line_of(m->at));
        if (m->function >= 0)
            printf("%.*s: ", token[m->function].n, source + token[m->function].at);
        else
            printf("enum: ");
        printf(twin > 1 ? "%s #%d\n" : "%s\n", text[i], twin);
    }
}

static void print_mutant(int number)
{
    if (number < 0 || number >= n_mutants) fail("apply", "no such mutant");
    const struct mutant *m = &mutant[number];

    fwrite(source, 1, (size_t)m->at, stdout);
    fputs(m->after, stdout);
    fwrite(source + m->at + m->n, 1, (size_t)(n_bytes - m->at - m->n), stdout);
}

/* ---- all mutants in one source ---------------------------------------------------------------- */

/* What a switch chooses between: an expression around the change, to which the change is the same
 * whatever stands outside. */
struct place {
    int begin, end; /* bytes of the source */
    int number;
};

static struct place place[MAX_MUTANTS];
static int n_places;
static bool left_out[MAX_MUTANTS];

static int token_at(int at)
{
    int low = 0, high = n_tokens - 1;

    while (low < high) {
        const int middle = (low + high) / 2;

        if (token[middle].at + token[middle].n > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool is_delimiter(int t, bool logical)
{
    static const char *const always[] = { ",",  ";",  "?",  ":",  "=",  "+=",     "-=",   "*=",
                                          "/=", "%=", "&=", "|=", "^=", "return", "else", NULL };
    static const char *const logicals[] = { "&&", "||", NULL };

    return is_one_of(t, always) || (!logical && is_one_of(t, logicals));
}

/* The expression around tokens first to last: up to the brackets around it, or a delimiter. */
static void widen(int *first, int *last, bool logical)
{
    for (int depth = 0; *first > 0; --*first) {
        const int t = *first - 1;
        const bool opens = is(t, "(") || is(t, "[") || is(t, "{");

        if (depth == 0 && (opens || is(t, "}") || is_delimiter(t, logical))) break;
        if (is(t, ")") || is(t, "]") || is(t, "}")) depth++;
        if (opens) depth--;
    }
    for (int depth = 0; *last + 1 < n_tokens; ++*last) {
        const int t = *last + 1;
        const bool closes = is(t, ")") || is(t, "]") || is(t, "}");

        if (depth == 0 && (closes || is_delimiter(t, logical))) break;
        if (is(t, "(") || is(t, "[") || is(t, "{")) depth++;
        if (closes) depth--;
    }
}

static void add_place(int number)
{
    const struct mutant *m = &mutant[number];
    int first = token_at(m->at), last = token_at(m->at + m->n - 1);
    const bool alone = strcmp(m->after, "(void)0") == 0 ||
                       (token[first].kind == NUMBER && !is(first - 1, "<") && !is(first + 1, ">"));

    if (!alone) widen(&first, &last, is(first, "&&") || is(first, "||"));
    place[n_places++] = (struct place){ token[first].at, token[last].at + token[last].n, number };
}

static int by_place(const void *a, const void *b)
{
    const struct place *p = a, *q = b;

    if (p->begin != q->begin) return p->begin < q->begin ? -1 : 1;
    if (p->end != q->end) return p->end > q->end ? -1 : 1;
    return p->number - q->number;
}

static void print_bytes(int begin, int end)
{
    for (int i = begin; i < end; i++) putchar(source[i] == '\n' ? ' ' : source[i]);
}

/* Bytes begin to end with the places from k on that lie in them; returns the first behind. */
static int print_switched(int begin, int end, int k)
{
    while (k < n_places && place[k].begin < end) {
        const struct place outer = place[k];

        if (outer.end > end) fail("switch", "places overlap");
        fwrite(source + begin, 1, (size_t)(outer.begin - begin), stdout);
        printf("\n(");
        for (; k < n_places && place[k].begin == outer.begin && place[k].end == outer.end; k++) {
            const struct mutant *m = &mutant[place[k].number];

            printf("mutant_is(%d) ? ", place[k].number);
            print_bytes(outer.begin, m->at);
            fputs(m->after, stdout);
            print_bytes(m->at + m->n, outer.end);
            printf(" :\n");
        }
        k = print_switched(outer.begin, outer.end, k);
        printf(")\n");
        begin = outer.end;
    }
    fwrite(source + begin, 1, (size_t)(end - begin), stdout);
    return k;
}

/* Whether the tokens from t on declare something: `float v`, `const tile<N> &v`. */
static bool declares(int t)
{
    static const char *const others[] = { "return", "else", "case", "goto", NULL };

    if (token[t].kind != WORD || is_one_of(t, others)) return false;
    if (is(t + 1, "<") && source[token[t + 1].at - 1] != ' ')
        while (t + 1 < n_tokens && !is(t + 1, ">") && !is(t, ";")) t++;
    return token[t + 1].kind == WORD || is(t, "__shared__");
}

/* Whether t is part of the size of an array that is declared, as far as tokens tell. */
static bool is_size(int t)
{
    bool in_brackets = false, is_later = false; /* of the declaration, another stands before it */
    int depth = 0, k = t;

    for (; k > 0; k--) {
        const int before = k - 1;
        const bool closes = is(before, ")") || is(before, "]") || (is(before, "}") && is(k, ","));

        if (closes) {
            depth++;
        } else if (depth > 0) {
            depth -= is(before, "(") || is(before, "[") || is(before, "{");
        } else if (is(before, ";") || is(before, "{") || is(before, "}")) {
            break;
        } else if (is(before, "(") ||
                   (!is_later && (is(before, "=") || (is(before, "[") && in_brackets)))) {
            return false;
        } else if (is(before, "[")) {
            in_brackets = true;
        } else if (is(before, ",")) {
            is_later = in_brackets;
        }
    }
    return in_brackets && declares(k);
}

/* All mutants but those left out. */
static void print_all(char **numbers)
{
    for (; *numbers; numbers++)
        if (atoi(*numbers) >= 0 && atoi(*numbers) < n_mutants) left_out[atoi(*numbers)] = true;
    for (int i = 0; i < n_mutants; i++)
        if (!left_out[i]) add_place(i);
    qsort(place, (size_t)n_places, sizeof *place, by_place);
    print_switched(0, n_bytes, 0);
}

/* Those that cannot be chosen at run time; the compiler finds more. */
static void print_constants(void)
{
    for (int i = 0; i < n_mutants; i++)
        if (mutant[i].function < 0 || is_size(token_at(mutant[i].at))) printf("%d\n", i);
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "list FILE | constants FILE | apply FILE NUMBER | switch FILE [NUMBER]…";

    if (argc < 3) fail("usage", usage);
    read_source(argv[2]);
    read_tokens();
    read_declarations(0, n_tokens);
    if (strcmp(argv[1], "list") == 0)
        print_list();
    else if (strcmp(argv[1], "constants") == 0)
        print_constants();
    else if (strcmp(argv[1], "switch") == 0)
        print_all(argv + 3);
    else if (strcmp(argv[1], "apply") == 0 && argc == 4)
        print_mutant(atoi(argv[3]));
    else
        fail("usage", usage);
    return 0;
}
