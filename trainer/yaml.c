#include "trainer/yaml.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* Where in the grammar document → section → key → list the reader is. */
enum place { BEFORE, TOP, TOP_VALUE, SECTION, SECTION_VALUE, LIST, AFTER };

struct reader {
    const char *name; /* not owned */
    yaml_sink_fn *sink;
    void *context;
    enum place place, list_back; /* list_back: where a list returns to */
    char *section, *key;         /* owned */
    char *item[YAML_LIST_MAX];   /* owned */
    int n_items, line;           /* line: of the key */
};

static void drop_items(struct reader *r)
{
    for (int i = 0; i < r->n_items; i++) free(r->item[i]);
    r->n_items = 0;
}

static void drop(char **p)
{
    free(*p);
    *p = NULL;
}

/* Copies a scalar; a NUL inside would hide what follows it. */
static enum status copy_scalar(struct reader *r, const yaml_event_t *e, char **copy)
{
    const char *value = (const char *)e->data.scalar.value;
    const size_t n = e->data.scalar.length;

    if (memchr(value, 0, n))
        FAIL(E_CONFIG, "%s:%zu: a value holds a NUL byte", r->name, e->start_mark.line + 1);
    *copy = strdup(value);
    if (!*copy) FAIL(E_MEMORY, "%s: a value of %zu bytes", r->name, n);
    return OK;
}

static enum status emit(struct reader *r, bool is_list, bool quoted)
{
    struct yaml_entry e = { .section = r->section,
                            .key = r->key,
                            .n_items = r->n_items,
                            .is_list = is_list,
                            .quoted = quoted,
                            .line = r->line };

    for (int i = 0; i < r->n_items; i++) e.item[i] = r->item[i];
    TRY(r->sink(r->context, &e));
    drop_items(r);
    drop(&r->key);
    return OK;
}

static enum status take_scalar(struct reader *r, const yaml_event_t *e)
{
    const int line = (int)e->start_mark.line + 1;
    const bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

    if (e->data.scalar.anchor || e->data.scalar.tag)
        FAIL(E_CONFIG, "%s:%d: anchors and tags are not used here", r->name, line);
    switch (r->place) {
    case BEFORE:
        if (e->data.scalar.length || !plain) break;
        r->place = AFTER; /* an empty document */
        return OK;
    case TOP:
    case SECTION:
        TRY(copy_scalar(r, e, &r->key));
        r->line = line;
        r->place = r->place == TOP ? TOP_VALUE : SECTION_VALUE;
        return OK;
    case TOP_VALUE:
    case SECTION_VALUE:
        TRY(copy_scalar(r, e, &r->item[0]));
        r->n_items = 1;
        r->place = r->place == TOP_VALUE ? TOP : SECTION;
        return emit(r, false, !plain);
    case LIST:
        if (r->n_items == YAML_LIST_MAX)
            FAIL(E_CONFIG, "%s:%d: a list of more than %d items", r->name, line, YAML_LIST_MAX);
        TRY(copy_scalar(r, e, &r->item[r->n_items]));
        r->n_items++;
        return OK;
    case AFTER:
        break;
    }
    FAIL(E_CONFIG, "%s:%d: expected 'section:' lines with indented 'key: value' lines", r->name,
         line);
}

static enum status begin_mapping(struct reader *r, const yaml_event_t *e)
{
    const int line = (int)e->start_mark.line + 1;

    if (e->data.mapping_start.anchor || e->data.mapping_start.tag)
        FAIL(E_CONFIG, "%s:%d: anchors and tags are not used here", r->name, line);
    if (r->place == BEFORE) {
        r->place = TOP;
        return OK;
    }
    if (r->place != TOP_VALUE)
        FAIL(E_CONFIG, "%s:%d: nested too deep; sections hold keys, and keys hold values or lists",
             r->name, line);
    r->section = r->key;
    r->key = NULL;
    r->place = SECTION;
    return emit(r, false, false);
}

static enum status begin_list(struct reader *r, const yaml_event_t *e)
{
    const int line = (int)e->start_mark.line + 1;

    if (e->data.sequence_start.anchor || e->data.sequence_start.tag)
        FAIL(E_CONFIG, "%s:%d: anchors and tags are not used here", r->name, line);
    if (r->place != TOP_VALUE && r->place != SECTION_VALUE)
        FAIL(E_CONFIG, "%s:%d: a list is not expected here", r->name, line);
    r->list_back = r->place == TOP_VALUE ? TOP : SECTION;
    r->place = LIST;
    return OK;
}

static enum status take(struct reader *r, const yaml_event_t *e)
{
    const int line = (int)e->start_mark.line + 1;

    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (r->place != BEFORE)
            FAIL(E_CONFIG, "%s:%d: a second document begins; a file holds one", r->name, line);
        if (e->data.document_start.version_directive ||
            e->data.document_start.tag_directives.start !=
                e->data.document_start.tag_directives.end)
            FAIL(E_CONFIG, "%s:%d: YAML directives are not used here", r->name, line);
        return OK;
    case YAML_MAPPING_START_EVENT:
        return begin_mapping(r, e);
    case YAML_MAPPING_END_EVENT:
        if (r->place == SECTION) drop(&r->section);
        r->place = r->place == SECTION ? TOP : AFTER;
        return OK;
    case YAML_SEQUENCE_START_EVENT:
        return begin_list(r, e);
    case YAML_SEQUENCE_END_EVENT:
        r->place = r->list_back;
        return emit(r, true, false);
    case YAML_SCALAR_EVENT:
        return take_scalar(r, e);
    case YAML_ALIAS_EVENT:
        FAIL(E_CONFIG, "%s:%d: aliases are not used here", r->name, line);
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        break;
    }
    return OK;
}

static enum status read_events(struct reader *r, yaml_parser_t *parser)
{
    yaml_event_type_t type = YAML_NO_EVENT;

    /* every event consumes input or closes what was opened, so n bytes bound the loop */
    while (type != YAML_STREAM_END_EVENT) {
        yaml_event_t e;
        enum status s;

        if (!yaml_parser_parse(parser, &e))
            FAIL(E_CONFIG, "%s:%zu: not valid YAML: %s", r->name, parser->problem_mark.line + 1,
                 parser->problem ? parser->problem : "out of memory");
        type = e.type;
        s = take(r, &e);
        yaml_event_delete(&e);
        if (s != OK) return s;
    }
    return OK;
}

enum status yaml_read(const char *text, int64_t n, const char *name, yaml_sink_fn *sink,
                      void *context)
{
    struct reader r = { .name = name, .sink = sink, .context = context };
    yaml_parser_t parser;
    enum status s;

    if (n > YAML_BYTES_MAX)
        FAIL(E_CONFIG, "%s is larger than %d bytes: not a configuration", name, YAML_BYTES_MAX);
    if (!yaml_parser_initialize(&parser)) FAIL(E_MEMORY, "%s: a YAML parser", name);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, (size_t)n);
    s = read_events(&r, &parser);
    yaml_parser_delete(&parser);
    drop_items(&r);
    drop(&r.key);
    drop(&r.section);
    return s;
}
