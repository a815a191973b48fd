#include "data_pipeline/tar.h"

#include "data_pipeline/tar_input.h"
#include "kernels/base/check.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 512,
    LONG_NAME_MAX = 1 << 12, /* bytes of a GNU long name */
    PAX_MAX = 1 << 16,       /* bytes of a pax header */
    EXTENSIONS_MAX = 1 << 12 /* blocks of an old GNU sparse map */
};

const struct tar_limits tar_limits_default = { .member_bytes = (int64_t)64 << 20,
                                               .n_members = 1 << 20,
                                               .total_bytes = (int64_t)1 << 37 };

struct tar {
    struct tar_input input; /* owned */
    struct tar_limits limits;
    int64_t at;          /* in the unpacked stream */
    int64_t member_left; /* of the current member: its data and padding not yet passed */
    int64_t member_pad;
    int64_t n_members;
    bool readable; /* the current member may be read */
    char why[TAR_WHY];
};

/* One header, decoded. */
struct header {
    char type;
    int64_t size;
    bool extended;  /* old GNU sparse: more blocks follow */
    char name[258]; /* prefix, slash, name */
};

/* What the extension headers before a member say of it. */
struct extension {
    bool has_name, has_size, sparse, long_name;
    int64_t size;
    char name[LONG_NAME_MAX + 1];
};

static enum status damage(struct tar *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static enum status damage(struct tar *t, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t->why, sizeof t->why, fmt, ap);
    va_end(ap);
    return E_CORRUPT;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static enum status pull(struct tar *t, uint8_t *bytes, int64_t n, int64_t *got)
{
    *got = 0;
    while (*got < n) {
        const int64_t part = n - *got < TAR_INPUT_PULL ? n - *got : TAR_INPUT_PULL;
        int64_t some = 0;

        const enum status pulled = tar_input_pull(&t->input, bytes + *got, part, &some);

        if (pulled == E_CORRUPT) return damage(t, "%s", t->input.why);
        TRY(pulled);
        *got += some;
        t->at += some;
        if (some < part) break;
    }
    if (t->at > t->limits.total_bytes)
        return damage(t, "archive unpacks to more than %lld bytes",
                      (long long)t->limits.total_bytes);
    return OK;
}

static enum status pull_all(struct tar *t, uint8_t *bytes, int64_t n, const char *what)
{
    int64_t got;

    TRY(pull(t, bytes, n, &got));
    if (got < n)
        return damage(t, "truncated at byte %lld, inside %s; fetch the file again",
                      (long long)t->at, what);
    return OK;
}

/* Passes n bytes over: seeks where it can, reads where it must. */
static enum status pass(struct tar *t, int64_t n)
{
    uint8_t scratch[8192];
    int64_t skipped;

    TRY(tar_input_skip(&t->input, n, &skipped));
    t->at += skipped;
    n -= skipped;
    while (n > 0) {
        const int64_t part = n < (int64_t)sizeof scratch ? n : (int64_t)sizeof scratch;

        TRY(pull_all(t, scratch, part, "a member"));
        n -= part;
    }
    return OK;
}

/* ---- headers --------------------------------------------------------------------------------- */

/* Octal digits between optional spaces, ended by NUL or space; or GNU's base 256. -1: neither. */
static int64_t number(const uint8_t *p, int n)
{
    int64_t v = 0;
    int i = 0;

    if (p[0] & 0x80) {
        if (p[0] != 0x80) return -1; /* negative, or beyond 2^88 */
        for (i = 1; i < n; i++) {
            if (v >> 54) return -1;
            v = v << 8 | p[i];
        }
        return v;
    }
    while (i < n && p[i] == ' ') i++;
    if (i == n || p[i] == 0) return 0;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) v = v << 3 | (p[i] - '0');
    if (i < n && p[i] != 0 && p[i] != ' ') return -1;
    return v;
}

static bool checksum_ok(const uint8_t *b)
{
    const int64_t said = number(b + 148, 8);
    int64_t sum = 0;

    for (int i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? ' ' : b[i];
    return said == sum;
}

/* Bytes of a fixed field into name, which has room for n + 1. */
static void take_field(char *name, const uint8_t *p, int n)
{
    memcpy(name, p, (size_t)n);
    name[n] = 0;
}

static enum status decode_header(struct tar *t, const uint8_t *b, struct header *h)
{
    const long long offset = (long long)(t->at - BLOCK);
    const bool ustar = memcmp(b + 257, "ustar\0", 6) == 0;
    char base[101], prefix[156] = "";

    if (!checksum_ok(b))
        return damage(t, "header at byte %lld has a wrong checksum; fetch the file again", offset);
    h->type = (char)b[156];
    h->size = number(b + 124, 12);
    if (h->size < 0) return damage(t, "header at byte %lld has an invalid size", offset);
    h->extended = h->type == 'S' && b[482] != 0;
    take_field(base, b, 100);
    if (ustar) take_field(prefix, b + 345, 155);
    snprintf(h->name, sizeof h->name, "%s%s%s", prefix, *prefix ? "/" : "", base);
    return OK;
}

/* One "LENGTH KEY=VALUE\n" at p; its length, or 0 when malformed. */
static int64_t pax_record(const char *p, int64_t n, const char **key, const char **value,
                          const char **end)
{
    int64_t length = 0, i = 0;

    while (i < n && i < 8 && p[i] >= '0' && p[i] <= '9') length = length * 10 + (p[i++] - '0');
    if (i == 0 || i >= n || p[i] != ' ' || length > n || length < i + 4) return 0;
    if (p[length - 1] != '\n') return 0;
    *key = p + i + 1;
    *value = memchr(*key, '=', (size_t)(length - i - 1));
    if (!*value) return 0;
    (*value)++;
    *end = p + length - 1;
    return length;
}

static bool pax_key_is(const char *key, const char *value, const char *name)
{
    const size_t n = strlen(name);

    return (size_t)(value - 1 - key) == n && memcmp(key, name, n) == 0;
}

static bool pax_size(const char *p, const char *end, int64_t *size)
{
    int64_t v = 0;

    if (p == end || end - p > 18) return false;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9') return false;
        v = v * 10 + (*p - '0');
    }
    *size = v;
    return true;
}

static enum status read_pax(struct tar *t, const struct header *h, struct extension *e)
{
    const long long offset = (long long)(t->at - BLOCK);
    char *text;
    enum status s;

    if (h->size > PAX_MAX)
        return damage(t, "pax header at byte %lld is larger than %d bytes", offset, PAX_MAX);
    text = malloc((size_t)h->size + 1);
    if (!text) FAIL(E_MEMORY, "tar: no memory for a pax header");
    s = pull_all(t, (uint8_t *)text, h->size, "a pax header");
    for (int64_t at = 0; s == OK && at < h->size;) {
        const char *key, *value, *end;
        const int64_t length = pax_record(text + at, h->size - at, &key, &value, &end);
        const bool path = length && pax_key_is(key, value, "path");
        const bool size = length && pax_key_is(key, value, "size");

        at += length;
        if (!length) {
            s = damage(t, "pax header at byte %lld is malformed", offset);
        } else if ((path || size) && h->type == 'g') {
            s = damage(t, "global pax header at byte %lld sets a path or a size", offset);
        } else if (path) {
            e->has_name = true;
            e->long_name = end - value > LONG_NAME_MAX;
            snprintf(e->name, sizeof e->name, "%.*s", (int)(end - value), value);
            if (memchr(value, 0, (size_t)(end - value))) e->long_name = true;
        } else if (size) {
            e->has_size = true;
            if (!pax_size(value, end, &e->size))
                s = damage(t, "pax header at byte %lld has an invalid size", offset);
        } else if (value - key > 11 && memcmp(key, "GNU.sparse.", 11) == 0) {
            e->sparse = true;
        }
    }
    free(text);
    return s == OK ? pass(t, (BLOCK - h->size % BLOCK) % BLOCK) : s;
}

static enum status read_long_name(struct tar *t, const struct header *h, struct extension *e)
{
    if (h->size > LONG_NAME_MAX)
        return damage(t, "long name at byte %lld is longer than %d bytes",
                      (long long)(t->at - BLOCK), LONG_NAME_MAX);
    TRY(pull_all(t, (uint8_t *)e->name, h->size, "a long name"));
    e->name[h->size] = 0;
    e->has_name = true;
    return pass(t, (BLOCK - h->size % BLOCK) % BLOCK);
}

/* ---- members --------------------------------------------------------------------------------- */

static const char *refused_type(char type)
{
    switch (type) {
    case '0':
    case 0:
    case '7':
        return NULL;
    case '1':
        return "a hard link";
    case '2':
        return "a symbolic link";
    case '3':
    case '4':
        return "a device";
    case '6':
        return "a named pipe";
    case 'S':
        return "a sparse file";
    case 'M':
    case 'V':
        return "part of a multi-volume archive";
    default:
        return "of an unknown type";
    }
}

static const char *refused_name(const char *name)
{
    if (name[0] == 0) return "without a name";
    if (name[0] == '/') return "named by an absolute path";
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strncmp(name, "../", 3) == 0 ||
        strstr(name, "/../") || (strlen(name) > 3 && strcmp(name + strlen(name) - 3, "/..") == 0))
        return "named by a path with ..";
    if (strchr(name, '/') || strchr(name, '\\'))
        return "inside a folder; make the tar of the files alone";
    if (strlen(name) >= TAR_NAME) return "named by more than 255 bytes";
    for (const char *p = name; *p; p++)
        if (*p < ' ' || *p > '~') return "named with unprintable characters";
    return NULL;
}

/* The name without "./" into m, unprintable bytes as '?'. */
static void set_name(struct tar_member *m, const char *name)
{
    snprintf(m->name, sizeof m->name, "%.*s", TAR_NAME - 1, name);
    for (char *p = m->name; *p; p++)
        if (*p < ' ' || *p > '~') *p = '?';
}

static enum status set_member(struct tar *t, const struct header *h, const struct extension *e,
                              int64_t offset, struct tar_member *m)
{
    const char *name = e->has_name ? e->name : h->name;

    while (name[0] == '.' && name[1] == '/') name += 2;
    if (++t->n_members > t->limits.n_members)
        return damage(t, "more than %lld members", (long long)t->limits.n_members);
    m->bytes = e->has_size ? e->size : h->size;
    m->offset = offset;
    m->refused = refused_type(h->type);
    if (!m->refused && e->sparse) m->refused = "a sparse file";
    if (!m->refused && e->long_name) m->refused = "named by more than 255 bytes";
    if (!m->refused) m->refused = refused_name(name);
    if (!m->refused && m->bytes > t->limits.member_bytes) m->refused = "larger than allowed";
    m->kind = m->refused ? TAR_REFUSED : TAR_FILE;
    set_name(m, name);

    /* Links and the like say sizes they do not have data for. */
    t->member_left = h->type >= '1' && h->type <= '6' ? 0 : m->bytes;
    if (t->member_left > t->limits.total_bytes)
        return damage(t, "member %s at byte %lld claims %lld bytes", m->name, (long long)offset,
                      (long long)t->member_left);
    t->member_pad = (BLOCK - t->member_left % BLOCK) % BLOCK;
    t->readable = m->kind == TAR_FILE;
    return OK;
}

static bool is_zero(const uint8_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (b[i]) return false;
    return true;
}

/* Behind the first zero block: another one, then nothing but zeros. Reads to the very end, so that
 * gzip's own checksum is verified. */
static enum status read_end(struct tar *t)
{
    uint8_t block[BLOCK];
    int64_t got, n_blocks = 1;

    do {
        const long long offset = (long long)t->at;

        TRY(pull(t, block, BLOCK, &got));
        if (!is_zero(block, got))
            return damage(t,
                          "data behind the end mark at byte %lld: archives joined together are not "
                          "read; split them",
                          offset);
        if (got == BLOCK) n_blocks++;
    } while (got == BLOCK);
    if (n_blocks < 2)
        return damage(t, "truncated at byte %lld, inside the end mark; fetch the file again",
                      (long long)t->at);
    return OK;
}

static enum status next_header(struct tar *t, struct header *h, bool *ended)
{
    uint8_t block[BLOCK];
    int64_t got;

    TRY(pull(t, block, BLOCK, &got));
    if (got == 0)
        return damage(t, "truncated at byte %lld: the end mark is missing; fetch the file again",
                      (long long)t->at);
    if (got < BLOCK)
        return damage(t, "truncated at byte %lld, inside a header; fetch the file again",
                      (long long)t->at);
    *ended = is_zero(block, BLOCK);
    return *ended ? read_end(t) : decode_header(t, block, h);
}

/* The map of an old GNU sparse file lies between its header and its data. */
static enum status pass_sparse_map(struct tar *t)
{
    uint8_t block[BLOCK];

    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        TRY(pull_all(t, block, BLOCK, "a sparse map"));
        if (!block[504]) return OK;
    }
    return damage(t, "sparse map at byte %lld is too long", (long long)t->at);
}

enum status tar_next(struct tar *t, struct tar_member *m)
{
    struct extension e;
    int n_extensions = 0;

    ASSERT(t->why[0] == 0);
    TRY(pass(t, t->member_left + t->member_pad));
    t->member_left = t->member_pad = 0;
    t->readable = false;
    memset(m, 0, sizeof *m);
    memset(&e, 0, sizeof e);
    for (;;) {
        const int64_t offset = t->at;
        struct header h;
        bool ended = false;

        TRY(next_header(t, &h, &ended));
        if (ended) {
            if (n_extensions)
                return damage(t, "an extension header without a member, before byte %lld",
                              (long long)offset);
            m->kind = TAR_END;
            return OK;
        }
        if (h.type == 'x' || h.type == 'g') {
            TRY(read_pax(t, &h, &e));
        } else if (h.type == 'L') {
            TRY(read_long_name(t, &h, &e));
        } else if (h.type == 'K') {
            TRY(pass(t, h.size + (BLOCK - h.size % BLOCK) % BLOCK));
        } else if (h.type == '5') { /* a folder holds nothing itself */
            memset(&e, 0, sizeof e);
        } else {
            if (h.extended) TRY(pass_sparse_map(t));
            return set_member(t, &h, &e, offset, m);
        }
        n_extensions = h.type == '5' || h.type == 'g' ? 0 : n_extensions + 1;
        if (++t->n_members > t->limits.n_members)
            return damage(t, "more than %lld members", (long long)t->limits.n_members);
    }
}

enum status tar_read(struct tar *t, uint8_t *bytes)
{
    ASSERT(t->readable);
    t->readable = false;
    TRY(pull_all(t, bytes, t->member_left, "a member"));
    t->member_left = 0;
    return OK;
}

const char *tar_why(const struct tar *t)
{
    return t->why;
}

int64_t tar_bytes_in(const struct tar *t)
{
    return t->input.bytes_in;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Opens path or, when that is NULL, the memory. */
static enum status open_any(struct tar **t, const char *path, const uint8_t *bytes, int64_t n,
                            const struct tar_limits *limits)
{
    struct tar *const fresh = calloc(1, sizeof *fresh);
    enum status s;

    if (!fresh) FAIL(E_MEMORY, "tar: no memory");
    fresh->limits = *limits;
    s = path ? tar_input_open(&fresh->input, path) : tar_input_open_memory(&fresh->input, bytes, n);
    if (s != OK)
        tar_close(fresh);
    else
        *t = fresh;
    return s;
}

enum status tar_open(struct tar **t, const char *path, const struct tar_limits *limits)
{
    return open_any(t, path, NULL, 0, limits);
}

enum status tar_open_memory(struct tar **t, const uint8_t *bytes, int64_t n,
                            const struct tar_limits *limits)
{
    return open_any(t, NULL, bytes, n, limits);
}

void tar_close(struct tar *t)
{
    if (!t) return;
    tar_input_close(&t->input);
    free(t);
}
