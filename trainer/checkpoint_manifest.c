#include "trainer/checkpoint_manifest.h"

#include "cluster/plan.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char FORMAT[] = "samforge-checkpoint";
enum { VERSION = 1, TENSORS_MAX = 100000, TAIL = 64 };

/* The end of the text: the hash of the n bytes before it. */
static int make_tail(const char *text, size_t n, char tail[TAIL])
{
    const XXH128_hash_t h = XXH3_128bits(text, n);

    return snprintf(tail, TAIL, ",\n \"xxh3_128\": \"%016" PRIx64 "%016" PRIx64 "\"\n}\n", h.high64,
                    h.low64);
}

int64_t checkpoint_tensor_count(const struct checkpoint_tensor *t)
{
    int64_t count = 1;

    for (int i = 0; i < t->n_dims; i++) count *= t->dim[i];
    return count;
}

void checkpoint_manifest_destroy(struct checkpoint_manifest *m)
{
    if (!m) return;
    free(m->file);
    free(m->tensor);
    free(m->config);
    *m = (struct checkpoint_manifest){ 0 };
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* A reader that remembers the first thing that was wrong and reads zeros from then on. */
struct reader {
    const char *wrong;
};

static int64_t get_int(struct reader *r, const json_t *object, const char *key, int64_t max)
{
    const json_t *j = json_object_get(object, key);
    const int64_t v = json_integer_value(j);

    if (json_is_integer(j) && v >= 0 && v <= max) return v;
    if (!r->wrong) r->wrong = key;
    return 0;
}

static void get_text(struct reader *r, const json_t *object, const char *key, char *to, size_t room)
{
    const char *s = json_string_value(json_object_get(object, key));

    if (s && strlen(s) < room)
        strcpy(to, s);
    else if (!r->wrong)
        r->wrong = key;
}

static uint64_t get_hex(struct reader *r, const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    if (s && strlen(s) == 16 && strspn(s, "0123456789abcdef") == 16) return strtoull(s, NULL, 16);
    if (!r->wrong) r->wrong = key;
    return 0;
}

static const json_t *get_array(struct reader *r, const json_t *object, const char *key, size_t max)
{
    const json_t *j = json_object_get(object, key);

    if (json_is_array(j) && json_array_size(j) <= max) return j;
    if (!r->wrong) r->wrong = key;
    return NULL;
}

static void read_tensor(struct reader *r, const json_t *j, int64_t n, struct checkpoint_tensor *t)
{
    const json_t *dims = get_array(r, j, "dims", CHECKPOINT_DIMS);
    int64_t count = 1;

    get_text(r, j, "name", t->name, sizeof t->name);
    t->n_dims = (int)json_array_size(dims);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *d = json_array_get(dims, (size_t)i);

        t->dim[i] = json_integer_value(d);
        if (!json_is_integer(d) || t->dim[i] < 0 ||
            __builtin_mul_overflow(count, t->dim[i], &count) || count > n) {
            r->wrong = "dims";
            t->n_dims = 0;
            return;
        }
    }
    t->offset = get_int(r, j, "offset", n - count);
}

static void read_file(struct reader *r, const json_t *j, const struct checkpoint_manifest *m,
                      int rank, struct checkpoint_file *f)
{
    const struct plan_range part = plan_part(m->n, m->n_ranks, rank);
    const int64_t bytes = (part.end - part.begin) * (int64_t)sizeof(float);
    const json_t *slices = get_array(r, j, "slices", (size_t)m->n_arrays);
    char name[CHECKPOINT_NAME] = "", expected[CHECKPOINT_NAME];

    /* the name follows from the rank: a manifest cannot lead out of its folder */
    get_text(r, j, "name", name, sizeof name);
    snprintf(expected, sizeof expected, "rank-%04d.h5", rank);
    if (strcmp(name, expected) != 0 && !r->wrong) r->wrong = "name";
    f->bytes = get_int(r, j, "bytes", INT64_MAX);
    get_text(r, j, "xxh3_128", f->hash, sizeof f->hash);
    if (json_array_size(slices) != (size_t)m->n_arrays && !r->wrong) r->wrong = "slices";
    if (f->bytes < bytes && !r->wrong) r->wrong = "bytes";
    for (int a = 0; a < m->n_arrays && !r->wrong; a++) {
        const json_t *s = json_array_get(slices, (size_t)a);

        f->slice[a].offset = get_int(r, s, "offset", f->bytes - bytes);
        get_text(r, s, "xxh3_128", f->slice[a].hash, sizeof f->slice[a].hash);
    }
}

static void read_counters(struct reader *r, const json_t *j, struct checkpoint_counters *c)
{
#define COUNTER_READ(key) c->key = get_int(r, j, #key, INT64_MAX);
    CHECKPOINT_COUNTERS(COUNTER_READ)
#undef COUNTER_READ
}

static void read_names(struct reader *r, const json_t *root, struct checkpoint_manifest *m)
{
    const json_t *names = get_array(r, root, "arrays", CHECKPOINT_ARRAYS);

    m->n_arrays = (int)json_array_size(names);
    if (!m->n_arrays && !r->wrong) r->wrong = "arrays";
    for (int a = 0; a < m->n_arrays; a++) {
        const char *s = json_string_value(json_array_get(names, (size_t)a));

        if (s && *s && strlen(s) < CHECKPOINT_NAME)
            strcpy(m->array_name[a], s);
        else if (!r->wrong)
            r->wrong = "arrays";
    }
}

static enum status read_tables(struct reader *r, const json_t *root, struct checkpoint_manifest *m,
                               const char *name)
{
    const json_t *files = get_array(r, root, "files", CHECKPOINT_RANKS_MAX);
    const json_t *tensors = get_array(r, root, "tensors", TENSORS_MAX);
    const char *config = json_string_value(json_object_get(root, "config"));

    if (!config && !r->wrong) r->wrong = "config";
    if ((int)json_array_size(files) != m->n_ranks && !r->wrong) r->wrong = "files";
    if (r->wrong) return OK;
    m->n_tensors = (int64_t)json_array_size(tensors);
    m->file = calloc((size_t)m->n_ranks, sizeof *m->file);
    m->tensor = calloc((size_t)m->n_tensors + 1, sizeof *m->tensor);
    m->config = strdup(config);
    if (!m->file || !m->tensor || !m->config) FAIL(E_MEMORY, "%s: its tables", name);
    for (int i = 0; i < m->n_ranks && !r->wrong; i++)
        read_file(r, json_array_get(files, (size_t)i), m, i, &m->file[i]);
    for (int64_t i = 0; i < m->n_tensors && !r->wrong; i++)
        read_tensor(r, json_array_get(tensors, (size_t)i), m->n, &m->tensor[i]);
    return OK;
}

static enum status read_root(const json_t *root, struct checkpoint_manifest *m, const char *name)
{
    struct reader r = { 0 };
    char format[CHECKPOINT_NAME] = "";
    enum status s;
    int64_t version;

    get_text(&r, root, "format", format, sizeof format);
    version = get_int(&r, root, "version", INT64_MAX);
    if (strcmp(format, FORMAT) != 0) FAIL(E_CORRUPT, "%s is no manifest of a checkpoint", name);
    if (version != VERSION)
        FAIL(E_CORRUPT, "%s is of version %lld; this program reads version %d", name,
             (long long)version, VERSION);
    get_text(&r, root, "run", m->run, sizeof m->run);
    get_text(&r, root, "written", m->written, sizeof m->written);
    m->sequence = get_int(&r, root, "sequence", INT64_MAX - 1);
    m->n = get_int(&r, root, "n", INT64_MAX / 64);
    m->n_ranks = (int)get_int(&r, root, "n_ranks", CHECKPOINT_RANKS_MAX);
    if (!m->n_ranks && !r.wrong) r.wrong = "n_ranks";
    m->config_hash = get_hex(&r, root, "config_hash");
    m->data_hash = get_hex(&r, root, "data_hash");
    read_counters(&r, json_object_get(root, "counters"), &m->counters);
    read_names(&r, root, m);
    s = read_tables(&r, root, m, name);
    if (s != OK) return s;
    if (r.wrong) FAIL(E_CORRUPT, "%s: '%s' is missing or makes no sense", name, r.wrong);
    return OK;
}

static enum status check_tail(const char *text, int64_t n, const char *name)
{
    char tail[TAIL];
    const int64_t size = make_tail(text, 0, tail);

    if (n <= size || n > CHECKPOINT_MANIFEST_MAX)
        FAIL(E_CORRUPT, "%s: %lld bytes are no manifest", name, (long long)n);
    make_tail(text, (size_t)(n - size), tail);
    if (memcmp(text + n - size, tail, (size_t)size) != 0)
        FAIL(E_CORRUPT, "%s does not match its own hash: cut off or damaged", name);
    return OK;
}

enum status checkpoint_manifest_parse(struct checkpoint_manifest *m, const char *text, int64_t n,
                                      const char *name)
{
    struct checkpoint_manifest draft = { 0 };
    json_error_t error;
    json_t *root;
    enum status s;

    TRY(check_tail(text, n, name));
    root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    if (!root) FAIL(E_CORRUPT, "%s:%d: %s", name, error.line, error.text);
    s = read_root(root, &draft, name);
    json_decref(root);
    if (s != OK)
        checkpoint_manifest_destroy(&draft);
    else
        *m = draft;
    return s;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static json_t *print_files(const struct checkpoint_manifest *m)
{
    json_t *files = json_array();

    for (int i = 0; i < m->n_ranks; i++) {
        const struct checkpoint_file *f = &m->file[i];
        const struct plan_range part = plan_part(m->n, m->n_ranks, i);
        json_t *slices = json_array();
        char name[32];

        snprintf(name, sizeof name, "rank-%04d.h5", i);
        for (int a = 0; a < m->n_arrays; a++)
            json_array_append_new(slices,
                                  json_pack("{sI ss}", "offset", (json_int_t)f->slice[a].offset,
                                            "xxh3_128", f->slice[a].hash));
        json_array_append_new(files, json_pack("{ss sI ss sI sI so}", "name", name, "bytes",
                                               (json_int_t)f->bytes, "xxh3_128", f->hash, "begin",
                                               (json_int_t)part.begin, "end", (json_int_t)part.end,
                                               "slices", slices));
    }
    return files;
}

static json_t *print_tensors(const struct checkpoint_manifest *m)
{
    json_t *tensors = json_array();

    for (int64_t i = 0; i < m->n_tensors; i++) {
        const struct checkpoint_tensor *t = &m->tensor[i];
        json_t *dims = json_array();

        for (int d = 0; d < t->n_dims; d++) json_array_append_new(dims, json_integer(t->dim[d]));
        json_array_append_new(tensors, json_pack("{ss so sI}", "name", t->name, "dims", dims,
                                                 "offset", (json_int_t)t->offset));
    }
    return tensors;
}

static json_t *print_counters(const struct checkpoint_counters *c)
{
    json_t *j = json_object();

#define COUNTER_PRINT(key) json_object_set_new(j, #key, json_integer(c->key));
    CHECKPOINT_COUNTERS(COUNTER_PRINT)
#undef COUNTER_PRINT
    return j;
}

static json_t *print_root(const struct checkpoint_manifest *m)
{
    char config_hash[17], data_hash[17];
    json_t *names = json_array();

    snprintf(config_hash, sizeof config_hash, "%016" PRIx64, m->config_hash);
    snprintf(data_hash, sizeof data_hash, "%016" PRIx64, m->data_hash);
    for (int a = 0; a < m->n_arrays; a++)
        json_array_append_new(names, json_string(m->array_name[a]));
    return json_pack("{ss si ss sI ss si sI ss ss so so so so ss}", "format", FORMAT, "version",
                     VERSION, "run", m->run, "sequence", (json_int_t)m->sequence, "written",
                     m->written, "n_ranks", m->n_ranks, "n", (json_int_t)m->n, "config_hash",
                     config_hash, "data_hash", data_hash, "counters", print_counters(&m->counters),
                     "arrays", names, "files", print_files(m), "tensors", print_tensors(m),
                     "config", m->config);
}

enum status checkpoint_manifest_print(const struct checkpoint_manifest *m, char **text, int64_t *n)
{
    json_t *root = print_root(m);
    char *body = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    const size_t length = body ? strlen(body) : 0;
    char *whole = length > 2 ? malloc(length + TAIL) : NULL;

    json_decref(root);
    if (!whole) {
        free(body);
        FAIL(E_MEMORY, "a manifest of %d files and %lld tensors, or a text that is not UTF-8",
             m->n_ranks, (long long)m->n_tensors);
    }
    /* the body ends in "\n}", which the tail brings again */
    memcpy(whole, body, length - 2);
    *n = (int64_t)length - 2 + make_tail(whole, length - 2, whole + length - 2);
    *text = whole;
    free(body);
    return OK;
}
