#include "trainer/safetensors.h"

#include "kernels/base/check.h"
#include "trainer/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_LOOK = 64 };

static const char META[] = "__metadata__";

struct safetensors {
    char *name; /* owned: the file in messages */
    json_t *header;
    struct safetensors_entry *entry; /* owned; by data offset */
    int64_t n;
    void *map; /* owned when not NULL */
    size_t map_bytes;
};

#define DTYPE_NAME(name, bytes)  [SAFETENSORS_##name] = #name,
#define DTYPE_BYTES(name, bytes) [SAFETENSORS_##name] = bytes,
static const char *const dtype_names[] = { SAFETENSORS_DTYPES(DTYPE_NAME) };
static const int64_t dtype_sizes[] = { SAFETENSORS_DTYPES(DTYPE_BYTES) };
#undef DTYPE_NAME
#undef DTYPE_BYTES

const char *safetensors_dtype_name(enum safetensors_dtype t)
{
    return t < SAFETENSORS_N_DTYPES ? dtype_names[t] : "?";
}

static int64_t dtype_bytes(enum safetensors_dtype t)
{
    return t < SAFETENSORS_N_DTYPES ? dtype_sizes[t] : 0;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static enum status read_dtype(const struct safetensors *st, const char *name, const json_t *j,
                              enum safetensors_dtype *dtype)
{
    const char *text = json_string_value(j);

    if (!text) FAIL(E_CORRUPT, "%s: tensor %.100s has no dtype", st->name, name);
    for (int t = 0; t < SAFETENSORS_N_DTYPES; t++)
        if (strcmp(dtype_names[t], text) == 0) {
            *dtype = (enum safetensors_dtype)t;
            return OK;
        }
    FAIL(E_CORRUPT, "%s: tensor %.100s is of type %.20s, which is not read here", st->name, name,
         text);
}

static enum status read_shape(const struct safetensors *st, const json_t *j,
                              struct safetensors_entry *e)
{
    const size_t n = json_array_size(j);

    if (!json_is_array(j) || n > SAFETENSORS_DIMS)
        FAIL(E_CORRUPT, "%s: tensor %.100s has no shape of at most %d dimensions", st->name,
             e->name, SAFETENSORS_DIMS);
    e->n_dims = (int)n;
    e->count = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(j, i);

        e->dim[i] = json_integer_value(d);
        if (!json_is_integer(d) || e->dim[i] < 0 ||
            __builtin_mul_overflow(e->count, e->dim[i], &e->count))
            FAIL(E_CORRUPT, "%s: tensor %.100s has an impossible shape", st->name, e->name);
    }
    if (__builtin_mul_overflow(e->count, dtype_sizes[e->dtype], &e->bytes))
        FAIL(E_CORRUPT, "%s: tensor %.100s has an impossible shape", st->name, e->name);
    return OK;
}

static enum status read_entry(const struct safetensors *st, const char *name, const json_t *j,
                              const char *data, int64_t data_bytes, struct safetensors_entry *e)
{
    const json_t *offsets = json_object_get(j, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    int64_t begin, end;

    *e = (struct safetensors_entry){ .name = name };
    if (!json_is_object(j) || json_object_size(j) != 3 || json_array_size(offsets) != 2 ||
        !json_is_integer(first) || !json_is_integer(last))
        FAIL(E_CORRUPT, "%s: tensor %.100s is not {dtype, shape, data_offsets}", st->name, name);
    TRY(read_dtype(st, name, json_object_get(j, "dtype"), &e->dtype));
    TRY(read_shape(st, json_object_get(j, "shape"), e));
    begin = json_integer_value(first);
    end = json_integer_value(last);
    if (begin < 0 || end < begin || end > data_bytes || end - begin != e->bytes)
        FAIL(E_CORRUPT,
             "%s: tensor %.100s claims bytes %lld to %lld of %lld, and its shape needs %lld",
             st->name, name, (long long)begin, (long long)end, (long long)data_bytes,
             (long long)e->bytes);
    e->data = data + begin;
    return OK;
}

static int by_place(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    const char *p = x->data, *q = y->data;

    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

static enum status check_contiguous(const struct safetensors *st, const char *data,
                                    int64_t data_bytes)
{
    const char *at = data;

    for (int64_t i = 0; i < st->n; i++) {
        const struct safetensors_entry *e = &st->entry[i];

        if ((const char *)e->data != at)
            FAIL(E_CORRUPT, "%s: tensor %.100s begins at byte %lld of the data, not at %lld",
                 st->name, e->name, (long long)((const char *)e->data - data),
                 (long long)(at - data));
        at += e->bytes;
    }
    if (at != data + data_bytes)
        FAIL(E_CORRUPT, "%s: %lld bytes after the last tensor belong to none", st->name,
             (long long)(data + data_bytes - at));
    return OK;
}

static enum status check_meta(const struct safetensors *st, json_t *meta)
{
    const char *key;
    json_t *value;

    if (!json_is_object(meta)) FAIL(E_CORRUPT, "%s: __metadata__ is not an object", st->name);
    json_object_foreach(meta, key, value) if (!json_is_string(value))
        FAIL(E_CORRUPT, "%s: __metadata__ %.100s is not a text", st->name, key);
    return OK;
}

static enum status read_header(struct safetensors *st, const char *data, int64_t data_bytes)
{
    const char *key;
    json_t *value;

    st->entry = calloc(json_object_size(st->header) + 1, sizeof *st->entry);
    if (!st->entry)
        FAIL(E_MEMORY, "%s: a table of %zu tensors", st->name, json_object_size(st->header));
    json_object_foreach(st->header, key, value)
    {
        if (strcmp(key, META) == 0) {
            TRY(check_meta(st, value));
        } else {
            TRY(read_entry(st, key, value, data, data_bytes, &st->entry[st->n]));
            st->n++;
        }
    }
    qsort(st->entry, (size_t)st->n, sizeof *st->entry, by_place);
    return check_contiguous(st, data, data_bytes);
}

/* The form has zeros behind its first four bytes, in the length of a header; text has none anywhere. */
static bool is_text(const char *bytes, int64_t n)
{
    for (int64_t i = 0; i < n && i < TEXT_LOOK; i++) {
        const unsigned char c = (unsigned char)bytes[i];

        if (c == 0x7F || (c < 0x20 && c != '\n' && c != '\r' && c != '\t')) return false;
    }
    return n > 4;
}

/* What was never such a file is not a damaged one. */
static enum status check_form(const struct safetensors *st, const char *bytes, int64_t n)
{
    static const struct {
        const char *name, *begins;
    } other[] = { { "a zip, as PyTorch saves weights", "PK\003\004" },
                  { "an HDF5 file", "\211HDF" },
                  { "gzip", "\037\213" } };

    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        const size_t k = strlen(other[i].begins);

        if (n >= (int64_t)k && memcmp(bytes, other[i].begins, k) == 0)
            FAIL(E_USAGE, "%s is %s: weights in a file are read from a .safetensors", st->name,
                 other[i].name);
    }
    if (is_text(bytes, n))
        FAIL(E_USAGE,
             "%s is a text, not weights: name a .safetensors, and if this should be one, fetch it "
             "again",
             st->name);
    return OK;
}

static enum status parse(struct safetensors *st, const char *bytes, int64_t n)
{
    json_error_t error;
    uint64_t length = 0;
    int64_t header;

    if (n < 9 || bytes[8] != '{') TRY(check_form(st, bytes, n));
    if (n < 8) FAIL(E_CORRUPT, "%s: %lld bytes are no safetensors file", st->name, (long long)n);
    for (int i = 7; i >= 0; i--) length = length << 8 | (unsigned char)bytes[i];
    if (length > SAFETENSORS_HEADER_MAX)
        FAIL(E_CORRUPT, "%s: its header claims %llu bytes; no safetensors file", st->name,
             (unsigned long long)length);
    header = (int64_t)length;
    if (header > n - 8)
        FAIL(E_CORRUPT, "%s is cut off inside its header, at byte %lld of %lld; fetch it again",
             st->name, (long long)n, (long long)header + 8);
    if (!header || bytes[8] != '{')
        FAIL(E_CORRUPT, "%s: its header is no JSON object; no safetensors file", st->name);
    st->header = json_loadb(bytes + 8, (size_t)header, JSON_REJECT_DUPLICATES, &error);
    if (!st->header)
        FAIL(E_CORRUPT, "%s: header at byte %d: %s", st->name, error.position, error.text);
    return read_header(st, bytes + 8 + header, n - 8 - header);
}

static enum status create(struct safetensors **st, const char *name)
{
    struct safetensors *draft = calloc(1, sizeof *draft);

    if (draft) draft->name = strdup(name);
    if (!draft || !draft->name) {
        free(draft);
        FAIL(E_MEMORY, "a table of tensors");
    }
    *st = draft;
    return OK;
}

enum status safetensors_parse(struct safetensors **st, const void *bytes, int64_t n,
                              const char *name)
{
    struct safetensors *draft;
    enum status s;

    TRY(create(&draft, name));
    s = parse(draft, bytes, n);
    if (s != OK)
        safetensors_close(draft);
    else
        *st = draft;
    return s;
}

static enum status map_file(struct safetensors *st, const char *path)
{
    const int fd =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe: no wait for its writer */
    struct stat info;
    void *map = MAP_FAILED;

    if (fd < 0)
        FAIL(errno == ENOENT || errno == ENOTDIR ? E_MISSING : E_IO,
             "%s: %s; name a file of weights, a .safetensors", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        FAIL(E_USAGE, "%s is no regular file: name a file of weights, a .safetensors", path);
    }
    if (info.st_size > 0) map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (info.st_size == 0) FAIL(E_CORRUPT, "%s is empty; fetch it again", path);
    if (map == MAP_FAILED) FAIL(E_IO, "mapping %s: %s", path, strerror(errno));
    st->map = map;
    st->map_bytes = (size_t)info.st_size;
    return OK;
}

enum status safetensors_open(struct safetensors **st, const char *path)
{
    struct safetensors *draft;
    enum status s;

    TRY(create(&draft, path));
    s = map_file(draft, path);
    if (s == OK) s = parse(draft, draft->map, (int64_t)draft->map_bytes);
    if (s != OK)
        safetensors_close(draft);
    else
        *st = draft;
    return s;
}

void safetensors_close(struct safetensors *st)
{
    if (!st) return;
    json_decref(st->header);
    free(st->entry);
    if (st->map) munmap(st->map, st->map_bytes);
    free(st->name);
    free(st);
}

/* ---- looking up -------------------------------------------------------------------------------
 */

int64_t safetensors_count(const struct safetensors *st)
{
    return st->n;
}

const struct safetensors_entry *safetensors_at(const struct safetensors *st, int64_t i)
{
    ASSERT(i >= 0 && i < st->n);
    return &st->entry[i];
}

static const struct safetensors_entry *look_up(const struct safetensors *st, const char *name)
{
    for (int64_t i = 0; i < st->n; i++)
        if (strcmp(st->entry[i].name, name) == 0) return &st->entry[i];
    return NULL;
}

bool safetensors_has(const struct safetensors *st, const char *name)
{
    return look_up(st, name) != NULL;
}

enum status safetensors_find(const struct safetensors *st, const char *name,
                             struct safetensors_entry *e)
{
    const struct safetensors_entry *found = look_up(st, name);

    if (!found) FAIL(E_CORRUPT, "%s holds no tensor %s", st->name, name);
    *e = *found;
    return OK;
}

const char *safetensors_meta(const struct safetensors *st, const char *key)
{
    return json_string_value(json_object_get(json_object_get(st->header, META), key));
}

static float from_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* IEEE half to single, exact. */
static float from_half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31,
                   fraction = h & 1023;

    if (exponent == 31) return from_bits(sign | 0x7F800000u | fraction << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
}

enum status safetensors_to_f32(const struct safetensors_entry *e, float *out)
{
    const char *p = e->data;

    switch (e->dtype) {
    case SAFETENSORS_F32:
        if (e->bytes) memcpy(out, p, (size_t)e->bytes);
        return OK;
    case SAFETENSORS_F64:
        for (int64_t i = 0; i < e->count; i++) {
            double x;

            memcpy(&x, p + 8 * i, 8);
            out[i] = (float)x;
        }
        return OK;
    case SAFETENSORS_F16:
    case SAFETENSORS_BF16:
        for (int64_t i = 0; i < e->count; i++) {
            uint16_t h;

            memcpy(&h, p + 2 * i, 2);
            out[i] = e->dtype == SAFETENSORS_F16 ? from_half(h) : from_bits((uint32_t)h << 16);
        }
        return OK;
    case SAFETENSORS_I64:
    case SAFETENSORS_I32:
    case SAFETENSORS_U8:
    case SAFETENSORS_N_DTYPES:
        break;
    }
    FAIL(E_CORRUPT, "tensor %s holds %s, where floats are wanted", e->name,
         safetensors_dtype_name(e->dtype));
}

/* ---- writing ----------------------------------------------------------------------------------
 */

/* The n entries by falling element size, then as given. */
static enum status order_entries(const struct safetensors_entry *e, int64_t n,
                                 struct safetensors_entry **ordered)
{
    struct safetensors_entry *list = calloc((size_t)n + 1, sizeof *list);
    int64_t at = 0;

    if (!list) FAIL(E_MEMORY, "a table of %lld tensors", (long long)n);
    for (int64_t size = 8; size; size /= 2)
        for (int64_t i = 0; i < n; i++) {
            if (dtype_bytes(e[i].dtype) != size) continue;
            list[at] = e[i];
            list[at].count = 1;
            for (int d = 0; d < e[i].n_dims; d++) list[at].count *= e[i].dim[d];
            list[at].bytes = list[at].count * size;
            at++;
        }
    ASSERT(at == n);
    *ordered = list;
    return OK;
}

static int put(json_t *object, const char *key, json_t *value)
{
    if (value && !json_object_get(object, key)) return json_object_set_new(object, key, value);
    json_decref(value);
    return -1;
}

static int put_entry(json_t *header, const struct safetensors_entry *e, int64_t begin)
{
    json_t *one = json_object(), *shape = json_array();
    int bad = 0;

    for (int d = 0; d < e->n_dims; d++)
        bad |= json_array_append_new(shape, json_integer(e->dim[d]));
    bad |= strcmp(e->name, META) == 0;
    bad |= put(one, "dtype", json_string(safetensors_dtype_name(e->dtype)));
    bad |= put(one, "shape", shape);
    bad |= put(one, "data_offsets",
               json_pack("[II]", (json_int_t)begin, (json_int_t)(begin + e->bytes)));
    return bad | put(header, e->name, one);
}

/* Length word, JSON and padding to 8 bytes; *text is the caller's to free. */
static enum status build_header(const struct safetensors_entry *e, int64_t n,
                                const struct safetensors_text *meta, int n_meta, char **text,
                                int64_t *bytes)
{
    json_t *header = json_object(), *m = json_object();
    int64_t begin = 0;
    size_t length, padded;
    int bad = 0;

    for (int i = 0; i < n_meta; i++) bad |= put(m, meta[i].key, json_string(meta[i].value));
    if (n_meta)
        bad |= put(header, META, m);
    else
        json_decref(m);
    for (int64_t i = 0; i < n; i++) {
        bad |= put_entry(header, &e[i], begin);
        begin += e[i].bytes;
    }
    length = bad ? 0 : json_dumpb(header, NULL, 0, JSON_COMPACT);
    padded = (length + 7) / 8 * 8;
    *text = length && length <= SAFETENSORS_HEADER_MAX ? malloc(8 + padded) : NULL;
    if (*text) {
        for (int i = 0; i < 8; i++) (*text)[i] = (char)((uint64_t)padded >> 8 * i);
        memset(*text + 8, ' ', padded);
        json_dumpb(header, *text + 8, length, JSON_COMPACT);
    }
    json_decref(header);
    if (bad) FAIL(E_CORRUPT, "a tensor's name or metadata appears twice or is not UTF-8");
    if (!*text) FAIL(E_MEMORY, "a safetensors header of %zu bytes", length);
    *bytes = (int64_t)(8 + padded);
    return OK;
}

static enum status write_all(const char *path, const char *header, int64_t header_bytes,
                             const struct safetensors_entry *e, int64_t n)
{
    struct durable_file f;
    enum status s;

    TRY(durable_file_create(&f, path));
    s = durable_file_write(&f, header, header_bytes);
    for (int64_t i = 0; i < n && s == OK; i++) s = durable_file_write(&f, e[i].data, e[i].bytes);
    if (s == OK) return durable_file_commit(&f);
    durable_file_abandon(&f);
    return s;
}

enum status safetensors_write(const char *path, const struct safetensors_entry *e, int64_t n,
                              const struct safetensors_text *meta, int n_meta)
{
    struct safetensors_entry *ordered = NULL;
    char *header = NULL;
    int64_t header_bytes = 0;
    enum status s;

    TRY(order_entries(e, n, &ordered));
    s = build_header(ordered, n, meta, n_meta, &header, &header_bytes);
    if (s == OK) s = write_all(path, header, header_bytes, ordered, n);
    free(header);
    free(ordered);
    return s;
}
