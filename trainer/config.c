#include "trainer/config.h"

#include "trainer/config_field.h"
#include "trainer/nearest.h"
#include "trainer/yaml.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { WHERE = CONFIG_TEXT + 32 };

void config_defaults(struct config *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < CONFIG_N_FIELDS; i++) config_field_default(c, i);
}

static int find_section(const char *section)
{
    for (int i = 0; i < CONFIG_N_FIELDS; i++)
        if (strcmp(config_field(i)->section, section) == 0) return i;
    return -1;
}

static int find_field(const char *section, const char *key)
{
    for (int i = 0; i < CONFIG_N_FIELDS; i++)
        if (strcmp(config_field(i)->section, section) == 0 &&
            strcmp(config_field(i)->key, key) == 0)
            return i;
    return -1;
}

static enum status unknown_section(const char *where, const char *section)
{
    struct nearest near = nearest_start(section);
    char hint[NEAREST_TEXT];

    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        if (strcmp(config_field(i)->key, section) == 0)
            FAIL(E_CONFIG, "%s: no section %s; did you mean %s inside section %s?", where, section,
                 section, config_field(i)->section);
        nearest_offer(&near, config_field(i)->section);
    }
    nearest_offer(&near, "extends");
    FAIL(E_CONFIG, "%s: no section %s%s", where, section, nearest_text(&near, "", hint));
}

static enum status unknown_key(const char *where, const char *section, const char *key)
{
    struct nearest near = nearest_start(key);
    char hint[NEAREST_TEXT], prefix[CONFIG_TEXT];

    if (find_section(section) < 0) return unknown_section(where, section);
    for (int i = 0; i < CONFIG_N_FIELDS; i++)
        if (strcmp(config_field(i)->key, key) == 0)
            FAIL(E_CONFIG, "%s: no key %s.%s; did you mean %s?", where, section, key,
                 config_field(i)->name);
    for (int i = 0; i < CONFIG_N_FIELDS; i++)
        if (strcmp(config_field(i)->section, section) == 0)
            nearest_offer(&near, config_field(i)->key);
    snprintf(prefix, sizeof prefix, "%s.", section);
    FAIL(E_CONFIG, "%s: no key %s.%s%s", where, section, key, nearest_text(&near, prefix, hint));
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* What one text has said so far. */
struct text_state {
    struct config *c;
    const char *name;
    char extends[CONFIG_TEXT];
    int extends_line;
    int seen[CONFIG_N_FIELDS]; /* the line of each field, 0: not yet */
    int section_line[CONFIG_N_FIELDS];
    bool may_extend;
};

static enum status begin_section(struct text_state *t, const char *section, int line,
                                 const char *where)
{
    const int first = find_section(section);

    if (first < 0) return unknown_section(where, section);
    if (t->section_line[first])
        FAIL(E_CONFIG, "%s: section %s is already at line %d", where, section,
             t->section_line[first]);
    t->section_line[first] = line;
    return OK;
}

static enum status take_top(struct text_state *t, const struct yaml_entry *e, const char *where)
{
    const bool is_empty = !e->is_list && !e->quoted && !*e->item[0];

    if (strcmp(e->key, "extends") != 0) {
        if (is_empty && find_section(e->key) >= 0) return begin_section(t, e->key, e->line, where);
        if (find_section(e->key) >= 0)
            FAIL(E_CONFIG, "%s: %s is a section; its keys follow on indented lines", where, e->key);
        return unknown_section(where, e->key);
    }
    if (!t->may_extend) FAIL(E_CONFIG, "%s: extends works only in a file", where);
    if (t->extends_line)
        FAIL(E_CONFIG, "%s: extends is already at line %d; a file has one parent", where,
             t->extends_line);
    if (e->is_list || !*e->item[0] || strlen(e->item[0]) >= CONFIG_TEXT)
        FAIL(E_CONFIG, "%s: extends wants the path of one file", where);
    strcpy(t->extends, e->item[0]);
    t->extends_line = e->line;
    return OK;
}

static enum status take_entry(void *context, const struct yaml_entry *e)
{
    struct text_state *t = context;
    char where[WHERE];
    int i;

    snprintf(where, sizeof where, "%s:%d", t->name, e->line);
    if (!e->section) return take_top(t, e, where);
    if (!e->key) return begin_section(t, e->section, e->line, where);
    i = find_field(e->section, e->key);
    if (i < 0) return unknown_key(where, e->section, e->key);
    if (t->seen[i])
        FAIL(E_CONFIG, "%s: %s is already set at line %d", where, config_field(i)->name,
             t->seen[i]);
    t->seen[i] = e->line;
    TRY(config_field_set(t->c, i, e->item, e->n_items, e->is_list, e->quoted, where));
    t->c->origin[i] = (struct config_origin){ .line = e->line, .file = t->c->n_files - 1 };
    return OK;
}

static enum status add_file(struct config *c, const char *name)
{
    if (c->n_files == CONFIG_FILES)
        FAIL(E_CONFIG, "%s: more than %d files extend one another", name, CONFIG_FILES);
    snprintf(c->file[c->n_files], CONFIG_TEXT, "%s", name);
    c->n_files++;
    return OK;
}

static void set_name(struct config *c, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dot;

    snprintf(c->name, sizeof c->name, "%s", slash ? slash + 1 : path);
    dot = strrchr(c->name, '.');
    if (dot && dot != c->name) *dot = 0;
}

enum status config_parse(struct config *c, const char *text, int64_t n, const char *name)
{
    struct config draft = *c;
    struct text_state t = { .c = &draft, .name = name };

    TRY(add_file(&draft, name));
    TRY(yaml_read(text, n, name, take_entry, &t));
    set_name(&draft, name);
    *c = draft;
    return OK;
}

/* The files being read, from the youngest to its ancestors. */
struct lineage {
    const struct lineage *child;
    dev_t device;
    ino_t inode;
    int depth;
};

static enum status read_text(const char *path, struct lineage *me, char **text, int64_t *n)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    ssize_t got = 0;
    int problem = 0;
    char *p;

    if (fd < 0)
        FAIL(E_CONFIG, "%s: %s; name a configuration, such as configs/micro.yaml, by its path",
             path, strerror(errno));
    p = malloc(YAML_BYTES_MAX + 1);
    *n = 0;
    if (!p || fstat(fd, &info) != 0) problem = errno;
    while (!problem && *n <= YAML_BYTES_MAX) {
        got = read(fd, p + *n, (size_t)(YAML_BYTES_MAX + 1 - *n));
        if (got < 0 && errno != EINTR) problem = errno;
        if (got == 0) break;
        if (got > 0) *n += got;
    }
    close(fd);
    if (problem) {
        free(p);
        FAIL(E_CONFIG, "%s: %s", path, strerror(problem));
    }
    me->device = info.st_dev;
    me->inode = info.st_ino;
    *text = p;
    return OK;
}

static enum status load_file(struct config *c, const char *path, const struct lineage *child);

static enum status load_parent(struct config *c, const char *path, const struct text_state *t,
                               const struct lineage *me)
{
    const char *slash = strrchr(path, '/');
    const int folder = t->extends[0] == '/' || !slash ? 0 : (int)(slash + 1 - path);
    char parent[2 * CONFIG_TEXT];
    const int n = snprintf(parent, sizeof parent, "%.*s%s", folder, path, t->extends);

    if (n >= (int)sizeof parent)
        FAIL(E_CONFIG, "%s:%d: the path of its parent is too long", path, t->extends_line);
    return load_file(c, parent, me);
}

static bool is_empty(const struct text_state *t)
{
    bool said = t->extends_line != 0;

    for (int i = 0; i < CONFIG_N_FIELDS; i++) said |= t->seen[i] != 0;
    return !said;
}

static enum status apply_text(struct config *c, const char *path, const char *text, int64_t n,
                              const struct lineage *me)
{
    struct config scratch = *c;
    struct text_state first = { .c = &scratch, .name = path, .may_extend = true };
    struct text_state second = { .c = c, .name = path, .may_extend = true };

    /* read once to find the parent, whose values come first, and once more for good */
    TRY(yaml_read(text, n, path, take_entry, &first));
    if (is_empty(&first)) /* all defaults: a ViT-B, which is nobody's intention */
        FAIL(E_CONFIG,
             "%s sets nothing: name another configuration, such as configs/micro.yaml, or let it "
             "begin with extends: and one to start from",
             path);
    if (first.extends_line) TRY(load_parent(c, path, &first, me));
    TRY(add_file(c, path));
    return yaml_read(text, n, path, take_entry, &second);
}

static enum status load_file(struct config *c, const char *path, const struct lineage *child)
{
    struct lineage me = { .child = child, .depth = child ? child->depth + 1 : 1 };
    char *text = NULL;
    int64_t n = 0;
    enum status s = OK;

    if (me.depth > CONFIG_FILES)
        FAIL(E_CONFIG, "%s: more than %d files extend one another", path, CONFIG_FILES);
    TRY(read_text(path, &me, &text, &n));
    for (const struct lineage *l = child; l; l = l->child)
        if (l->device == me.device && l->inode == me.inode) {
            free(text);
            FAIL(E_CONFIG, "%s extends itself, by way of its parents", path);
        }
    s = apply_text(c, path, text, n, &me);
    free(text);
    return s;
}

/* ---- command line -----------------------------------------------------------------------------
 */

static enum status unknown_name(const char *name)
{
    struct nearest near = nearest_start(name);
    char hint[NEAREST_TEXT];

    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        if (strcmp(config_field(i)->key, name) == 0)
            FAIL(E_CONFIG, "command line: no field %s; did you mean %s?", name,
                 config_field(i)->name);
        nearest_offer(&near, config_field(i)->name);
    }
    FAIL(E_CONFIG, "command line: no field %s%s", name, nearest_text(&near, "", hint));
}

/* "[2, 5]" or "2,5" into items, which point into text. */
static enum status split_list(char *text, const char **item, int *n_items)
{
    char *p = text, *end = text + strlen(text), *save = NULL;

    *n_items = 0;
    if (*p == '[') {
        if (end[-1] != ']') FAIL(E_CONFIG, "command line: the list %s does not end in ]", text);
        end[-1] = 0;
        p++;
    }
    for (char *word = strtok_r(p, ", ", &save); word; word = strtok_r(NULL, ", ", &save)) {
        if (*n_items == YAML_LIST_MAX)
            FAIL(E_CONFIG, "command line: a list of more than %d items", YAML_LIST_MAX);
        item[(*n_items)++] = word;
    }
    return OK;
}

enum status config_override(struct config *c, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    const char *item[YAML_LIST_MAX];
    char name[CONFIG_TEXT], value[4 * CONFIG_TEXT];
    struct config draft = *c;
    int n_items = 1, i = 0;
    bool is_list;

    if (!equals || equals == assignment)
        FAIL(E_CONFIG, "command line: '%s' is not of the form section.key=value", assignment);
    if (equals - assignment >= CONFIG_TEXT || strlen(equals + 1) >= sizeof value)
        FAIL(E_CONFIG, "command line: an override of %zu bytes", strlen(assignment));
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    strcpy(value, equals + 1);
    while (i < CONFIG_N_FIELDS && strcmp(config_field(i)->name, name) != 0) i++;
    if (i == CONFIG_N_FIELDS) return unknown_name(name);
    is_list = config_field(i)->kind == CONFIG_KIND_LIST;
    item[0] = value;
    if (is_list) TRY(split_list(value, item, &n_items));
    TRY(config_field_set(&draft, i, item, n_items, is_list, false, "command line"));
    draft.origin[i] = (struct config_origin){ .line = CONFIG_COMMAND_LINE };
    *c = draft;
    return OK;
}

enum status config_load(struct config *c, const char *path, char *const *overrides, int n_overrides)
{
    struct config draft;

    config_defaults(&draft);
    TRY(load_file(&draft, path, NULL));
    set_name(&draft, path);
    for (int i = 0; i < n_overrides; i++) TRY(config_override(&draft, overrides[i]));
    TRY(config_check(&draft));
    *c = draft;
    return OK;
}

/* ---- output -----------------------------------------------------------------------------------
 */

/* A file name as it may stand in a comment. */
static void print_plain(FILE *f, const char *s)
{
    for (; *s; s++) fputc(*s >= 0x20 && *s < 0x7f ? *s : '?', f);
}

enum status config_dump(const struct config *c, FILE *f)
{
    const char *section = "";

    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        const struct config_origin o = c->origin[i];
        char value[CONFIG_VALUE];

        if (strcmp(section, config_field(i)->section) != 0)
            fprintf(f, "%s:\n", config_field(i)->section);
        section = config_field(i)->section;
        fprintf(f, "  %s: %s  # ", config_field(i)->key, config_field_value(c, i, value));
        if (o.line > 0) {
            print_plain(f, c->file[o.file]);
            fprintf(f, ":%d\n", o.line);
        } else {
            fprintf(f, "%s\n", o.line == CONFIG_COMMAND_LINE ? "command line" : "default");
        }
    }
    if (ferror(f)) FAIL(E_IO, "the configuration could not be written");
    return OK;
}

static bool changes_results(const struct config_field *field)
{
    static const char *const without[] = { "model.name",     "data.train",       "data.val",
                                           "data.n_threads", "data.ahead",       "train.steps",
                                           "run.folder",     "run.threads",      "run.budget_hours",
                                           "run.timeout_s",  "run.bucket_bytes", "run.share_gpu",
                                           "run.graph",      "run.nccl",         NULL };

    if (strcmp(field->section, "checkpoint") == 0 || strcmp(field->section, "eval") == 0)
        return false;
    for (int i = 0; without[i]; i++)
        if (strcmp(field->name, without[i]) == 0) return false;
    return true;
}

uint64_t config_hash(const struct config *c)
{
    uint64_t hash = 0;

    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        char value[CONFIG_VALUE], line[CONFIG_VALUE + CONFIG_TEXT];

        if (!changes_results(config_field(i))) continue;
        snprintf(line, sizeof line, "%s=%s\n", config_field(i)->name,
                 config_field_value(c, i, value));
        hash = XXH3_64bits_withSeed(line, strlen(line), hash);
    }
    return hash;
}

/* Whether field i changes results and differs; x and y: its values. */
static bool differs(const struct config *a, const struct config *b, int i, char x[CONFIG_VALUE],
                    char y[CONFIG_VALUE])
{
    return changes_results(config_field(i)) &&
           strcmp(config_field_value(a, i, x), config_field_value(b, i, y)) != 0;
}

const char *config_difference(const struct config *a, const struct config *b, char buf[CONFIG_TEXT])
{
    size_t used = 0;

    buf[0] = 0;
    for (int i = 0; i < CONFIG_N_FIELDS && used < CONFIG_TEXT; i++) {
        char x[CONFIG_VALUE], y[CONFIG_VALUE];

        if (!differs(a, b, i, x, y)) continue;
        used += (size_t)snprintf(buf + used, CONFIG_TEXT - used, "%s%s %s → %s", used ? ", " : "",
                                 config_field(i)->name, x, y);
    }
    return buf;
}

const char *config_settings(const struct config *a, const struct config *b,
                            char buf[CONFIG_SETTINGS])
{
    size_t used = 0;

    buf[0] = 0;
    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        char x[CONFIG_VALUE], y[CONFIG_VALUE];
        const char *quote;

        if (!differs(a, b, i, x, y)) continue;
        quote = config_field(i)->kind == CONFIG_KIND_LIST ? "'" : "";
        used += (size_t)snprintf(buf + used, CONFIG_SETTINGS - used, "%s%s%s=%s%s", used ? " " : "",
                                 quote, config_field(i)->name, x, quote);
        if (used >= CONFIG_SETTINGS) {
            buf[0] = 0;
            break;
        }
    }
    return buf;
}

void config_help(FILE *f)
{
    struct config c;
    const char *section = "";

    config_defaults(&c);
    for (int i = 0; i < CONFIG_N_FIELDS; i++) {
        const struct config_field *field = config_field(i);
        char value[CONFIG_VALUE], range[CONFIG_TEXT];

        if (strcmp(section, field->section) != 0)
            fprintf(f, "%s%s:\n", *section ? "\n" : "", field->section);
        section = field->section;
        fprintf(f, "  %-18s %s\n  %-18s default %s; %s\n", field->key, field->help, "",
                config_field_value(&c, i, value), config_field_range(i, range));
    }
}
