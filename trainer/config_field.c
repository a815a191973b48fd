#include "trainer/config_field.h"

#include "kernels/base/check.h"
#include "trainer/nearest.h"

#include <ctype.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_ITEM_MAX = 1000000000, CHOICES_MAX = 8 };

#define AT(s, k)                                                                                   \
    .section = #s, .key = #k, .name = #s "." #k, .offset = offsetof(struct config, s##_##k)
#define ROW_INT(s, k, d, lo, hi, h)                                                                \
    { AT(s, k), .kind = CONFIG_KIND_INT, .number = (d), .min = (lo), .max = (hi), .help = h },
#define ROW_NUMBER(s, k, d, lo, hi, h)                                                             \
    { AT(s, k), .kind = CONFIG_KIND_NUMBER, .number = (d), .min = (lo), .max = (hi), .help = h },
#define ROW_FLAG(s, k, d, h) { AT(s, k), .kind = CONFIG_KIND_FLAG, .number = (d), .help = h },
#define ROW_TEXT(s, k, d, h) { AT(s, k), .kind = CONFIG_KIND_TEXT, .text = d, .help = h },
#define ROW_LIST(s, k, d, h) { AT(s, k), .kind = CONFIG_KIND_LIST, .text = d, .help = h },
#define ROW_CHOICE(s, k, d, c, h)                                                                  \
    { AT(s, k), .kind = CONFIG_KIND_CHOICE, .text = d, .choices = c, .help = h },

static const struct config_field fields[CONFIG_N_FIELDS] = { CONFIG_FIELDS(
    ROW_INT, ROW_NUMBER, ROW_FLAG, ROW_TEXT, ROW_LIST, ROW_CHOICE) };

const struct config_field *config_field(int i)
{
    ASSERT(i >= 0 && i < CONFIG_N_FIELDS);
    return &fields[i];
}

static void *place(struct config *c, const struct config_field *f)
{
    return (char *)c + f->offset;
}

/* ---- values from text -------------------------------------------------------------------------
 */

/* A number in plain decimal, with or without point and exponent: no hex, no suffix, no nan. */
static bool parse_number(const char *text, double *x)
{
    const char *p = text;
    int n_digits = 0;

    if (*p == '+' || *p == '-') p++;
    for (; isdigit((unsigned char)*p); p++) n_digits++;
    if (*p == '.') p++;
    for (; isdigit((unsigned char)*p); p++) n_digits++;
    if (!n_digits) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        if (!isdigit((unsigned char)*p)) return false;
        while (isdigit((unsigned char)*p)) p++;
    }
    if (*p) return false;
    *x = strtod(text, NULL);
    return isfinite(*x);
}

/* Whole numbers up to 2^53, which a double holds exactly. */
static bool parse_integer(const char *text, int64_t *v)
{
    double x;

    if (!parse_number(text, &x) || x != floor(x) || fabs(x) > 9007199254740992.0) return false;
    *v = (int64_t)x;
    return true;
}

/* The code point at *s, which moves behind it; −1 when it is not UTF-8. */
static int32_t next_code(const unsigned char **s)
{
    const unsigned char *p = *s;
    static const int32_t least[] = { 0, 0x80, 0x800, 0x10000 };
    const int n = *p < 0x80 ? 0 : *p >= 0xF0 ? 3 : *p >= 0xE0 ? 2 : 1;
    int32_t code = n == 0 ? *p : *p & (0x3F >> n);

    if (n && (*p < 0xC2 || *p > 0xF4)) return -1;
    for (int i = 1; i <= n; i++) {
        if ((p[i] & 0xC0) != 0x80) return -1;
        code = code << 6 | (p[i] & 0x3F);
    }
    *s = p + n + 1;
    return code < least[n] || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF ? -1 : code;
}

/* Characters that a line of YAML can show as themselves. */
static bool is_printable(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p) {
        const int32_t c = next_code(&p);

        if (c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF ||
            c == 0xFFFE || c == 0xFFFF)
            return false;
    }
    return true;
}

static enum status set_integer(int64_t *v, const struct config_field *f, const char *text,
                               const char *where)
{
    int64_t x;

    if (!parse_integer(text, &x))
        FAIL(E_CONFIG, "%s: %s wants a whole number, not '%s'", where, f->name, text);
    if ((double)x < f->min || (double)x > f->max)
        FAIL(E_CONFIG, "%s: %s is %lld, outside %.15g … %.15g", where, f->name, (long long)x,
             f->min, f->max);
    *v = x;
    return OK;
}

static enum status set_number(double *v, const struct config_field *f, const char *text,
                              const char *where)
{
    double x;

    if (!parse_number(text, &x))
        FAIL(E_CONFIG, "%s: %s wants a number, not '%s'", where, f->name, text);
    if (!(x >= f->min && x <= f->max))
        FAIL(E_CONFIG, "%s: %s is %.15g, outside %.15g … %.15g", where, f->name, x, f->min, f->max);
    *v = x == 0 ? 0 : x; /* no negative zero: it would change the hash */
    return OK;
}

static enum status set_flag(bool *v, const struct config_field *f, const char *text, bool quoted,
                            const char *where)
{
    const bool yes = strcmp(text, "true") == 0;

    if (quoted || (!yes && strcmp(text, "false") != 0))
        FAIL(E_CONFIG, "%s: %s wants true or false, not '%s'", where, f->name, text);
    *v = yes;
    return OK;
}

static enum status set_text(char *v, const struct config_field *f, const char *text,
                            const char *where)
{
    if (strlen(text) >= CONFIG_TEXT)
        FAIL(E_CONFIG, "%s: %s has %zu bytes; at most %d fit", where, f->name, strlen(text),
             CONFIG_TEXT - 1);
    if (!is_printable(text))
        FAIL(E_CONFIG, "%s: %s holds control characters or is not UTF-8", where, f->name);
    memset(v, 0, CONFIG_TEXT);
    strcpy(v, text);
    return OK;
}

static enum status set_list(struct config_list *v, const struct config_field *f,
                            const char *const *item, int n_items, const char *where)
{
    struct config_list list = { .n = n_items };

    if (n_items > CONFIG_LIST)
        FAIL(E_CONFIG, "%s: %s has %d items; at most %d fit", where, f->name, n_items, CONFIG_LIST);
    for (int i = 0; i < n_items; i++)
        if (!parse_integer(item[i], &list.v[i]) || list.v[i] < 0 || list.v[i] > LIST_ITEM_MAX)
            FAIL(E_CONFIG, "%s: %s wants whole numbers from 0 to %d, not '%s'", where, f->name,
                 LIST_ITEM_MAX, item[i]);
    *v = list;
    return OK;
}

/* Choice k of "a|b|c" into name; false past the last. */
static bool choice_name(const char *choices, int k, char name[CONFIG_TEXT])
{
    for (; k > 0; k--) {
        choices = strchr(choices, '|');
        if (!choices) return false;
        choices++;
    }
    snprintf(name, CONFIG_TEXT, "%.*s", (int)strcspn(choices, "|"), choices);
    return true;
}

static enum status set_choice(int *v, const struct config_field *f, const char *text,
                              const char *where)
{
    struct nearest near = nearest_start(text);
    char name[CHOICES_MAX][CONFIG_TEXT], hint[NEAREST_TEXT];

    for (int k = 0; k < CHOICES_MAX && choice_name(f->choices, k, name[k]); k++) {
        if (strcmp(name[k], text) == 0) {
            *v = k;
            return OK;
        }
        nearest_offer(&near, name[k]);
    }
    FAIL(E_CONFIG, "%s: %s wants one of %s, not '%s'%s", where, f->name, f->choices, text,
         nearest_text(&near, "", hint));
}

enum status config_field_set(struct config *c, int i, const char *const *item, int n_items,
                             bool is_list, bool quoted, const char *where)
{
    const struct config_field *f = config_field(i);
    void *v = place(c, f);

    if (is_list != (f->kind == CONFIG_KIND_LIST))
        FAIL(E_CONFIG,
             is_list ? "%s: %s wants one value, not a list" : "%s: %s wants a list: [a, b]", where,
             f->name);
    if (quoted && (f->kind == CONFIG_KIND_INT || f->kind == CONFIG_KIND_NUMBER))
        FAIL(E_CONFIG, "%s: %s wants a number, not the text \"%s\"", where, f->name, item[0]);
    switch (f->kind) {
    case CONFIG_KIND_INT:
        return set_integer(v, f, item[0], where);
    case CONFIG_KIND_NUMBER:
        return set_number(v, f, item[0], where);
    case CONFIG_KIND_FLAG:
        return set_flag(v, f, item[0], quoted, where);
    case CONFIG_KIND_TEXT:
        return set_text(v, f, item[0], where);
    case CONFIG_KIND_LIST:
        return set_list(v, f, item, n_items, where);
    case CONFIG_KIND_CHOICE:
        return set_choice(v, f, item[0], where);
    }
    ASSERT(!"a kind outside the list");
    return E_CONFIG;
}

static void default_list(struct config_list *list, const char *text)
{
    list->n = 0;
    while (*text) {
        char *end;

        list->v[list->n++] = strtoll(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
    }
}

void config_field_default(struct config *c, int i)
{
    const struct config_field *f = config_field(i);
    void *v = place(c, f);
    char name[CONFIG_TEXT];

    switch (f->kind) {
    case CONFIG_KIND_INT:
        *(int64_t *)v = (int64_t)f->number;
        return;
    case CONFIG_KIND_NUMBER:
        *(double *)v = f->number;
        return;
    case CONFIG_KIND_FLAG:
        *(bool *)v = f->number != 0;
        return;
    case CONFIG_KIND_TEXT:
        strcpy(v, f->text);
        return;
    case CONFIG_KIND_LIST:
        default_list(v, f->text);
        return;
    case CONFIG_KIND_CHOICE:
        for (int k = 0; choice_name(f->choices, k, name); k++)
            if (strcmp(name, f->text) == 0) *(int *)v = k;
        return;
    }
}

/* ---- values to text ---------------------------------------------------------------------------
 */

/* The shortest decimal that reads back as the same double. */
static void print_number(double x, char *buf, size_t n)
{
    if (x == floor(x) && fabs(x) < 1e15) {
        snprintf(buf, n, "%.0f", x);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, n, "%.*g", digits, x);
        if (strtod(buf, NULL) == x) return;
    }
}

static void print_text(const char *text, char *buf)
{
    *buf++ = '"';
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') *buf++ = '\\';
        *buf++ = *text;
    }
    *buf++ = '"';
    *buf = 0;
}

static void print_list(const struct config_list *list, char *buf, size_t n)
{
    size_t used = (size_t)snprintf(buf, n, "[");

    for (int i = 0; i < list->n; i++)
        used +=
            (size_t)snprintf(buf + used, n - used, "%s%lld", i ? ", " : "", (long long)list->v[i]);
    snprintf(buf + used, n - used, "]");
}

const char *config_field_value(const struct config *c, int i, char buf[CONFIG_VALUE])
{
    const struct config_field *f = config_field(i);
    const void *v = (const char *)c + f->offset;

    buf[0] = 0;
    switch (f->kind) {
    case CONFIG_KIND_INT:
        snprintf(buf, CONFIG_VALUE, "%lld", (long long)*(const int64_t *)v);
        break;
    case CONFIG_KIND_NUMBER:
        print_number(*(const double *)v, buf, CONFIG_VALUE);
        break;
    case CONFIG_KIND_FLAG:
        snprintf(buf, CONFIG_VALUE, "%s", *(const bool *)v ? "true" : "false");
        break;
    case CONFIG_KIND_TEXT:
        print_text(v, buf);
        break;
    case CONFIG_KIND_LIST:
        print_list(v, buf, CONFIG_VALUE);
        break;
    case CONFIG_KIND_CHOICE:
        choice_name(f->choices, *(const int *)v, buf);
        break;
    }
    return buf;
}

const char *config_field_range(int i, char buf[CONFIG_TEXT])
{
    const struct config_field *f = config_field(i);

    switch (f->kind) {
    case CONFIG_KIND_INT:
    case CONFIG_KIND_NUMBER:
        snprintf(buf, CONFIG_TEXT, "%s%.15g … %.15g", f->kind == CONFIG_KIND_INT ? "whole, " : "",
                 f->min, f->max);
        break;
    case CONFIG_KIND_FLAG:
        snprintf(buf, CONFIG_TEXT, "true or false");
        break;
    case CONFIG_KIND_TEXT:
        snprintf(buf, CONFIG_TEXT, "text");
        break;
    case CONFIG_KIND_LIST:
        snprintf(buf, CONFIG_TEXT, "a list of at most %d whole numbers", CONFIG_LIST);
        break;
    case CONFIG_KIND_CHOICE:
        snprintf(buf, CONFIG_TEXT, "%s", f->choices);
        break;
    }
    return buf;
}
